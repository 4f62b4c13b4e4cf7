//! The greatest epoch that this coordinator has taken, on its own disk: the floor of its tokens when the bucket
//! knows less. And under which number and in which boot of the host: whoever took the ledger with this file is
//! this coordinator, or one of which its lock tells that it is dead.

use crate::model::time::HostBoot;
use crate::support::atomic_file;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    #[serde(flatten)]
    taken: Taken,
}

/// How the ledger was taken last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    /// With which epoch; 0 when it never was.
    pub(super) epoch: u64,
    /// By whom, see [`Epoch::by`](crate::model::ledger::Epoch::by).
    #[serde(default)]
    pub(super) by: u64,
    /// In which boot of the host; none in a file of an earlier version.
    #[serde(default)]
    pub(super) boot: Option<HostBoot>,
}

/// What the file says.
pub(super) fn read(path: &Path) -> io::Result<Taken> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Taken::default()),
        read => read?,
    };
    let content: Content = serde_json::from_slice(&text)?;
    if content.version != VERSION {
        return Err(io::Error::other(format!("version {} is not known", content.version)));
    }
    Ok(content.taken)
}

/// Writes and fsyncs it; readable by its owner alone.
pub(super) fn write(path: &Path, taken: Taken) -> io::Result<()> {
    let content = serde_json::to_vec(&Content { version: VERSION, taken })?;
    atomic_file::write(path, &content, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_no_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("epoch");
        assert_eq!(read(&path).unwrap(), Taken::default());
        let taken = Taken { epoch: 7, by: 9, boot: Some(HostBoot::default()) };
        write(&path, taken).unwrap();
        assert_eq!(read(&path).unwrap(), taken);
        std::fs::write(&path, r#"{"version":1,"epoch":5}"#).unwrap();
        assert_eq!(read(&path).unwrap(), Taken { epoch: 5, ..Taken::default() }, "of an earlier version");
        write(&path, taken).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for bad in ["", "{}", r#"{"version":2,"epoch":1}"#] {
            std::fs::write(&path, bad).unwrap();
            assert!(read(&path).is_err(), "{bad}");
        }
    }
}
