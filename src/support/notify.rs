//! Tells the service manager how this process fares: systemd's protocol, sd_notify(3), a datagram of
//! `NAME=value` lines.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The longest status line in bytes: one line of `systemctl status`.
const MAX_STATUS: usize = 200;

/// The service manager that started this process. What cannot be told is dropped: the manager then finds
/// out by its own time-outs.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The service manager that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`); none when it names
    /// none, or one that cannot be reached.
    pub fn from_env() -> Option<Self> {
        let address = env::var_os("NOTIFY_SOCKET")?;
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        // Of a parent's watchdog, not ours, when it names another process.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0);
        match Self::new(&address, watchdog.map(Duration::from_micros)) {
            Ok(notifier) => Some(notifier),
            Err(error) => {
                tracing::warn!(?address, %error, "the service manager cannot be told anything");
                None
            }
        }
    }

    /// The service manager at `address`: a path, or an abstract name that begins with `@`. It ends this
    /// process when `watchdog` passes without a sign of life.
    pub fn new(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = socket_address(address)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address, watchdog })
    }

    /// How long this process may give no sign of life; none for no bound.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The process has begun to do its work.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// The process is ending because it was asked to.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// One line for people.
    pub fn status(&self, line: &str) {
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.tell(&format!("STATUS={}", line.get(..line.floor_char_boundary(MAX_STATUS)).unwrap_or(&line)));
    }

    fn tell(&self, text: &str) {
        if let Err(error) = self.socket.send_to_addr(text.as_bytes(), &self.address) {
            tracing::debug!(%error, text, "the service manager was not told");
        }
    }
}

/// An address as the service manager writes it: a path, or an abstract name that begins with `@`.
pub(super) fn socket_address(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_what_is_told_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("pilab-{}", dir.path().display());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (manager, address) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            let notifier = Notifier::new(&address, None).unwrap();
            notifier.ready();
            notifier.alive();
            notifier.status(&format!("é\n{}", "é".repeat(200)));
            notifier.stopping();
            let heard = || {
                let mut buffer = [0; 4096];
                let length = manager.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            };
            assert_eq!((heard(), heard()), ("READY=1".into(), "WATCHDOG=1".into()));
            let status = heard();
            assert!(status.starts_with("STATUS=é é") && status.len() <= 7 + MAX_STATUS, "{status}");
            assert_eq!(heard(), "STOPPING=1");
        }
    }

    #[test]
    fn a_manager_that_is_gone_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let notifier = Notifier::new(dir.path().join("none").as_os_str(), None).unwrap();
        notifier.ready();
        assert!(
            Notifier::new(OsStr::new(&"x".repeat(200)), None).is_err(),
            "too long for a socket's address"
        );
    }
}
