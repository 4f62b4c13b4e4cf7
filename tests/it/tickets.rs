//! Boot tickets and layers over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use pilab::device::ports::{BootLayer, TicketFate, TicketGrant, TicketOffice, TicketRefusal};
use pilab::model::id::DeviceId;
use pilab::netboot::neighbours::Neighbours;
use pilab::netboot::{LayerSource, Office, OfficeOptions};
use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const MAC: &str = "52:54:00:00:00:01";
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Says of every address that it belongs to the card that the test has set.
#[derive(Clone)]
struct Card(Arc<Mutex<Option<String>>>);

impl Neighbours for Card {
    fn mac(&self, _address: IpAddr) -> Option<String> {
        self.0.lock().unwrap().clone()
    }
}

struct Bench {
    office: Arc<Office>,
    address: SocketAddr,
    card: Card,
    layers: LayerSource,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Bench {
    async fn new() -> Self {
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let card = Card(Arc::new(Mutex::new(Some(MAC.to_owned()))));
        let layers = LayerSource::default();
        let options = OfficeOptions {
            public_url: format!("http://{address}/"),
            layers: layers.clone(),
            neighbours: Box::new(card.clone()),
            layer_news: None,
            boot_files: None,
        };
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let office = Office::start(listener, options, &tracker, token.clone());
        Self { office, address, card, layers, tracker, token }
    }

    /// Issues a ticket; its secret, and what becomes of it.
    async fn issue(&self, window: Duration) -> (String, watch::Receiver<TicketFate>) {
        let (fate, told) = watch::channel(TicketFate::Pending);
        let grant = TicketGrant {
            device: DeviceId::new("lab-vm-1").unwrap(),
            mac: MAC.to_owned(),
            window,
            files: vec![("identity.json".to_owned(), b"{}".to_vec())],
            fate,
        };
        let arguments = self.office.issue(grant).await.unwrap();
        let url = format!("pilab.url=http://{}", self.address);
        let [first, second] = arguments.as_slice() else { panic!("{arguments:?}") };
        assert_eq!(first, &url);
        (second.strip_prefix("pilab.ticket=").unwrap().to_owned(), told)
    }

    async fn exchange(&self, secret: &str) -> Answer {
        let length = secret.len();
        self.request(&format!("POST /v1/ticket HTTP/1.1\r\ncontent-length: {length}\r\n"), secret).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path} HTTP/1.1\r\n"), "").await
    }

    async fn request(&self, head: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{head}host: x\r\nconnection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: answer[end + 4..].to_vec() }
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn refusal(&self) -> (u16, &str) {
        (self.status, std::str::from_utf8(&self.body).unwrap().trim_end())
    }

    fn files(&self) -> HashMap<String, String> {
        assert_eq!(self.status, 200, "{}", self.head);
        unpack(&self.body)
    }
}

fn unpack(tar: &[u8]) -> HashMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (entry.path().unwrap().display().to_string(), text)
    };
    archive.entries().unwrap().map(read).collect()
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_ticket_is_exchanged_once() {
    let bench = Bench::new().await;
    let (secret, mut fate) = bench.issue(MINUTE).await;
    let files = bench.exchange(&format!("{secret}\n")).await.files();
    assert_eq!(files["identity.json"], "{}");
    let seconds: u64 = files["time"].parse().unwrap();
    assert!(seconds.abs_diff(pilab::support::clock::wall_ms() / 1000) < 60, "{seconds}");
    assert_eq!(*fate.borrow_and_update(), TicketFate::Redeemed { address: HOME });

    assert_eq!(bench.exchange(&secret).await.refusal(), (403, "the ticket has been used"));
    let refused = TicketFate::Refused { address: HOME, cause: TicketRefusal::Used, redeemed: Some(HOME) };
    assert_eq!(*fate.borrow_and_update(), refused);
}

