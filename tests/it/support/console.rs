//! A console over a fake line, for whatever needs a device's console.

use pilab::console::port::{ByteStream, Line, LineFuture};
use pilab::console::{self, ConsoleHandle, ConsoleParts};
use pilab::journal::JournalHandle;
use pilab::support::term::Term;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A line that is there when the test says so: each open takes the next one that was plugged in.
struct FakeLine {
    lines: Mutex<mpsc::Receiver<DuplexStream>>,
}

impl ByteStream for FakeLine {
    fn open(&self) -> LineFuture<'_> {
        Box::pin(async {
            match self.lines.lock().await.recv().await {
                Some(line) => Ok(Box::new(line) as Box<dyn Line>),
                None => Err(io::Error::other("no adapter")),
            }
        })
    }
}

/// A console whose tasks run, and the far end of its line.
pub struct Rig {
    pub console: ConsoleHandle,
    plug: mpsc::Sender<DuplexStream>,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Rig {
    pub fn new(journal: &JournalHandle) -> Self {
        let (plug, lines) = mpsc::channel(8);
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let port = Arc::new(FakeLine { lines: Mutex::new(lines) });
        let reopen_after = Duration::from_millis(10);
        let parts = ConsoleParts { port, journal: journal.clone(), reopen_after, term: Term::endless() };
        let console = console::spawn(parts, &tracker, token.clone());
        Self { console, plug, tracker, token }
    }

    /// Plugs the device in; answers its end of the line, once the console has opened the other.
    pub async fn plug(&self) -> DuplexStream {
        let (near, far) = duplex(4096);
        self.plug.send(near).await.unwrap();
        self.until_open(true).await;
        far
    }

    /// Unplugs the device, and waits until the console has noticed.
    pub async fn unplug(&self, line: DuplexStream) {
        drop(line);
        self.until_open(false).await;
    }

    async fn until_open(&self, open: bool) {
        let mut status = self.console.status();
        let waited = tokio::time::timeout(Duration::from_secs(20), status.wait_for(|now| now.open == open));
        waited.await.expect("the line changes in time").expect("the console lives");
    }

    pub async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
