//! `[nats]` of a lab file: the site's NATS servers, for a coordinator that is not to start one of its own.

use super::error::ConfigError;
use super::raw::Source;
use crate::model::tls::TlsFiles;
use serde::Deserialize;
use std::path::PathBuf;
use toml::Spanned;
use url::Url;

/// The most servers that are named.
const MAX_URLS: usize = 16;
/// On how many servers a bucket of a cluster is kept when the file does not say: one of them may be lost.
const CLUSTERED: u8 = 3;
/// The most (nats-server's own limit).
const MAX_REPLICAS: u8 = 5;

/// The site's servers, and what the site has given to the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// `nats://host:port` or `tls://host:port` each.
    pub urls: Vec<String>,
    /// The file that `pilab nats account` has made.
    pub keys: PathBuf,
    /// On how many servers each bucket is kept.
    pub replicas: u8,
    /// How the servers are known, where they speak TLS.
    pub tls: Option<TlsFiles>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNats {
    urls: Spanned<Vec<Spanned<String>>>,
    keys: PathBuf,
    replicas: Option<Spanned<u8>>,
    tls: Option<Spanned<TlsFiles>>,
}

pub(super) fn check(source: &Source, raw: RawNats) -> Result<Nats, ConfigError> {
    let RawNats { urls, keys, replicas, tls } = raw;
    let count = urls.get_ref().len();
    if !(1..=MAX_URLS).contains(&count) {
        return Err(source.value(&urls.span(), "nats.urls", format!("{count} are not 1 to {MAX_URLS}")));
    }
    let mut checked = Vec::new();
    for (index, url) in urls.into_inner().into_iter().enumerate() {
        let error = |cause: &str| {
            // What stands before an @ is nobody's to read.
            let host = url.get_ref().rsplit_once('@').map_or(url.get_ref().as_str(), |(_, host)| host);
            let cause = format!("{host:?} {cause}");
            source.value(&url.span(), format!("nats.urls[{index}]"), cause)
        };
        checked.push(address(url.get_ref()).map_err(error)?);
    }
    let secure = checked.iter().filter(|url| url.starts_with("tls:")).count();
    let tls = match tls {
        Some(files) => {
            let at = files.span();
            let files = files.into_inner();
            if files.cert.is_some() != files.key.is_some() {
                let cause = "a certificate and its key go together: `cert` and `key`";
                return Err(source.value(&at, "nats.tls", cause));
            }
            Some(files.below(source.dir()))
        }
        None => (secure > 0).then(TlsFiles::default),
    };
    let replicas = match replicas {
        Some(raw) if !(1..=MAX_REPLICAS).contains(raw.get_ref()) => {
            let cause = format!("{} is not between 1 and {MAX_REPLICAS}", raw.get_ref());
            return Err(source.value(&raw.span(), "nats.replicas", cause));
        }
        Some(raw) => raw.into_inner(),
        None if checked.len() >= usize::from(CLUSTERED) => CLUSTERED,
        None => 1,
    };
    Ok(Nats { urls: checked, keys: source.dir().join(keys), replicas, tls })
}

/// Scheme, host and port; who logs in stands elsewhere.
fn address(text: &str) -> Result<String, &'static str> {
    let url = Url::parse(text).map_err(|_| "is no URL such as \"nats://host:4222\"")?;
    if !matches!(url.scheme(), "nats" | "tls") {
        return Err("begins with neither nats:// nor tls://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("names a user: the lab's keys stand in `keys`");
    }
    if url.host_str().is_none_or(str::is_empty) || text.contains(',') {
        return Err("names no host");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("is more than host and port");
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<Nats, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        std::fs::write(&path, text).unwrap();
        let source = Source::read(&path).unwrap();
        let raw = source.parse().map_err(|e| e.to_string());
        let nats = raw.and_then(|raw| check(&source, raw).map_err(|e| e.to_string()));
        nats.map_err(|error| error.replace(dir.path().to_str().unwrap(), ""))
    }

    #[test]
    fn three_servers_keep_three_copies_and_files_lie_beside_the_lab_file() {
        let nats = read(
            "urls = [\"nats://a:1\", \"nats://b:1/\", \"tls://c\"]\nkeys = \"rack.json\"\n[tls]\nca = \"/etc/ca\"\n",
        );
        let nats = nats.unwrap();
        assert_eq!((nats.replicas, nats.urls[1].as_str()), (3, "nats://b:1"));
        assert!(nats.keys.ends_with("rack.json") && nats.keys.is_absolute());
        assert_eq!(nats.tls.unwrap().ca.as_deref(), Some(Path::new("/etc/ca")));
        assert_eq!(read("urls = [\"nats://a\"]\nkeys = \"k\"\n").unwrap().replicas, 1);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let table = [
            ("urls = []\nkeys = \"k\"", "/lab.toml:1: nats.urls: 0 are not 1 to 16"),
            (
                "urls = [\"http://a\"]\nkeys = \"k\"",
                "/lab.toml:1: nats.urls[0]: \"http://a\" begins with neither",
            ),
            ("urls = [\"nats://u:p@a\"]\nkeys = \"k\"", "/lab.toml:1: nats.urls[0]: \"a\" names a user"),
            (
                "urls = [\"nats://a/x\"]\nkeys = \"k\"",
                "/lab.toml:1: nats.urls[0]: \"nats://a/x\" is more than",
            ),
            ("urls = [\"nats:\"]\nkeys = \"k\"", "/lab.toml:1: nats.urls[0]: \"nats:\" names no host"),
            ("urls = [\"nats://a\"]\nkeys = \"k\"\nreplicas = 6", "/lab.toml:3: nats.replicas: 6 is not"),
            (
                "urls = [\"nats://a\"]\nkeys = \"k\"\n[tls]\ncert = \"c\"",
                "/lab.toml:3: nats.tls: a certificate and",
            ),
            ("urls = [\"nats://a\"]", "/lab.toml:1:1: missing field `keys`"),
        ];
        for (text, expected) in table {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}, not {expected:?}");
        }
    }
}
