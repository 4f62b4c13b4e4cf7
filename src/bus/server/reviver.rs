//! Ends a server that hangs, so that it is started again.
//!
//! nats-server 2.9 that finds no room on its disk answers nothing of JetStream from then on, and hears no SIGTERM,
//! also once there is room again: it takes a new one, which finds all that was acknowledged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::Notify;

/// The least room, in bytes, with which a new server can do more than the old one.
const ROOM: u64 = 1024 * 1024;

/// The first pause before a restart, doubled with each death in a row.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// The longest.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The pause before the next start, after so many failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    MIN_BACKOFF.saturating_mul(1_u32 << failures.min(10)).min(MAX_BACKOFF)
}

/// Asks for a new server. Clones ask for the same one.
#[derive(Debug, Clone)]
pub struct Reviver {
    dir: PathBuf,
    asked: Arc<Notify>,
}

impl Reviver {
    /// Of the server whose files lie in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), asked: Arc::default() }
    }

    /// The server's JetStream does not answer, though it is connected: it is started anew, where its disk has room.
    /// Answers whether.
    pub fn revive(&self) -> bool {
        let room = rustix::fs::statvfs(&self.dir).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        let room = room.is_ok_and(|room| room >= ROOM);
        if room {
            self.asked.notify_one();
        }
        room
    }

    /// Waits until the child has ended, by itself or because it was asked for.
    pub(super) async fn ended(&self, child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
        tokio::select! {
            ended = child.wait() => return ended,
            () = self.asked.notified() => {}
        }
        child.start_kill()?;
        child.wait().await
    }
}
