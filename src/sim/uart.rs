//! A board's UART on a pseudo terminal that can be pulled out: what it says is lost when nobody listens.
//!
//! What it has said before is read first, by whoever listens. On a wire that is so: an adapter's bytes have long been fetched
//! when a hand pulls it out, while a pseudo terminal forgets what has not been read.

use super::line::PtyLine;
use bytes::Bytes;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a line that takes nothing is waited for; what it does not take is lost then, as on a wire.
const PATIENCE: Duration = Duration::from_millis(500);
/// Pause after a line that has nobody at its other end.
const NOBODY: Duration = Duration::from_millis(50);
/// Pieces on their way, either way.
const PIECES: usize = 256;
/// The longest piece that is read at a time, in bytes.
const PIECE: usize = 4096;

/// The board's end.
#[derive(Debug, Clone)]
pub(super) struct Uart {
    line: mpsc::Sender<Act>,
    is_dead: bool,
}

/// What becomes of the line, in order.
#[derive(Debug)]
enum Act {
    Say(Bytes),
    Plug(bool),
}

impl Uart {
    /// Plugs the line in under this name; what is typed there comes out of the receiver. `is_dead`: nothing ever comes
    /// through it. Ends with `token`.
    pub(super) fn start(
        name: PathBuf,
        is_dead: bool,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> io::Result<(Self, mpsc::Receiver<Bytes>)> {
        let line = PtyLine::plug(&name)?;
        let (acts, outbox) = mpsc::channel(PIECES);
        let (inbox, typed) = mpsc::channel(PIECES);
        let task = Task { name, line: Some(line), outbox, inbox };
        tracker.spawn(async move {
            token.run_until_cancelled(task.run()).await;
        });
        Ok((Self { line: acts, is_dead }, typed))
    }

    /// Says something. Waits while much is on its way.
    pub(super) async fn say(&self, bytes: impl Into<Bytes>) {
        if !self.is_dead {
            // The line ends with the rack, and so does the board.
            let _ = self.line.send(Act::Say(bytes.into())).await;
        }
    }

    /// Pulls the adapter out, or plugs it in again.
    pub(super) async fn plug(&self, plugged: bool) {
        let _ = self.line.send(Act::Plug(plugged)).await;
    }
}

struct Task {
    name: PathBuf,
    line: Option<PtyLine>,
    outbox: mpsc::Receiver<Act>,
    inbox: mpsc::Sender<Bytes>,
}

impl Task {
    async fn run(mut self) {
        let mut buffer = vec![0; PIECE];
        // A line that took nothing is not waited for again until it takes something.
        let mut patience = PATIENCE;
        loop {
            let typed = async {
                match &mut self.line {
                    Some(line) => match line.read(&mut buffer).await {
                        Ok(length) if length > 0 => length,
                        // Nobody has the other end open.
                        Ok(_) | Err(_) => {
                            sleep(NOBODY).await;
                            0
                        }
                    },
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                act = self.outbox.recv() => match act {
                    None => return,
                    Some(Act::Plug(plugged)) => self.set_plugged(plugged).await,
                    Some(Act::Say(bytes)) => {
                        let Some(line) = &mut self.line else { continue };
                        patience = match timeout(patience, line.write_all(&bytes)).await {
                            Ok(Ok(())) => PATIENCE,
                            Ok(Err(_)) | Err(_) => Duration::from_millis(1),
                        };
                    }
                },
                length = typed => if length > 0 {
                    let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                    // A board that reads nothing loses what is typed.
                    let _ = self.inbox.try_send(bytes);
                }
            }
        }
    }

    async fn set_plugged(&mut self, wanted: bool) {
        if wanted == self.line.is_some() {
            return;
        }
        if let Some(line) = self.line.take() {
            // Where nobody reads, it is lost.
            let _ = timeout(PATIENCE, line.drained()).await;
        }
        if wanted {
            match PtyLine::plug(&self.name) {
                Ok(line) => self.line = Some(line),
                Err(error) => {
                    tracing::warn!(%error, name = %self.name.display(), "a simulated UART is not plugged in");
                }
            }
        }
    }
}
