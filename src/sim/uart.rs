//! A board's UART on a pseudo terminal that can be pulled out: what it says is lost when nobody listens.

use super::line::PtyLine;
use bytes::Bytes;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
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
    said: mpsc::Sender<Bytes>,
    plugged: watch::Sender<bool>,
    is_dead: bool,
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
        let (said, outbox) = mpsc::channel(PIECES);
        let (inbox, typed) = mpsc::channel(PIECES);
        let plugged = watch::Sender::new(true);
        let task = Task { name, line: Some(line), outbox, inbox, plugged: plugged.subscribe() };
        tracker.spawn(async move {
            token.run_until_cancelled(task.run()).await;
        });
        Ok((Self { said, plugged, is_dead }, typed))
    }

    /// Says something. Waits while much is on its way.
    pub(super) async fn say(&self, bytes: impl Into<Bytes>) {
        if !self.is_dead {
            // The line ends with the rack, and so does the board.
            let _ = self.said.send(bytes.into()).await;
        }
    }

    /// Pulls the adapter out, or plugs it in again.
    pub(super) fn plug(&self, plugged: bool) {
        self.plugged.send_replace(plugged);
    }
}

struct Task {
    name: PathBuf,
    line: Option<PtyLine>,
    outbox: mpsc::Receiver<Bytes>,
    inbox: mpsc::Sender<Bytes>,
    plugged: watch::Receiver<bool>,
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
                changed = self.plugged.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.set_plugged();
                }
                bytes = self.outbox.recv() => {
                    let Some(bytes) = bytes else { return };
                    let Some(line) = &mut self.line else { continue };
                    patience = match timeout(patience, line.write_all(&bytes)).await {
                        Ok(Ok(())) => PATIENCE,
                        Ok(Err(_)) | Err(_) => Duration::from_millis(1),
                    };
                }
                length = typed => if length > 0 {
                    let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                    // A board that reads nothing loses what is typed.
                    let _ = self.inbox.try_send(bytes);
                }
            }
        }
    }

    fn set_plugged(&mut self) {
        let wanted = *self.plugged.borrow_and_update();
        if wanted == self.line.is_some() {
            return;
        }
        self.line = None;
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
