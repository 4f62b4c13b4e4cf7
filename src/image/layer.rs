//! The device layer: the agent, its unit, and all our settings. It lies over the base root, which
//! holds nothing but Debian's packages, so a change of any of this costs seconds.

use super::containers;
use super::error::{At, ImageError};
use super::tree::{directory, file};
use std::os::unix::fs::symlink;
use std::path::Path;

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../firmware/layer/", $path)))),*]
    };
}

/// Our files, by path below the root.
const FILES: &[(&str, &[u8])] = files![
    "etc/containers/containers.conf",
    "etc/containers/storage.conf",
    "etc/ssh/sshd_config",
    "etc/systemd/journald.conf.d/pilab.conf",
    "etc/systemd/system.conf.d/pilab.conf",
    "etc/systemd/system/pilab-agent.service.d/lab.conf",
    "etc/systemd/system/pilab-console.service",
    "etc/systemd/system/pilab-lease.service",
    "etc/systemd/system/pilab-ssh.socket",
    "etc/systemd/system/pilab-ssh@.service",
    "etc/systemd/system/pilab-wake.path",
    "etc/systemd/system/pilab-wake.service",
    "etc/systemd/system/pilab-warm.target",
    "etc/systemd/system/pilab.target",
    "usr/lib/pilab/wake",
];

/// The agent's unit: the same that is installed by hand on a device outside a lab.
const AGENT_UNIT: &[u8] = include_bytes!("../../systemd/pilab-agent.service");

/// Links: path below the root, and where it points.
const LINKS: &[(&str, &str)] = &[("etc/systemd/system/default.target", "pilab.target")];

/// Units and generators that a device does without, one a line.
const MASKED: &str = include_str!("../../firmware/masked");

/// Where the agent lies on a device.
const AGENT: &str = "usr/lib/pilab/pilab-agent";

/// Writes the layer's files into the empty directory `tree`.
pub(super) fn write(tree: &Path, arch: &str, agent: &[u8], busybox: &[u8]) -> Result<(), ImageError> {
    for (path, content) in FILES {
        file(&tree.join(path), content, 0o644)?;
    }
    file(&tree.join("etc/systemd/system/pilab-agent.service"), AGENT_UNIT, 0o644)?;
    let lease = include_bytes!("../../firmware/initramfs/lease");
    file(&tree.join("usr/lib/pilab/lease"), lease, 0o755)?;
    file(&tree.join(AGENT), agent, 0o755)?;
    let masked = MASKED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let masked = masked.map(|unit| (format!("etc/systemd/{unit}"), "/dev/null"));
    for (path, target) in LINKS.iter().map(|(path, target)| ((*path).to_owned(), *target)).chain(masked) {
        let path = tree.join(path);
        if let Some(parent) = path.parent() {
            directory(parent)?;
        }
        symlink(target, &path).at("create", &path)?;
    }
    containers::write_store(tree, arch, busybox)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::command::Command;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// In the child: where to write a layer. The child is this test binary, run for one test.
    const TREE: &str = "PILAB_TEST_LAYER_TREE";

    /// Not a test: what the test below runs with another umask, which is the whole process's.
    #[test]
    fn child_that_writes_a_layer() {
        let Some(tree) = std::env::var_os(TREE) else { return };
        directory(Path::new(&tree)).unwrap();
        write(Path::new(&tree), "arm64", b"agent", b"busybox").unwrap();
    }

    fn modes(tree: &Path, found: &mut Vec<(String, u32)>) {
        let meta = fs::symlink_metadata(tree).unwrap();
        found.push((tree.to_string_lossy().into_owned(), meta.permissions().mode() & 0o7777));
        if meta.is_dir() {
            fs::read_dir(tree).unwrap().for_each(|entry| modes(&entry.unwrap().path(), found));
        }
    }

    #[tokio::test]
    async fn the_umask_of_the_caller_is_not_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let me = std::env::current_exe().unwrap();
        let child = Command::new("sh")
            .args(["-c", "umask 077; exec \"$0\" --exact image::layer::tests::child_that_writes_a_layer"])
            .arg(me)
            .env(TREE, tree.to_string_lossy());
        child.output().await.unwrap();
        let mut found = Vec::new();
        modes(&tree, &mut found);
        assert!(found.len() > 50, "{found:?}");
        for (path, mode) in found {
            assert!([0o644, 0o755, 0o777, 0o1777].contains(&mode), "{path}: {mode:o}");
        }
    }

    #[test]
    fn no_two_things_want_the_same_path() {
        let tree = tempfile::tempdir().unwrap();
        write(tree.path(), "arm64", b"agent", b"busybox").unwrap();
        let agent = tree.path().join(AGENT);
        assert_eq!(fs::metadata(&agent).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(agent).unwrap(), b"agent");
    }
}
