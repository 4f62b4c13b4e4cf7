//! The server's directory: whose it is, and the files in it.

use super::process::ProcessMark;
use super::{ServerError, file};
use crate::bus::issuer::Trust;
use crate::model::tls::{ServedTls, TlsFiles};
use crate::support::atomic_file;
use rustix::process::Pid;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The most memory for JetStream's memory streams, in bytes; all buckets are files.
const MAX_MEMORY_STORE: u64 = 16 * 1024 * 1024;
/// How much of the log an error quotes, in bytes.
const LOG_TAIL: usize = 1500;
/// The log is moved aside at a start when it is larger, in bytes.
const MAX_LOG: u64 = 4 * 1024 * 1024;

pub(super) const LOCK: &str = "lock";
pub(super) const CONFIG: &str = "nats-server.conf";
pub(super) const LOG: &str = "nats-server.log";
pub(super) const PID: &str = "nats-server.pid";
pub(super) const PORT: &str = "port";

/// The server's directory. The lock goes with this value, and with the process.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) dir: PathBuf,
    _lock: File,
}

impl Home {
    pub(super) fn lock(dir: &Path) -> Result<Self, ServerError> {
        let dir = std::path::absolute(dir).map_err(|error| file("resolve", dir, error))?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| file("create", &dir, error))?;
        let path = dir.join(LOCK);
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(|error| file("open", &path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(ServerError::InUse { dir }),
            Err(TryLockError::Error(error)) => Err(file("lock", &path, error)),
        }
    }

    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), ServerError> {
        let path = self.dir.join(name);
        atomic_file::write(&path, content, 0o600).map_err(|error| file("write", &path, error))
    }

    /// The port asked for, else the last one, else a free one; each tried by listening on it for a moment.
    pub(super) fn choose_address(&self, ip: IpAddr, port: Option<u16>) -> Result<SocketAddr, ServerError> {
        let listen = |port| TcpListener::bind((ip, port)).and_then(|listener| listener.local_addr());
        if let Some(port) = port {
            return listen(port).map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => ServerError::PortTaken { ip, port },
                _ => ServerError::Listen { ip, source },
            });
        }
        let last = fs::read_to_string(self.dir.join(PORT)).ok().and_then(|text| text.trim().parse().ok());
        if let Some(address) = last.filter(|port| *port != 0).and_then(|port| listen(port).ok()) {
            return Ok(address);
        }
        listen(0).map_err(|source| ServerError::Listen { ip, source })
    }

    pub(super) fn record_child(&self, pid: Pid) -> Result<(), ServerError> {
        let Some(mark) = ProcessMark::of(pid) else {
            return Ok(()); // It has ended already; whoever waits for it will say so.
        };
        self.write(PID, mark.to_string().as_bytes())
    }

    pub(super) fn forget_child(&self) {
        if let Err(error) = fs::remove_file(self.dir.join(PID)) {
            tracing::debug!(%error, "no pid file to remove");
        }
    }

    /// Ends the process that the pid file names, if it is still the one that was started.
    pub(super) async fn end_orphan(&self) -> Result<Option<i32>, ServerError> {
        let Ok(text) = fs::read_to_string(self.dir.join(PID)) else { return Ok(None) };
        let Some(mark) = ProcessMark::parse(&text) else {
            self.forget_child();
            return Ok(None);
        };
        let ended = mark
            .end()
            .await
            .map_err(|source| ServerError::Orphan { pid: mark.pid.as_raw_nonzero().get(), source })?;
        self.forget_child();
        Ok(ended.then_some(mark.pid.as_raw_nonzero().get()))
    }

    /// The log for a new child, with a large old one moved aside.
    pub(super) fn open_log(&self) -> io::Result<File> {
        let path = self.dir.join(LOG);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG) {
            fs::rename(&path, path.with_extension("log.old"))?;
        }
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
    }

    pub(super) fn log_tail(&self) -> String {
        let content = fs::read(self.dir.join(LOG)).unwrap_or_default();
        let from = content.len().saturating_sub(LOG_TAIL);
        String::from_utf8_lossy(content.get(from..).unwrap_or_default()).trim().to_owned()
    }
}

/// The configuration. It holds public keys and signed claims, no secret.
pub(super) fn config(
    dir: &Path,
    address: SocketAddr,
    name: &str,
    trust: &Trust,
    tls: Option<&ServedTls>,
) -> String {
    let path = |name: &str| quoted(&dir.join(name));
    let tls = tls.map(served).unwrap_or_default();
    let Trust { operator_jwt, system_account, lab_account: _, accounts } = trust;
    let accounts: String = accounts.iter().map(|(key, jwt)| format!("  {key}: {jwt}\n")).collect();
    format!(
        "# Written at each start; changes are lost.\n\
         listen: \"{address}\"\n\
         server_name: {name}\n\
         operator: {operator_jwt}\n\
         system_account: {system_account}\n\
         resolver: {{ type: full, dir: {resolver}, allow_delete: false }}\n\
         resolver_preload: {{\n{accounts}}}\n\
         jetstream: {{ store_dir: {store}, max_memory_store: {MAX_MEMORY_STORE} }}\n{tls}",
        resolver = path("accounts"),
        store = path("store"),
    )
}

fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

/// The key itself stays in its file.
fn served(tls: &ServedTls) -> String {
    let TlsFiles { ca, cert, key } = &tls.files;
    let named = [("cert_file", cert), ("key_file", key), ("ca_file", ca)];
    let named =
        named.into_iter().filter_map(|(word, path)| Some(format!("{word}: {}", quoted(path.as_ref()?))));
    let named: Vec<String> = named.chain([format!("verify: {}", tls.clients)]).collect();
    format!("tls: {{ {} }}\n", named.join(", "))
}
