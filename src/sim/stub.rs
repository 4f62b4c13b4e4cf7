//! Runs, in place of what a board has loaded, a program of this host: in seconds what QEMU takes a minute for, where it is the lab
//! that is tried and not the image.
//!
//! The program gets a directory with what was loaded (`kernel`, `initramfs`, `cmdline`) and the board's `address`, in the
//! network namespace of the board's card. Its standard streams are the UART. It is the lab file's author's, never of what
//! was served: whoever may upload a kernel must not become root here by it.

use super::SimError;
use super::qemu::{Running, put};
use super::rom::Loaded;
use super::rom::files::Role;
use crate::support::command::Command;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::path::Path;
use std::process::Stdio;

/// What a stub is made of.
pub(super) struct Stub<'a> {
    pub(super) program: &'a Path,
    /// That of the board's card.
    pub(super) namespace: &'a str,
    /// Where its files are put.
    pub(super) dir: &'a Path,
    pub(super) loaded: &'a Loaded,
    /// More arguments of the kernel.
    pub(super) more: &'a str,
}

/// All processes of a stub. They end when this is dropped.
pub(super) struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // They may have ended by themselves.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

impl Stub<'_> {
    /// Starts it, with nothing left of what ran before.
    pub(super) fn start(&self) -> Result<(Running, Group), SimError> {
        let kernel = self.loaded.file(Role::Kernel).ok_or(SimError::NoKernel)?;
        match std::fs::remove_dir_all(self.dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(SimError::File { path: self.dir.to_owned(), source });
            }
            _ => {}
        }
        put(self.dir, "kernel", &kernel.bytes)?;
        if let Some(initramfs) = self.loaded.file(Role::Initramfs) {
            put(self.dir, "initramfs", &initramfs.bytes)?;
        }
        let cmdline = self.loaded.file(Role::Cmdline).map(|file| String::from_utf8_lossy(&file.bytes));
        let cmdline = format!("{} {}\n", cmdline.unwrap_or_default().trim(), self.more);
        put(self.dir, "cmdline", cmdline.as_bytes())?;
        put(self.dir, "address", format!("{}\n", self.loaded.network.address).as_bytes())?;
        let command = Command::new("ip").args(["netns", "exec", self.namespace]).own_group();
        let command = command.arg(self.program).arg(self.dir);
        let mut started = command.build();
        started.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = started.spawn().map_err(|error| SimError::Tool(command.start_error(error)))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let group = pid.map(Group).ok_or(SimError::NoKernel)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => {
                Ok((Running { child, input, output, program: self.program.to_owned() }, group))
            }
            _ => Err(SimError::NoKernel),
        }
    }
}
