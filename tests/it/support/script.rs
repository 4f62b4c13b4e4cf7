//! A program that a test writes: a switch, or what a DHCP client calls.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes `text` where it can be run.
pub fn write(path: impl AsRef<Path>, text: &str) {
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
