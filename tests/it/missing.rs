//! A tool that is not there, through the program itself: it is named, with what to install.
//!
//! The tool is hidden in a mount namespace of its own, where an overlay lays a whiteout over it
//! (Documentation/filesystems/overlayfs.rst of Linux): nothing else on the machine notices.

use crate::agent::lab::{installed, skip};
use pilab::support::command::Command;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// No call here gets as far as starting anything slow.
const PATIENCE: Duration = Duration::from_secs(60);
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

fn place_of(tool: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|dir| Path::new(dir).join(tool)).find(|path| path.exists())
}

/// Exit code and standard error of `pilab ARGS` where `tool` is not there; none when it has no place that is
/// known.
async fn without(dir: &TempDir, tool: &str, args: &[&str]) -> Option<(Option<i32>, String)> {
    let place = place_of(tool)?;
    let cover = dir.path().join("cover");
    std::fs::create_dir(&cover).unwrap();
    let whiteout = cover.join(tool);
    Command::new("mknod").arg(&whiteout).args(["c", "0", "0"]).output().await.unwrap();
    let below = place.parent().unwrap();
    let script =
        "mount -t overlay overlay -o \"lowerdir=$1:$2\" \"$2\" && test ! -e \"$3\" && shift 3 && exec \"$@\"";
    let command = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&cover)
        .arg(below)
        .arg(&place)
        .arg(env!("CARGO_BIN_EXE_pilab"))
        .args(args.iter().copied())
        .env("PILAB_STATE_DIR", dir.path().join("state").to_str().unwrap())
        .env("PILAB_IMAGE_DIR", dir.path().join("images").to_str().unwrap());
    let output = tokio::time::timeout(PATIENCE, command.build().output()).await.expect("pilab did not end");
    let output = output.unwrap();
    let left = std::fs::read_dir(dir.path().join("state/instances")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "an instance is left");
    Some((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[tokio::test]
async fn each_missing_tool_is_named_with_what_to_install() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return skip("vm", "only root may hide a tool in a mount namespace");
    }
    let agent = std::env::current_exe().unwrap();
    let build = ["image", "build", "--agent", agent.to_str().unwrap()];
    let table: [(&str, &[&str], &str); 3] = [
        ("nats-server", &["run", "ping", "--on", "container"], "install the package nats-server"),
        ("podman", &["run", "ping", "--on", "container"], "lab/setup"),
        ("mmdebstrap", &build, "Debian package mmdebstrap"),
    ];
    for (tool, args, words) in table {
        if !installed(tool, "podman") {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let (code, stderr) = without(&dir, tool, args).await.expect("a tool that is installed has a place");
        assert_eq!(code, Some(4), "{tool}: {stderr}");
        let named = stderr.contains(&format!("{tool} is not installed")) && stderr.contains("hint:");
        assert!(named && stderr.contains(words), "{tool}: {stderr}");
    }
}

/// What a libvirt without QEMU's program answers is answered by its test driver too.
#[tokio::test]
async fn an_emulator_that_libvirt_does_not_know_is_named() {
    if !cfg!(feature = "vm") || !installed("libvirtd", "vm") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let command = Command::new(env!("CARGO_BIN_EXE_pilab"))
        .args(["run", "ping"])
        .env("LIBVIRT_DEFAULT_URI", "test:///default")
        .env("PILAB_STATE_DIR", dir.path().join("state").to_str().unwrap())
        .env("PILAB_IMAGE_DIR", images.to_str().unwrap());
    let output =
        tokio::time::timeout(PATIENCE, command.build().output()).await.expect("it did not end").unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("qemu-system-aarch64 is not installed"), "{stderr}");
    assert!(stderr.contains("hint: run lab/setup"), "{stderr}");
    assert!(!images.exists(), "nothing slow was begun");
}
