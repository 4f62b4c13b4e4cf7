//! The greatest epoch that this coordinator has taken, on its own disk: the floor of its tokens when the bucket
//! knows less.

use crate::support::atomic_file;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    epoch: u64,
}

/// The epoch in the file; 0 when there is none.
pub(super) fn read(path: &Path) -> io::Result<u64> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        read => read?,
    };
    let content: Content = serde_json::from_slice(&text)?;
    if content.version != VERSION {
        return Err(io::Error::other(format!("version {} is not known", content.version)));
    }
    Ok(content.epoch)
}

/// Writes and fsyncs it; readable by its owner alone.
pub(super) fn write(path: &Path, epoch: u64) -> io::Result<()> {
    let content = serde_json::to_vec(&Content { version: VERSION, epoch })?;
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
        assert_eq!(read(&path).unwrap(), 0);
        write(&path, 7).unwrap();
        assert_eq!(read(&path).unwrap(), 7);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for bad in ["", "{}", r#"{"version":2,"epoch":1}"#] {
            std::fs::write(&path, bad).unwrap();
            assert!(read(&path).is_err(), "{bad}");
        }
    }
}
