//! Where NATS is: one server or those of a cluster, and how it is made sure that they are the right ones.

#[cfg(feature = "coordinator")]
use super::tls::{TlsError, client_config};
#[cfg(feature = "coordinator")]
use crate::model::tls::TlsFiles;
#[cfg(feature = "coordinator")]
use async_nats::ConnectOptions;
use async_nats::ServerAddr;
use std::fmt;
use std::io;
#[cfg(feature = "coordinator")]
use std::sync::Arc;

/// The most servers that are named.
pub const MAX_SERVERS: usize = 16;

/// Servers, any of which will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// `nats://host:port`, more of them with commas in between.
    urls: String,
    #[cfg(feature = "coordinator")]
    tls: Option<Arc<TlsFiles>>,
}

impl Servers {
    /// Servers that speak TLS, known by these files.
    #[cfg(feature = "coordinator")]
    #[must_use]
    pub fn with_tls(mut self, tls: Option<TlsFiles>) -> Self {
        self.tls = tls.map(Arc::new);
        self
    }

    /// How they are known; none for servers without TLS.
    #[cfg(feature = "coordinator")]
    pub fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_deref()
    }

    /// As it is written: with commas between several.
    pub fn urls(&self) -> &str {
        &self.urls
    }

    /// Each with host and port.
    pub(super) fn addresses(&self) -> io::Result<Vec<ServerAddr>> {
        self.urls.split(',').take(MAX_SERVERS).map(|url| url.trim().parse::<ServerAddr>()).collect()
    }

    /// Tells a client how to know them.
    #[cfg(feature = "coordinator")]
    pub(super) fn secure(&self, options: ConnectOptions) -> Result<ConnectOptions, TlsError> {
        let Some(files) = self.tls() else { return Ok(options) };
        // Read here too, so that what is wrong is told by name; async-nats reads them again for each connection.
        client_config(files)?;
        let mut options = options.require_tls(true);
        if let Some(ca) = &files.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let (Some(cert), Some(key)) = (&files.cert, &files.key) {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        Ok(options)
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.urls)
    }
}

impl From<String> for Servers {
    fn from(urls: String) -> Self {
        Self {
            urls,
            #[cfg(feature = "coordinator")]
            tls: None,
        }
    }
}

impl From<&str> for Servers {
    fn from(urls: &str) -> Self {
        Self::from(urls.to_owned())
    }
}

impl From<&String> for Servers {
    fn from(urls: &String) -> Self {
        Self::from(urls.clone())
    }
}

impl From<&Servers> for Servers {
    fn from(servers: &Servers) -> Self {
        servers.clone()
    }
}
