//! A libpod socket that answers with the bytes it is given: what podman said in another version, or on another
//! host, than that of the tests.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What a request is answered with.
pub enum Answer {
    /// All of an HTTP response; then the connection ends.
    Whole(String),
    /// The begin of one; the connection stays open until [`Libpod::end_streams`].
    Open(String),
    /// The begin of one, and then a text for as long as anybody reads.
    Endless(String, String),
}

/// What is answered to a method and a path without the version, as in `GET /containers/json?all=true`.
type Script = dyn Fn(&str) -> Answer + Send + Sync;

/// The server. It ends when it is dropped.
pub struct Libpod {
    dir: tempfile::TempDir,
    /// All that was asked.
    asked: Arc<Mutex<Vec<String>>>,
    ends: Arc<watch::Sender<u64>>,
    _stop: DropGuard,
}

impl Libpod {
    /// Starts one that follows a script.
    pub fn start(script: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("podman.sock")).unwrap();
        let (stop, script): (_, Arc<Script>) = (CancellationToken::new(), Arc::new(script));
        let libpod =
            Self { dir, asked: Arc::default(), ends: Arc::default(), _stop: stop.clone().drop_guard() };
        let (asked, ends) = (Arc::clone(&libpod.asked), Arc::clone(&libpod.ends));
        let (tasks, inner) = (TaskTracker::new(), TaskTracker::new());
        tasks.spawn(async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (script, asked, ends) = (Arc::clone(&script), Arc::clone(&asked), ends.subscribe());
                // Whoever asked may have gone meanwhile.
                let serve = async move { serve(stream, &*script, &asked, ends).await.unwrap_or_default() };
                inner.spawn(stop.clone().run_until_cancelled_owned(serve));
            }
        });
        libpod
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("podman.sock")
    }

    /// All that was asked so far, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Ends all connections that are kept open.
    pub fn end_streams(&self) {
        self.ends.send_modify(|ends| *ends += 1);
    }
}

async fn serve(
    mut stream: UnixStream,
    script: &Script,
    asked: &Mutex<Vec<String>>,
    mut ends: watch::Receiver<u64>,
) -> std::io::Result<()> {
    let request = read(&mut stream).await?;
    let line = request.lines().next().unwrap_or_default();
    let line = line.strip_suffix(" HTTP/1.1").unwrap_or(line).replacen("/v4.0.0/libpod", "", 1);
    asked.lock().unwrap().push(line.clone());
    match script(&line) {
        Answer::Whole(bytes) => stream.write_all(bytes.as_bytes()).await,
        Answer::Open(bytes) => {
            ends.mark_unchanged();
            stream.write_all(bytes.as_bytes()).await?;
            let _ = ends.changed().await;
            Ok(())
        }
        Answer::Endless(bytes, more) => {
            stream.write_all(bytes.as_bytes()).await?;
            let chunk = format!("{:x}\r\n{more}\r\n", more.len());
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
    }
}

/// Reads a request with all of its body.
async fn read(stream: &mut UnixStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(text.into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The head of a response as podman 5.4.2 begins it.
fn head(status: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\nLibpod-Api-Version: 5.4.2\r\n\
         Server: Libpod/5.4.2 (linux)\r\nX-Reference-Id: 0xc000124f48\r\n\
         Date: Wed, 25 Nov 2026 22:08:27 GMT\r\n"
    )
}

/// A response with this body.
pub fn whole(status: &str, body: &str) -> Answer {
    // No body at all belongs to these (RFC 9110, 15.3.5 and 15.4.5).
    if status.starts_with("204") || status.starts_with("304") {
        return Answer::Whole(format!("{}\r\n", head(status)));
    }
    Answer::Whole(format!("{}Content-Length: {}\r\n\r\n{body}", head(status), body.len()))
}

/// The begin of a response whose body comes in pieces.
pub fn chunked() -> String {
    format!("{}Transfer-Encoding: chunked\r\n\r\n", head("200 OK"))
}
