//! Files that only their owner may read.

use super::IssuerError;
use crate::support::atomic_file;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Makes `dir`, or takes the rights of others away from it.
pub(super) fn private_dir(dir: &Path) -> Result<(), IssuerError> {
    let failed = |source| IssuerError::File { action: "create", path: dir.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}

pub(super) fn read_private<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, IssuerError> {
    let failed = |source| IssuerError::File { action: "read", path: path.to_owned(), source };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IssuerError::Exposed { path: path.to_owned(), mode });
    }
    let content = std::fs::read(path).map_err(failed)?;
    // serde_json's own words could quote a seed.
    serde_json::from_slice(&content).map(Some).map_err(|error| IssuerError::Damaged {
        path: path.to_owned(),
        problem: format!("not what was written there (line {}, column {})", error.line(), error.column()),
    })
}

pub(super) fn write_private<T: Serialize>(path: &Path, value: &T) -> Result<(), IssuerError> {
    let failed = |source| IssuerError::File { action: "write", path: path.to_owned(), source };
    let content = serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?;
    atomic_file::write(path, &content, 0o600).map_err(failed)
}
