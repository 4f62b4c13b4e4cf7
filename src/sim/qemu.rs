//! The machine that runs what a boot loader has loaded: QEMU's `virt` or `raspi3b`, with exactly those bytes; or with
//! firmware, which gets its own.

use super::SimError;
use super::net::Names;
use super::rom::Loaded;
use super::rom::files::Role;
use crate::model::simulation::UefiBoot;
use crate::support::command::Command;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// The program.
pub(super) const PROGRAM: &str = "qemu-system-aarch64";
/// UEFI for it: as Debian and Ubuntu have it, and as Arch has.
pub(super) const UEFI: [&str; 2] =
    ["/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", "/usr/share/edk2/aarch64/QEMU_EFI.fd"];
/// The one UART of `virt`. What a Pi's is called is written in its kernel's arguments.
const UART: &str = "ttyAMA0";
/// The longest that QEMU's own words are kept, in bytes.
const MAX_WORDS: u64 = 4096;

/// What a machine is made of.
pub(super) struct Machine<'a> {
    /// The address of its card, with colons.
    pub(super) mac: &'a str,
    pub(super) names: &'a Names,
    pub(super) number: usize,
    pub(super) memory_mib: u32,
    /// Where its files are put.
    pub(super) dir: &'a Path,
    pub(super) runs: &'a Runs,
}

/// What runs on it first.
pub(super) enum Runs {
    /// What was loaded, and more arguments of the kernel.
    Loaded(Box<Loaded>, &'static str),
    /// The same on a machine that has a 3B's chip.
    Pi3(Box<Loaded>, &'static str),
    /// UEFI, and by what it boots.
    Uefi(PathBuf, UefiBoot),
}

/// A machine that runs. It ends when this is dropped.
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) input: ChildStdin,
    pub(super) output: ChildStdout,
    /// What runs.
    pub(super) program: PathBuf,
}

/// The kernel's arguments, with the console where this machine has one.
fn arguments(cmdline: &str, more: &str) -> String {
    let words = cmdline.split_ascii_whitespace().map(|word| match word.strip_prefix("console=") {
        Some(console) => {
            let rest = console.split_once(',').map_or(String::new(), |(_, rest)| format!(",{rest}"));
            format!("console={UART}{rest}")
        }
        None => word.to_owned(),
    });
    words.chain(more.split_ascii_whitespace().map(str::to_owned)).collect::<Vec<_>>().join(" ")
}

impl Machine<'_> {
    /// The command. A restart ends it: the board's loader then begins anew.
    fn command(&self) -> Command {
        let tap = format!("tap,id=net0,ifname={},script=no,downscript=no", Names::tap(self.number));
        let command = Command::new("ip").args(["netns", "exec", &self.names.rack(), PROGRAM]).own_group();
        let command = command.args(["-nodefaults", "-display", "none", "-no-reboot", "-monitor", "none"]);
        let command = command.args(["-netdev", &tap]);
        match self.runs {
            // Its memory is what a 3B has. The console is the second UART, the mini one.
            Runs::Pi3(..) => {
                let card = format!("usb-net,netdev=net0,mac={}", self.mac);
                let command = command.args(["-machine", "raspi3b", "-device", &card]);
                command.args(["-serial", "null", "-serial", "stdio"])
            }
            Runs::Loaded(..) | Runs::Uefi(..) => {
                let card = format!("virtio-net-pci,netdev=net0,mac={},romfile=", self.mac);
                let memory = format!("{}M", self.memory_mib);
                let command = command.args(["-machine", "virt,gic-version=2", "-cpu", "cortex-a72"]);
                let command = command.args(["-smp", "2", "-m", &memory, "-serial", "stdio"]);
                command.args(["-device", &card, "-device", "virtio-rng-pci"])
            }
        }
    }

    /// With what runs first.
    fn with_payload(&self, command: Command) -> Result<Command, SimError> {
        match self.runs {
            Runs::Loaded(loaded, more) => {
                self.with_loaded(command, loaded, |cmdline| arguments(cmdline, more))
            }
            Runs::Pi3(loaded, more) => {
                let device_tree =
                    self.put("device-tree", loaded, Role::DeviceTree)?.ok_or(SimError::NoKernel)?;
                let command = command.arg("-dtb").arg(device_tree);
                self.with_loaded(command, loaded, |cmdline| format!("{} {more}", cmdline.trim()))
            }
            Runs::Uefi(image, by) => {
                let command = command.arg("-bios").arg(image);
                // It would try PXE for more than a minute before it tries HTTP.
                Ok(match by {
                    UefiBoot::Pxe => command,
                    UefiBoot::Http => command.args([
                        "-fw_cfg",
                        "name=opt/org.tianocore/IPv4PXESupport,string=n",
                        "-fw_cfg",
                        "name=opt/org.tianocore/IPv6PXESupport,string=n",
                    ]),
                })
            }
        }
    }

    fn with_loaded(
        &self,
        command: Command,
        loaded: &Loaded,
        arguments: impl FnOnce(&str) -> String,
    ) -> Result<Command, SimError> {
        let kernel = self.put("kernel", loaded, Role::Kernel)?.ok_or(SimError::NoKernel)?;
        let mut command = command.arg("-kernel").arg(kernel);
        if let Some(initramfs) = self.put("initramfs", loaded, Role::Initramfs)? {
            command = command.arg("-initrd").arg(initramfs);
        }
        let cmdline = loaded.file(Role::Cmdline).map(|file| String::from_utf8_lossy(&file.bytes));
        Ok(command.args(["-append", &arguments(&cmdline.unwrap_or_default())]))
    }

    /// Starts it.
    pub(super) fn start(&self) -> Result<Running, SimError> {
        let command = self.with_payload(self.command())?;
        let started =
            command.build().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| SimError::Tool(command.start_error(error)))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Running { child, input, output, program: PROGRAM.into() }),
            _ => Err(SimError::NoKernel),
        }
    }

    fn put(&self, name: &str, loaded: &Loaded, role: Role) -> Result<Option<PathBuf>, SimError> {
        loaded.file(role).map(|file| put(self.dir, name, &file.bytes)).transpose()
    }
}

/// Writes a file that was loaded, for its owner alone.
pub(super) fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, SimError> {
    let path = dir.join(name);
    let written = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).and_then(|()| {
        let mut to = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
        std::io::Write::write_all(&mut to, bytes)
    });
    written.map_err(|source| SimError::File { path: path.clone(), source })?;
    Ok(path)
}

/// What a machine said of itself before it ended.
pub(super) async fn last_words(child: &mut Child) -> String {
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // It has ended: there is no more than this.
        let _ = limited(stderr).read_to_end(&mut words).await;
    }
    String::from_utf8_lossy(&words).trim().to_owned()
}

fn limited(stream: impl AsyncRead + Unpin) -> impl AsyncRead + Unpin {
    stream.take(MAX_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_console_of_the_arguments_is_another() {
        let table = [
            (
                "console=ttyS1,115200 pilab.ticket=a=b panic=5\n",
                "",
                "console=ttyAMA0,115200 pilab.ticket=a=b panic=5",
            ),
            ("console=ttyAMA10", "rdinit=/x", "console=ttyAMA0 rdinit=/x"),
            ("", "", ""),
        ];
        for (line, more, expected) in table {
            assert_eq!(arguments(line, more), expected);
        }
    }
}
