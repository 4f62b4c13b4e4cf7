//! Where NATS is: one server or those of a cluster, and how it is made sure that they are the right ones.

#[cfg(feature = "coordinator")]
use super::gate::read_info;
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
#[cfg(feature = "coordinator")]
use std::time::Duration;
#[cfg(feature = "coordinator")]
use tokio::net::TcpStream;
#[cfg(feature = "coordinator")]
use tokio::time::timeout;

/// The most servers that are named.
pub const MAX_SERVERS: usize = 16;
/// How long a server may take to say its first line.
#[cfg(feature = "coordinator")]
const GREETING: Duration = Duration::from_secs(1);

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

#[cfg(feature = "coordinator")]
impl Servers {
    /// Whether one of them wants to see a certificate, and none is named. What a client is told that shows none depends
    /// on which end hangs up first; a server says it in its first line.
    pub(super) async fn want_certificate(&self) -> bool {
        if self.tls().is_none_or(|files| files.cert.is_some()) {
            return false;
        }
        for address in self.addresses().unwrap_or_default() {
            let asked = async {
                let mut server = TcpStream::connect((address.host(), address.port())).await?;
                read_info(&mut server).await
            };
            let Ok(Ok(line)) = timeout(GREETING, asked).await else { continue };
            let json = line.strip_prefix(b"INFO ").unwrap_or_default();
            let info: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
            if info["tls_verify"] == true {
                return true;
            }
        }
        false
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
