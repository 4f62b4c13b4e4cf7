//! Boot files over HTTP, for UEFI that asks so: the same files as over TFTP, for the same addresses.

use super::connection::Peer;
use super::tftp::content::{BootFiles, Content, Refusal};
use super::tftp::event::{Abort, FileEvent, FileProgress, Refused};
use super::tftp::path::BootPath;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// How many bytes of a file are read at a time.
const CHUNK: u64 = 128 * 1024;
/// The longest name that an event keeps, in characters.
const MAX_NAME: usize = 255;

/// The files, and who is told what becomes of them; while that is full, nobody is.
#[derive(Clone)]
pub struct HttpFiles {
    /// Says which file a client gets.
    pub files: Arc<dyn BootFiles>,
    /// Who is told.
    pub news: mpsc::Sender<FileEvent>,
}

impl HttpFiles {
    /// Where they are, below the server's root.
    pub const PATH: &str = "/v1/boot/";

    /// What serves them.
    pub(super) fn router(self) -> Router {
        Router::new().route("/v1/boot/{*path}", get(file)).with_state(self)
    }

    fn open(&self, peer: SocketAddr, path: &str) -> (String, Result<Content, Refused>) {
        match BootPath::parse(path.as_bytes()) {
            Ok(path) => (path.to_string(), self.files.open(peer, &path).map_err(Refused::File)),
            Err(cause) => {
                let shown = |c: char| if c.is_ascii_graphic() { c } else { '?' };
                (path.chars().map(shown).take(MAX_NAME).collect(), Err(Refused::Path(cause)))
            }
        }
    }
}

/// `GET /v1/boot/<path>`; UEFI asks by HEAD how long it is.
async fn file(
    State(files): State<HttpFiles>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    method: Method,
    Path(path): Path<String>,
) -> Response {
    let (path, opened) = files.open(peer, &path);
    let mut telling =
        Telling { peer, path: path.into(), news: files.news, begun: Instant::now(), sent: 0, of: None };
    let content = match opened {
        Ok(content) => content,
        Err(refused) => {
            let status = match refused {
                Refused::File(Refusal::NotFound | Refusal::Forbidden(_)) => StatusCode::NOT_FOUND,
                Refused::File(Refusal::Unreadable(_)) => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::BAD_REQUEST,
            };
            telling.tell(FileProgress::Refused(refused));
            // The reason is for the journal.
            return (status, "no such file\n").into_response();
        }
    };
    let length = content.length();
    let headers =
        [(header::CONTENT_TYPE, "application/efi".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    if method == Method::HEAD {
        let cause = Abort::Client { code: 0, message: "HEAD".to_owned() };
        telling.tell(FileProgress::Aborted { bytes: 0, took: telling.begun.elapsed(), cause });
        return (headers, Body::empty()).into_response();
    }
    telling.tell(FileProgress::Requested { length, block_size: 0, window: 0 });
    telling.of = Some(length);
    (headers, Body::from_stream(chunks(content, telling))).into_response()
}

fn chunks(content: Content, telling: Telling) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    futures_util::stream::try_unfold((content, telling), |(content, mut telling)| async move {
        let left = content.length().saturating_sub(telling.sent);
        if left == 0 {
            return Ok(None);
        }
        let (source, from) = (content.clone(), telling.sent);
        let read = move || {
            let mut chunk = vec![0; usize::try_from(left.min(CHUNK)).unwrap_or(0)];
            source.read_exact_at(&mut chunk, from).map(|()| Bytes::from(chunk))
        };
        let chunk = spawn_blocking(read).await.map_err(io::Error::other)??;
        telling.sent += chunk.len() as u64;
        Ok(Some((chunk, (content, telling))))
    })
}

/// Tells what becomes of one answer; the end, once its body is dropped.
struct Telling {
    peer: SocketAddr,
    path: Arc<str>,
    news: mpsc::Sender<FileEvent>,
    begun: Instant,
    /// How many bytes have been taken.
    sent: u64,
    /// Of how many, once some are.
    of: Option<u64>,
}

impl Telling {
    fn tell(&self, what: FileProgress) {
        let event = FileEvent { at: Instant::now(), peer: self.peer, path: Arc::clone(&self.path), what };
        // As over TFTP: a journal that cannot keep up has a gap, and no board waits.
        let _ = self.news.try_send(event);
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let (bytes, took) = (self.sent, self.begun.elapsed());
        match self.of {
            // The last piece has been taken; whether it arrived TCP does not say.
            Some(length) if bytes == length => {
                self.tell(FileProgress::Done { bytes, took, confirmed: false });
            }
            Some(_) => self.tell(FileProgress::Aborted { bytes, took, cause: Abort::Stalled }),
            None => {}
        }
    }
}
