//! Login files: what a person or CI job needs to talk to a lab. They hold a secret, so only their owner may
//! read them.

use super::error::ConfigError;
use crate::model::id::{LabName, UserName};
use crate::model::tls::TlsFiles;
use crate::support::atomic_file;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Version of the file.
pub const LOGIN_VERSION: u32 = 1;
/// The longest file, in bytes: a credentials file has some 1 KB.
const MAX_SIZE: u64 = 64 * 1024;

/// What is needed to talk to a lab.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// [`LOGIN_VERSION`].
    pub version: u32,
    /// The lab.
    pub lab: LabName,
    /// Who logs in.
    pub user: UserName,
    /// Where its NATS server is: `nats://host:port`, more of them with commas in between.
    pub url: String,
    /// The text of a NATS credentials file. Secret.
    pub creds: String,
    /// How the server is known, where it speaks TLS; relative paths begin where this file lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, lab, user, url, creds: _, tls } = self;
        let mut shown = f.debug_struct("Login");
        shown
            .field("version", version)
            .field("lab", lab)
            .field("user", user)
            .field("url", url)
            .field("tls", tls);
        shown.finish_non_exhaustive()
    }
}

impl Login {
    /// Reads a login file, which nobody but its owner may be able to read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let error = |source| ConfigError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(error)?;
        let metadata = file.metadata().map_err(error)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(ConfigError::Exposed { path: path.to_owned() });
        }
        let size = metadata.len();
        if size > MAX_SIZE {
            return Err(ConfigError::TooLarge { path: path.to_owned(), size, limit: MAX_SIZE });
        }
        let mut text = String::new();
        file.take(MAX_SIZE).read_to_string(&mut text).map_err(error)?;
        let mut login: Self = serde_json::from_str(&text).map_err(|e| ConfigError::Syntax {
            path: path.to_owned(),
            line: e.line(),
            column: e.column(),
            key: None,
            message: e.to_string(),
        })?;
        if login.version != LOGIN_VERSION {
            let message = format!("version {}; known is {LOGIN_VERSION}", login.version);
            return Err(ConfigError::Syntax {
                path: path.to_owned(),
                line: 1,
                column: 1,
                key: None,
                message,
            });
        }
        let dir = path.parent().unwrap_or(Path::new(""));
        login.tls = login.tls.map(|files| files.below(dir));
        Ok(login)
    }

    /// Writes it, for its owner alone.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        atomic_file::write(path, &serde_json::to_vec_pretty(self)?, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_read_as_it_was_written_and_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("login.json");
        let login = Login {
            version: LOGIN_VERSION,
            lab: LabName::new("l").unwrap(),
            user: UserName::new("ann").unwrap(),
            url: "nats://127.0.0.1:1".to_owned(),
            creds: "SUSECRET".to_owned(),
            tls: Some(TlsFiles { ca: Some("ca.pem".into()), ..TlsFiles::default() }),
        };
        login.write(&path).unwrap();
        let read = Login::read(&path).unwrap();
        assert_eq!(read.tls.as_ref().unwrap().ca.as_deref(), Some(&*dir.path().join("ca.pem")));
        assert_eq!(Login { tls: login.tls.clone(), ..read }, login);
        assert!(!format!("{login:?}").contains("SUSECRET"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Login::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("login.json: others than its owner may read it"), "{error}");
        Login { version: 7, ..login }.write(&path).unwrap();
        let error = Login::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("login.json:1:1: version 7; known is 1"), "{error}");
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(Login::read(&path), Err(ConfigError::Syntax { line: 1, .. })));
    }
}
