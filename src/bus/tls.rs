//! What a client of TLS says and accepts, from files that are checked before anybody relies on them.

use super::error::NatsError;
use crate::model::tls::TlsFiles;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The files for TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read the key.
    #[error("{} can be read by others (mode {mode:o}); it holds a key and must have mode 600", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// One holds something else.
    #[error("{} holds no {what} in PEM", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("a certificate and its key go together: one of `cert` and `key` is missing")]
    Half,
    /// Certificate and key do not fit.
    #[error("the certificate and the key cannot be used together")]
    Unfit(#[source] NatsError),
    /// This machine's certificates cannot be read.
    #[error("this machine trusts nobody that it can name: give a `ca`")]
    NoRoots,
}

/// What a client of these files says and accepts.
pub(super) fn client_config(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            let (found, _) = roots.add_parsable_certificates(certificates(path)?);
            if found == 0 {
                return Err(TlsError::Content { path: path.clone(), what: "certificate" });
            }
        }
        None => {
            let (found, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if found == 0 {
                return Err(TlsError::NoRoots);
            }
        }
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    match (&files.cert, &files.key) {
        (None, None) => Ok(config.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let identity = config.with_client_auth_cert(certificates(cert)?, private_key(key)?);
            identity.map_err(|error| TlsError::Unfit(NatsError::new(&error)))
        }
        _ => Err(TlsError::Half),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TlsError::Content { path: path.to_owned(), what: "certificate" })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let read = |source| TlsError::Read { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(read)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TlsError::Exposed { path: path.to_owned(), mode });
    }
    let text = std::fs::read(path).map_err(read)?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| TlsError::Content { path: path.to_owned(), what: "private key" })
}
