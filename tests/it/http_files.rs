//! Boot files over HTTP, with curl as the client: what it gets, and what is told of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::agent::lab::installed;
use pilab::netboot::tftp::content::{Content, Refusal};
use pilab::netboot::tftp::event::{Abort, FileEvent, FileProgress, Refused};
use pilab::netboot::tftp::path::BootPath;
use pilab::netboot::{HttpFiles, LayerSource, Office, OfficeOptions};
use pilab::support::command::Command;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

const DEADLINE: Duration = Duration::from_secs(60);
/// More than one piece, and more than the buffers of a connection hold.
const LONG: usize = 40_000_001;

struct Bench {
    address: SocketAddr,
    events: mpsc::Receiver<FileEvent>,
    dir: tempfile::TempDir,
    _stop: DropGuard,
}

impl Bench {
    /// Serves the file `a/long` from two parts, one of them on disk, and refuses `b/`.
    async fn new() -> Option<Self> {
        if !installed("curl", "rack") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::write(&disk, &pattern()[1_000_000..]).unwrap();
        let files = move |_: SocketAddr, path: &BootPath| match path.as_str() {
            "a/long" => {
                let head = Content::Bytes(pattern()[..1_000_000].to_vec().into());
                Content::open(&disk)
                    .map(|disk| Content::join(vec![head, disk]))
                    .map_err(|_| Refusal::NotFound)
            }
            "b/x" => Err(Refusal::Forbidden("it is b's".to_owned())),
            _ => Err(Refusal::NotFound),
        };
        let (news, events) = mpsc::channel(100);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = OfficeOptions {
            boot_files: Some(HttpFiles { files: Arc::new(files), news }),
            ..OfficeOptions::new(format!("http://{address}"), LayerSource::default())
        };
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        Office::start(listener, options, &tracker, token.clone());
        Some(Self { address, events, dir, _stop: token.drop_guard() })
    }

    /// What curl says of the answer: its status, and the length that it announces.
    async fn curl(&self, options: &[&str], path: &str, to: &Path) -> String {
        let url = format!("http://{}/v1/boot/{path}", self.address);
        let command =
            Command::new("curl").args(["-sS", "--path-as-is", "-w", "%{http_code} %header{content-length}"]);
        let command = command.args(options.iter().copied()).arg("-o").arg(to).arg(url).timeout(DEADLINE);
        String::from_utf8(command.output().await.unwrap()).unwrap()
    }

    async fn event(&mut self) -> (String, FileProgress) {
        let event = timeout(DEADLINE, self.events.recv()).await.unwrap().unwrap();
        (event.path.to_string(), event.what)
    }
}

fn pattern() -> Vec<u8> {
    (0..251_u8).cycle().take(LONG).collect()
}

#[tokio::test]
async fn a_file_comes_whole_and_its_length_alone_where_that_is_asked_for() {
    let Some(mut bench) = Bench::new().await else { return };
    let to = bench.dir.path().join("got");
    let (path, length) = ("a/long".to_owned(), LONG as u64);
    assert_eq!(bench.curl(&["--head"], "a/long", &to).await, format!("200 {LONG}"));
    let (asked, what) = bench.event().await;
    assert!(matches!(what, FileProgress::Aborted { cause: Abort::Client { code: 0, .. }, .. }), "{what:?}");
    assert_eq!(asked, path);

    assert_eq!(bench.curl(&[], "a//long", &to).await, format!("200 {LONG}"));
    assert!(std::fs::read(&to).unwrap() == pattern(), "other bytes came");
    let requested = FileProgress::Requested { length, block_size: 0, window: 0 };
    assert_eq!(bench.event().await, (path.clone(), requested));
    let (_, what) = bench.event().await;
    assert!(
        matches!(what, FileProgress::Done { bytes, confirmed: false, .. } if bytes == length),
        "{what:?}"
    );

    // Whoever hangs up in the middle has not got it.
    let mut client = TcpStream::connect(bench.address).await.unwrap();
    client.write_all(b"GET /v1/boot/a/long HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    client.read_exact(&mut [0; 1000]).await.unwrap();
    drop(client);
    assert!(matches!(bench.event().await.1, FileProgress::Requested { .. }));
    let (_, what) = bench.event().await;
    assert!(
        matches!(what, FileProgress::Aborted { bytes, cause: Abort::Stalled, .. } if bytes < length),
        "{what:?}"
    );
}

#[tokio::test]
async fn what_is_not_to_be_had_is_not_there_and_only_the_journal_hears_why() {
    let Some(mut bench) = Bench::new().await else { return };
    let to = bench.dir.path().join("got");
    let forbidden = Refused::File(Refusal::Forbidden("it is b's".to_owned()));
    for (path, status, refused) in
        [("a/short", "404", Refused::File(Refusal::NotFound)), ("b/x", "404", forbidden)]
    {
        assert!(bench.curl(&[], path, &to).await.starts_with(status), "{path}");
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "no such file\n");
        assert_eq!(bench.event().await, (path.to_owned(), FileProgress::Refused(refused)));
    }
    for path in ["a/../b/x", "a/%2e%2e/b/x", "a/%00", "a/b%5cx"] {
        assert!(bench.curl(&[], path, &to).await.starts_with("400"), "{path}");
        let (shown, what) = bench.event().await;
        assert!(matches!(what, FileProgress::Refused(Refused::Path(_))), "{path}: {what:?}");
        assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{shown:?}");
    }
}
