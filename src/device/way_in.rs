//! What opens a device in its boot attempt, in a file for as long as it does: a coordinator that is started anew while the
//! device is up finds its way in there. Secret: only its owner may read it.

use crate::model::boot::BootAttempt;
use crate::support::atomic_file;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// More than two keys and an address ever are.
const MAX_BYTES: u64 = 64 * 1024;

/// What opens a device.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WayIn {
    version: u32,
    /// In this attempt, and no other.
    pub(super) attempt: BootAttempt,
    pub(super) address: IpAddr,
    /// OpenSSH public key format.
    pub(super) host_key: String,
    /// OpenSSH private key format.
    pub(super) client_key: String,
}

impl WayIn {
    pub(super) fn new(attempt: BootAttempt, address: IpAddr, host_key: String, client_key: String) -> Self {
        Self { version: VERSION, attempt, address, host_key, client_key }
    }
}

/// Where it is kept; nowhere, for a device that is not to be entered after this process.
pub(super) struct Keeper(pub(super) Option<PathBuf>);

impl Keeper {
    pub(super) async fn keep(&self, way: WayIn) {
        let Some(path) = self.0.clone() else { return };
        let shown = path.display().to_string();
        let kept = tokio::task::spawn_blocking(move || write(&path, &way)).await;
        if let Err(error) = kept.map_err(io::Error::other).and_then(|kept| kept) {
            tracing::warn!(%error, path = shown, "a coordinator that comes after this one will not find its way into the device");
        }
    }

    /// The one of this attempt; what else lies there is of no use.
    pub(super) fn find(&self, attempt: BootAttempt) -> Option<WayIn> {
        match read(self.0.as_ref()?) {
            Ok(way) => Some(way).filter(|way| way.version == VERSION && way.attempt == attempt),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, "what opens a device cannot be read: it is to be booted anew before anybody enters it");
                None
            }
        }
    }

    pub(super) fn forget(&self) {
        let Some(path) = &self.0 else { return };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "a key that opens nothing any more is still there");
            }
            _ => {}
        }
    }
}

fn write(path: &Path, way: &WayIn) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    atomic_file::write(path, &serde_json::to_vec(way)?, 0o600)
}

fn read(path: &Path) -> io::Result<WayIn> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let text = format!("{} can be read by others (mode {mode:o}); it holds a key", path.display());
        return Err(io::Error::other(text));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_read_or_was_of_another_attempt_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ways/lab-pi.json");
        let keeper = Keeper(Some(path.clone()));
        let way = WayIn::new(BootAttempt(3), [10, 0, 0, 5].into(), "host".into(), "client".into());
        let found = |attempt| keeper.find(BootAttempt(attempt)).map(|way| way.client_key);
        assert_eq!(found(3), None);
        write(&path, &way).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!((found(3).as_deref(), found(4)), (Some("client"), None));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(found(3), None);
        write(&path, &way).unwrap();
        keeper.forget();
        keeper.forget();
        assert!(!path.exists());
        fs::write(&path, "{").unwrap();
        assert_eq!(found(3), None);
    }
}
