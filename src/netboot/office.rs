//! The ticket office: an HTTP server over the [`Book`] and the [`LayerSource`].

use super::connection::{BoundedListener, Peer};
use super::http_files::HttpFiles;
use super::layers::LayerSource;
use super::neighbours::{KernelNeighbours, Neighbours};
use super::ticket::{Answer, Book, Secret};
use crate::device::ports::{PortFuture, TicketFate, TicketGrant, TicketOffice, TicketRefusal};
use crate::model::id::DeviceId;
use crate::model::identity::file;
use crate::support::clock;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The most bytes of a ticket exchange's body; a secret has 64.
const MAX_SECRET: usize = 256;

/// Carries the number that a device chooses for its exchange, so that it may ask again for an answer that was lost.
const NONCE: &str = "pilab-nonce";

/// How many bytes of a layer are read at a time.
const CHUNK: usize = 128 * 1024;

/// The time within which the body of an exchange must have come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How an office is set up.
pub struct OfficeOptions {
    /// The URL by which devices reach the listener, for example `http://192.168.122.1:40123`.
    pub public_url: String,
    /// What layers may be fetched.
    pub layers: LayerSource,
    /// Whose address is whose.
    pub neighbours: Box<dyn Neighbours>,
    /// Who is told how far layers are; while that is full, nobody is.
    pub layer_news: Option<mpsc::Sender<LayerSent>>,
    /// Boot files that are served here too.
    pub boot_files: Option<HttpFiles>,
}

/// How far a layer is on its way to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSent {
    /// To whom.
    pub to: IpAddr,
    /// Which: SHA-256, hex.
    pub sha256: String,
    /// How many bytes have been sent.
    pub sent: u64,
    /// How many it has.
    pub bytes: u64,
}

impl OfficeOptions {
    /// With the kernel's neighbour table.
    pub fn new(public_url: impl Into<String>, layers: LayerSource) -> Self {
        Self {
            public_url: public_url.into(),
            layers,
            neighbours: Box::new(KernelNeighbours),
            layer_news: None,
            boot_files: None,
        }
    }
}

/// Issues tickets and answers devices.
pub struct Office {
    options: OfficeOptions,
    book: Mutex<Book>,
}

impl Office {
    /// Serves on `listener` until `token` is cancelled; open connections are cut then.
    pub fn start(
        listener: TcpListener,
        options: OfficeOptions,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> Arc<Self> {
        let boot_files = options.boot_files.clone();
        let office = Arc::new(Self { options, book: Mutex::default() });
        let router = Router::new()
            .route("/v1/ticket", post(exchange))
            .route("/v1/layer/{sha256}", get(layer))
            .with_state(Arc::clone(&office))
            .merge(boot_files.map_or_else(Router::new, HttpFiles::router));
        let listener = BoundedListener::new(listener, token.clone());
        let service = router.into_make_service_with_connect_info::<Peer>();
        let server = axum::serve(listener, service).with_graceful_shutdown(token.cancelled_owned());
        tracker.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the ticket office ended");
            }
        });
        office
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Redeems `secret`; the answer's files, or why not. Tells the grant's owner either way.
    fn redeem(
        &self,
        secret: &[u8],
        nonce: Option<&[u8]>,
        address: IpAddr,
    ) -> Result<Vec<(String, Vec<u8>)>, TicketRefusal> {
        let mac = self.options.neighbours.mac(address);
        let mut book = self.book();
        let exchange = book.redeem(secret, nonce, address, mac.as_deref(), Instant::now());
        let device = exchange.grant.map_or("unknown", |grant| grant.device.as_str());
        let fate = match exchange.result {
            Ok(Answer::First) => {
                tracing::info!(device, %address, "boot ticket exchanged");
                Some(TicketFate::Redeemed { address })
            }
            Ok(Answer::Again) => {
                tracing::info!(device, %address, "a boot ticket's answer was asked for again");
                None
            }
            Err(cause) => {
                let mac = mac.as_deref().unwrap_or("unknown");
                tracing::warn!(device, %address, mac, %cause, "boot ticket refused");
                Some(TicketFate::Refused { address, cause, redeemed: exchange.redeemed })
            }
        };
        if let (Some(grant), Some(fate)) = (exchange.grant, fate) {
            grant.fate.send_replace(fate);
        }
        exchange.result.map(|_| exchange.grant.map(|grant| grant.files.clone()).unwrap_or_default())
    }
}

