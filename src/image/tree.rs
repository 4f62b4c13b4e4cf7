//! Files of an image before they are packed. Their modes are what we say: were the umask of whoever calls us
//! in them, the same content would be another image, and one that only root can read.

use super::error::{At, ImageError};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Makes a directory, and those that it is in, for all to read.
pub(super) fn directory(path: &Path) -> Result<(), ImageError> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), directory)?;
    fs::create_dir(path).at("create", path)?;
    mode(path, 0o755)
}

/// Writes a file, and makes the directories that it is in.
pub(super) fn file(path: &Path, content: &[u8], bits: u32) -> Result<(), ImageError> {
    path.parent().map_or(Ok(()), directory)?;
    fs::write(path, content).at("write", path)?;
    mode(path, bits)
}

/// Sets a mode.
pub(super) fn mode(path: &Path, bits: u32) -> Result<(), ImageError> {
    fs::set_permissions(path, Permissions::from_mode(bits)).at("change the mode of", path)
}