/// As our initramfs asks, by the program that it asks with.
#[tokio::test]
async fn an_answer_that_was_lost_is_given_again_to_whoever_chose_its_number() {
    if !crate::agent::lab::installed("busybox", "podman") {
        return;
    }
    let bench = Bench::new().await;
    let (secret, mut told) = bench.issue(MINUTE).await;
    let url = format!("http://{}/v1/ticket", bench.address);
    let ask = async |nonce: &str| {
        let header = format!("Pilab-Nonce: {nonce}");
        let args = ["wget", "-q", "-O", "-", "--header", &header, "--post-data", &secret, &url];
        pilab::support::command::Command::new("busybox").args(args).output().await
    };
    let first = ask("a-number").await.unwrap();
    assert_eq!(*told.borrow_and_update(), TicketFate::Redeemed { address: HOME });
    let identity = |tar: Vec<u8>| unpack(&tar).remove("identity.json");
    assert_eq!(identity(ask("a-number").await.unwrap()), identity(first));
    assert!(!told.has_changed().unwrap(), "it is no second exchange");
    let refused = ask("another").await.unwrap_err().to_string();
    assert!(refused.contains("403"), "{refused}");
    let used = TicketFate::Refused { address: HOME, cause: TicketRefusal::Used, redeemed: Some(HOME) };
    assert_eq!(*told.borrow_and_update(), used);
}

#[tokio::test]
async fn many_at_once_get_one_answer() {
    let bench = Bench::new().await;
    let (secret, _fate) = bench.issue(MINUTE).await;
    let answers = futures_util::future::join_all((0..16).map(|_| bench.exchange(&secret))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
}

#[tokio::test]
async fn another_card_is_refused_and_takes_nothing_away() {
    let bench = Bench::new().await;
    let (secret, fate) = bench.issue(MINUTE).await;
    for card in [Some("52:54:00:00:00:02".to_owned()), None] {
        *bench.card.0.lock().unwrap() = card;
        let refusal = bench.exchange(&secret).await;
        assert_eq!(refusal.refusal(), (403, "the ticket is for another device's address"));
    }
    let refused = TicketFate::Refused { address: HOME, cause: TicketRefusal::WrongAddress, redeemed: None };
    assert_eq!(*fate.borrow(), refused);
    *bench.card.0.lock().unwrap() = Some(MAC.to_owned());
    assert_eq!(bench.exchange(&secret).await.status, 200);
}

#[tokio::test]
async fn a_ticket_ends_with_its_window_a_successor_or_a_revocation() {
    let bench = Bench::new().await;
    let (expired, fate) = bench.issue(Duration::ZERO).await;
    assert_eq!(bench.exchange(&expired).await.refusal(), (403, "the ticket has expired"));
    assert!(matches!(*fate.borrow(), TicketFate::Refused { cause: TicketRefusal::Expired, .. }));

    let (replaced, _fate) = bench.issue(MINUTE).await;
    let (revoked, _fate) = bench.issue(MINUTE).await;
    assert_eq!(bench.exchange(&replaced).await.refusal(), (403, "no such ticket"));
    bench.office.revoke(&DeviceId::new("lab-vm-1").unwrap()).await.unwrap();
    assert_eq!(bench.exchange(&revoked).await.refusal(), (403, "no such ticket"));
    assert_eq!(bench.exchange("").await.status, 403);
    assert_eq!(bench.exchange(&"x".repeat(257)).await.status, 413);
}

#[tokio::test]
async fn layers_are_served_by_hash_and_nothing_else_is() {
    let bench = Bench::new().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    let content: Vec<u8> = (0..1_000_003u32).map(|n| n.to_le_bytes()[0]).collect();
    std::fs::write(&path, &content).unwrap();
    let sha256 = "ab".repeat(32);
    assert_eq!(bench.get(&format!("/v1/layer/{sha256}")).await.status, 404);
    bench.layers.register(&BootLayer { path, sha256: sha256.clone() });
    let answer = bench.get(&format!("/v1/layer/{sha256}")).await;
    assert!(answer.head.contains("content-length: 1000003"), "{}", answer.head);
    assert!(answer.body == content, "{} bytes", answer.body.len());
    for path in ["/v1/layer/", "/v1/layer/..%2f..%2fetc%2fpasswd", "/v1/layer/layer", "/"] {
        assert_eq!(bench.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn closing_the_office_cuts_what_is_open() {
    let bench = Bench::new().await;
    let mut idle = TcpStream::connect(bench.address).await.unwrap();
    idle.write_all(b"POST /v1/ticket HTTP/1.1\r\n").await.unwrap();
    bench.token.cancel();
    bench.tracker.close();
    tokio::time::timeout(Duration::from_secs(10), bench.tracker.wait()).await.unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
}
