//! The files by which two ends of a connection know each other.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How a server speaks TLS that this process starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedTls {
    /// All three: who signs, and what the server shows.
    pub files: TlsFiles,
    /// It asks its clients for certificates of the same authority.
    pub clients: bool,
}

impl ServedTls {
    /// What a client on the server's own machine shows and accepts: where certificates are asked for, the server's own.
    pub fn own_client(&self) -> TlsFiles {
        let TlsFiles { ca, cert, key } = self.files.clone();
        if self.clients { TlsFiles { ca, cert, key } } else { TlsFiles { ca, cert: None, key: None } }
    }
}

/// Files in PEM. None of them is read here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Who signs for the server; without it those whom this machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The certificate to show to a server that asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The key of that certificate. Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// The same files, where relative paths begin at `dir`.
    #[must_use]
    pub fn below(&self, dir: &Path) -> Self {
        let at = |path: &Option<PathBuf>| path.as_ref().map(|path| dir.join(path));
        Self { ca: at(&self.ca), cert: at(&self.cert), key: at(&self.key) }
    }
}
