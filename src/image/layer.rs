//! The device layer: the agent, its unit, and all our settings. It lies over the base root, which
//! holds nothing but Debian's packages, so a change of any of this costs seconds.

use super::containers;
use super::error::{At, ImageError};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
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

/// Writes the layer's files into the empty directory `tree`. The process must have the usual umask, 022.
pub(super) fn write(tree: &Path, arch: &str, agent: &[u8], busybox: &[u8]) -> Result<(), ImageError> {
    for (path, content) in FILES {
        file(tree, path, 0o644, content)?;
    }
    file(tree, "etc/systemd/system/pilab-agent.service", 0o644, AGENT_UNIT)?;
    let lease = include_bytes!("../../firmware/initramfs/lease");
    file(tree, "usr/lib/pilab/lease", 0o755, lease)?;
    file(tree, AGENT, 0o755, agent)?;
    let masked = MASKED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let masked = masked.map(|unit| (format!("etc/systemd/{unit}"), "/dev/null"));
    for (path, target) in LINKS.iter().map(|(path, target)| ((*path).to_owned(), *target)).chain(masked) {
        let path = tree.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        symlink(target, &path).at("create", &path)?;
    }
    containers::write_store(tree, arch, busybox)
}

fn file(tree: &Path, path: &str, mode: u32, content: &[u8]) -> Result<(), ImageError> {
    let path = tree.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    fs::write(&path, content).at("write", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).at("change the mode of", &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_things_want_the_same_path() {
        let tree = tempfile::tempdir().unwrap();
        write(tree.path(), "arm64", b"agent", b"busybox").unwrap();
        let agent = tree.path().join(AGENT);
        assert_eq!(fs::metadata(&agent).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(agent).unwrap(), b"agent");
    }
}