impl TicketOffice for Office {
    fn issue(&self, grant: TicketGrant) -> PortFuture<'_, Vec<String>> {
        Box::pin(async move {
            let secret = Secret::from_random(rand::random());
            let url = self.options.public_url.trim_end_matches('/');
            let arguments = vec![format!("pilab.url={url}"), format!("pilab.ticket={}", secret.as_str())];
            self.book().issue(&secret, grant, Instant::now());
            Ok(arguments)
        })
    }

    fn revoke<'a>(&'a self, device: &'a DeviceId) -> PortFuture<'a, ()> {
        Box::pin(async move {
            self.book().revoke(device);
            Ok(())
        })
    }
}

/// `POST /v1/ticket`.
async fn exchange(
    State(office): State<Arc<Office>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_SECRET)).await;
    let secret = match body {
        Ok(Ok(secret)) => secret,
        Ok(Err(_)) => return line(StatusCode::PAYLOAD_TOO_LARGE, "the body is not a ticket"),
        Err(_) => return line(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    let nonce = headers.get(NONCE).map(HeaderValue::as_bytes);
    match office.redeem(secret.trim_ascii(), nonce, canonical(peer)) {
        Ok(files) => match archive(&files, clock::wall_ms() / 1000) {
            Ok(tar) => ([(header::CONTENT_TYPE, "application/x-tar")], tar).into_response(),
            Err(error) => {
                tracing::error!(%error, "cannot answer a boot ticket");
                line(StatusCode::INTERNAL_SERVER_ERROR, "cannot make the answer")
            }
        },
        Err(cause) => line(StatusCode::FORBIDDEN, &cause.to_string()),
    }
}

/// A device on a dual-stack listener shows as an IPv4-mapped address.
fn canonical(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

fn line(status: StatusCode, text: &str) -> Response {
    (status, format!("{text}\n")).into_response()
}

/// The answer to a ticket: the files and `time`, readable by root alone.
fn archive(files: &[(String, Vec<u8>)], seconds: u64) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let time = (file::TIME.to_owned(), seconds.to_string().into_bytes());
    for (name, content) in files.iter().chain([&time]) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_mtime(0);
        header.set_size(u64::try_from(content.len()).map_err(io::Error::other)?);
        archive.append_data(&mut header, name, content.as_slice())?;
    }
    archive.into_inner()
}

/// `GET /v1/layer/<sha256>`.
async fn layer(
    State(office): State<Arc<Office>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    Path(sha256): Path<String>,
) -> Response {
    let Some(path) = office.options.layers.path(&sha256) else {
        return line(StatusCode::NOT_FOUND, "no such layer");
    };
    let opened = async {
        let file = File::open(&path).await?;
        let length = file.metadata().await?.len();
        io::Result::Ok((file, length))
    };
    match opened.await {
        Ok((file, length)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, length.to_string()),
            ];
            let sent = LayerSent { to: canonical(peer), sha256, sent: 0, bytes: length };
            (headers, Body::from_stream(chunks(file, sent, office.options.layer_news.clone())))
                .into_response()
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot read a layer");
            line(StatusCode::INTERNAL_SERVER_ERROR, "cannot read the layer")
        }
    }
}

/// The first bytes of the file, in pieces; `news` is told at the begin, the end, and each tenth between.
fn chunks(
    file: File,
    layer: LayerSent,
    news: Option<mpsc::Sender<LayerSent>>,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    let tell = move |layer: &LayerSent| {
        // Progress that nobody reads in time is no loss.
        let _ = news.as_ref().map(|news| news.try_send(layer.clone()));
    };
    tell(&layer);
    futures_util::stream::try_unfold(
        (file.take(layer.bytes), layer, tell),
        |(mut file, mut layer, tell)| async move {
            let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
            let read = file.read_buf(&mut chunk).await?;
            let tenth = |sent: u64| sent.saturating_mul(10).checked_div(layer.bytes);
            let sent = layer.sent + read as u64;
            let news = tenth(sent) != tenth(layer.sent);
            layer.sent = sent;
            if news {
                tell(&layer);
            }
            Ok((read > 0).then(|| (chunk.freeze(), (file, layer, tell))))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_answer_holds_the_files_and_the_time_for_root_alone() {
        let tar = archive(&[(file::IDENTITY.to_owned(), b"{}".to_vec())], 1_700_000_000).unwrap();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let header = entry.header();
            assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (0o600, 0));
            seen.push((entry.path().unwrap().display().to_string(), text));
        }
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(seen, [file("identity.json", "{}"), file("time", "1700000000")]);
    }
}
