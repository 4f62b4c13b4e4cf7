//! `[server]` of a lab file: the NATS server that the coordinator starts itself.

use super::error::ConfigError;
use super::raw::Source;
use crate::model::tls::{ServedTls, TlsFiles};
use serde::Deserialize;
use std::path::PathBuf;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServer {
    tls: Option<RawTls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    #[serde(default = "yes")]
    clients: bool,
}

fn yes() -> bool {
    true
}

/// How the server speaks TLS, if it does. A coordinator on the site's servers starts none.
pub(super) fn check(
    source: &Source,
    raw: Option<Spanned<RawServer>>,
    on_site: bool,
) -> Result<Option<ServedTls>, ConfigError> {
    let Some(raw) = raw else { return Ok(None) };
    if on_site {
        let cause = "with [nats], the site's servers, the coordinator starts none of its own";
        return Err(source.value(&raw.span(), "server", cause));
    }
    Ok(raw.into_inner().tls.map(|RawTls { ca, cert, key, clients }| {
        let files = TlsFiles { ca: Some(ca), cert: Some(cert), key: Some(key) };
        ServedTls { files: files.below(source.dir()), clients }
    }))
}

#[cfg(test)]
mod tests {
    use crate::config::lab;

    #[test]
    fn a_server_of_one_s_own_asks_for_certificates_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        let read = |server: &str| {
            let pool = "[[pools]]\nname = \"c\"\nbackend = \"container\"\ncount = 1\n";
            std::fs::write(&path, format!("name = \"l\"\n{pool}{server}")).unwrap();
            lab::load(&path, None, None).map(|lab| lab.server_tls).map_err(|error| error.to_string())
        };
        let files = "ca = \"ca.pem\"\ncert = \"/etc/s.pem\"\nkey = \"s.key\"\n";
        let tls = read(&format!("[server.tls]\n{files}")).unwrap().unwrap();
        assert!(tls.clients);
        assert_eq!(tls.files.ca, Some(dir.path().join("ca.pem")));
        assert_eq!(tls.files.cert, Some("/etc/s.pem".into()));
        assert!(!read(&format!("[server.tls]\n{files}clients = false\n")).unwrap().unwrap().clients);
        assert_eq!(read("[server]\n").unwrap(), None);
        for (server, words) in [
            ("[server.tls]\nca = \"c\"\ncert = \"c\"\n".to_owned(), "missing field `key`"),
            (format!("[server.tls]\n{files}colour = 1\n"), "unknown field `colour`"),
            (
                format!("[nats]\nurls = [\"nats://a\"]\nkeys = \"k\"\n[server.tls]\n{files}"),
                "server: with [nats], the site's servers",
            ),
        ] {
            let error = read(&server).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
