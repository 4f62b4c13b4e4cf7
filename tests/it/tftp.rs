//! The TFTP server over real sockets, with the clients that others wrote: curl, BusyBox and tftp-hpa.

use crate::agent::lab::installed;
use pilab::netboot::tftp::{
    Abort, BootFiles, BootPath, Content, FileEvent, FileProgress, Limits, Refusal, TftpOptions, TftpServer,
};
use pilab::support::command::Command;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DEADLINE: Duration = Duration::from_secs(60);
/// Around the ends of blocks of 512 and of 1468 bytes, and what takes more than one read from the disk.
const LENGTHS: [usize; 9] = [0, 1, 511, 512, 513, 1467, 1468, 2936, 300_000];

fn pattern(length: usize) -> Vec<u8> {
    (0..251_u8).cycle().take(length).collect()
}

struct Server {
    address: SocketAddr,
    events: mpsc::Receiver<FileEvent>,
    dir: tempfile::TempDir,
    tasks: TaskTracker,
    token: CancellationToken,
}

impl Server {
    /// Serves the files named by their lengths from a directory, with two kinds of content in turn.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for length in LENGTHS {
            std::fs::write(dir.path().join(length.to_string()), pattern(length)).unwrap();
        }
        let root = dir.path().to_owned();
        let files = move |_: SocketAddr, path: &BootPath| {
            let name = path.as_str().strip_prefix("dir/").ok_or(Refusal::NotFound)?;
            Content::open(&root.join(name)).map_err(|_| Refusal::NotFound)
        };
        Self::serve(files, dir, Limits { per_address: 64, requests: 10_000, ..Limits::default() })
    }

    fn serve(files: impl BootFiles, dir: tempfile::TempDir, limits: Limits) -> Self {
        let options = TftpOptions { limits, ..TftpOptions::new("127.0.0.1:0".parse().unwrap()) };
        let server = TftpServer::bind(options).unwrap();
        let (address, (sender, events)) = (server.address(), mpsc::channel(1024));
        let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
        server.start(Arc::new(files), sender, &tasks, token.clone()).unwrap();
        tasks.close();
        Self { address, events, dir, tasks, token }
    }

    /// The next thing that happened.
    async fn event(&mut self) -> FileProgress {
        tokio::time::timeout(DEADLINE, self.events.recv()).await.expect("nothing happened").unwrap().what
    }

    async fn stop(self) {
        self.token.cancel();
        tokio::time::timeout(DEADLINE, self.tasks.wait()).await.expect("the server did not end");
    }

    fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Lets a client fetch each file, and one that is not there. `client` makes the command for a name and
    /// where to put it.
    async fn serves(self, lengths: &[usize], client: impl Fn(&str, &Path) -> Command) {
        let target = self.dir.path().join("fetched");
        for &length in lengths {
            let _ = std::fs::remove_file(&target);
            let command = client(&format!("dir//{length}"), &target).timeout(DEADLINE);
            command.output().await.unwrap_or_else(|error| panic!("{error}"));
            // Some clients make no file for nothing.
            let fetched = std::fs::read(&target).unwrap_or_default();
            assert!(fetched == pattern(length), "{}: {} bytes of {length}", command.line(), fetched.len());
        }
        let command = client("dir/nothing", &target).timeout(DEADLINE);
        let output = command.output().await;
        let complaint = match output {
            Ok(stdout) => String::from_utf8_lossy(&stdout).into_owned(),
            Err(error) => error.to_string(),
        };
        let complaint = complaint.to_lowercase();
        assert!(complaint.contains("not found") || complaint.contains("ended with"), "{complaint}");
        self.stop().await;
    }
}

fn curl(address: SocketAddr, options: &[&str]) -> impl Fn(&str, &Path) -> Command {
    let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    move |name, target| {
        let url = format!("tftp://{address}/{name}");
        Command::new("curl").args(["-sS", "--fail"]).args(options.clone()).arg("-o").arg(target).arg(url)
    }
}

#[tokio::test]
async fn curl_fetches_every_length_with_options_and_without() {
    if !installed("curl", "rack") {
        return;
    }
    // curl takes the length 0 in an OACK for a mistake.
    let not_empty = &LENGTHS[1..];
    for (options, lengths) in
        [(&["--tftp-blksize", "1468"][..], not_empty), (&[], not_empty), (&["--tftp-no-options"], &LENGTHS)]
    {
        let server = Server::start();
        let client = curl(server.address, options);
        server.serves(lengths, client).await;
    }
}

#[tokio::test]
async fn busybox_fetches_every_length_with_options_and_without() {
    if !installed("busybox", "rack") {
        return;
    }
    for options in [&["-b", "1468"][..], &["-b", "65464"], &[]] {
        let server = Server::start();
        let port = server.port();
        let client = |name: &str, target: &Path| {
            let command = Command::new("busybox").args(["tftp", "-g", "-r", name, "-l"]).arg(target);
            command.args(options).args(["127.0.0.1", &port])
        };
        server.serves(&LENGTHS, client).await;
    }
}

#[tokio::test]
async fn tftp_hpa_fetches_every_length() {
    if !installed("tftp", "rack") {
        return;
    }
    let server = Server::start();
    let port = server.port();
    let client = |name: &str, target: &Path| {
        let command = Command::new("tftp").args(["-m", "binary", "127.0.0.1", &port, "-c", "get", name]);
        command.arg(target)
    };
    server.serves(&LENGTHS, client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_clients_fetch_at_once() {
    if !installed("curl", "rack") {
        return;
    }
    let server = Server::start();
    let mut clients = JoinSet::new();
    for n in 0..40 {
        let target = server.dir.path().join(format!("to-{n}"));
        let command = curl(server.address, &["--tftp-blksize", "1468"])("dir/300000", &target);
        clients.spawn(async move {
            command.timeout(DEADLINE).output().await.unwrap();
            assert!(std::fs::read(target).unwrap() == pattern(300_000));
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    server.stop().await;
}

/// A client whose packets the test writes.
struct Raw {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Raw {
    async fn new(server: &Server) -> Self {
        Self { socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(), server: server.address }
    }

    async fn request(&self, text: &str) {
        let packet = [&[0, 1], text.as_bytes()].concat();
        self.socket.send_to(&packet, self.server).await.unwrap();
    }

    async fn answer(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2000];
        let arrived = tokio::time::timeout(DEADLINE, self.socket.recv_from(&mut buffer)).await;
        let (length, from) = arrived.expect("no answer").unwrap();
        (buffer[..length].to_vec(), from)
    }
}

const PI_4: &str = "dir/300000\0octet\0tsize\x000\0blksize\x001468\0";
const OACK: &[u8] = b"\0\x06tsize\x00300000\0blksize\x001468\0";

#[tokio::test]
async fn a_pi_that_aborts_and_asks_again_from_the_same_port_is_answered_at_once() {
    let mut server = Server::start();
    let pi = Raw::new(&server).await;
    let mut before = None;
    for _ in 0..20 {
        pi.request(PI_4).await;
        let (packet, from) = pi.answer().await;
        assert_eq!(packet, OACK);
        assert_ne!(from.port(), server.address.port(), "the answer comes from a new port");
        assert_ne!(Some(from), before.replace(from), "and from another than the last");
        pi.socket.send_to(b"\0\x05\0\0Early terminate\0", from).await.unwrap();
        let requested = FileProgress::Requested { length: 300_000, block_size: 1468, window: 1 };
        assert_eq!(server.event().await, requested);
        match server.event().await {
            FileProgress::Aborted { bytes: 0, cause: Abort::Client { code: 0, message }, .. } => {
                assert_eq!(message, "Early terminate");
            }
            other => panic!("{other:?}"),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_window_is_sent_in_order_and_what_happens_is_told() {
    let mut server = Server::start();
    let client = Raw::new(&server).await;
    client.request("dir/2936\0octet\0blksize\x001000\0windowsize\x004\0").await;
    let (packet, from) = client.answer().await;
    assert_eq!(packet, b"\0\x06blksize\x001000\0windowsize\x004\0");
    client.socket.send_to(&[0, 4, 0, 0], from).await.unwrap();
    let mut file = Vec::new();
    for block in 1..=3 {
        let (packet, _) = client.answer().await;
        assert_eq!(packet[..4], [0, 3, 0, block]);
        file.extend_from_slice(&packet[4..]);
    }
    assert!(file == pattern(2936));
    client.socket.send_to(&[0, 4, 0, 3], from).await.unwrap();
    let requested = FileProgress::Requested { length: 2936, block_size: 1000, window: 4 };
    assert_eq!(server.event().await, requested);
    assert_eq!(server.event().await, FileProgress::FirstByte);
    let done = server.event().await;
    assert!(matches!(done, FileProgress::Done { bytes: 2936, confirmed: true, .. }), "{done:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_file_that_shrinks_ends_its_transfer_with_words() {
    let mut server = Server::start();
    let client = Raw::new(&server).await;
    client.request(PI_4).await;
    let (_, from) = client.answer().await;
    std::fs::write(server.dir.path().join("300000"), "short").unwrap();
    client.socket.send_to(&[0, 4, 0, 0], from).await.unwrap();
    let (packet, _) = client.answer().await;
    assert_eq!(packet, b"\0\x05\0\0The file cannot be read\0");
    let events = [server.event().await, server.event().await, server.event().await];
    let unreadable =
        |event: &FileProgress| matches!(event, FileProgress::Aborted { cause: Abort::Unreadable(_), .. });
    assert!(events.iter().any(unreadable), "{events:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_flood_from_one_address_leaves_the_other_s_transfer_alone() {
    let dir = tempfile::tempdir().unwrap();
    let files = |_: SocketAddr, _: &BootPath| Ok(Content::Bytes(pattern(300_000).into()));
    let server = Server::serve(files, dir, Limits { requests: 20, ..Limits::default() });
    let flooder = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let client = Raw::new(&server).await;
    client.request(PI_4).await;
    let (_, from) = client.answer().await;
    client.socket.send_to(&[0, 4, 0, 0], from).await.unwrap();
    let mut file = Vec::new();
    for block in 1..=205_u64 {
        for _ in 0..20 {
            flooder.send_to(b"\0\x01f\0octet\0", server.address).await.unwrap();
        }
        let (packet, _) = client.answer().await;
        assert_eq!(u64::from(packet[3]), block % 256);
        file.extend_from_slice(&packet[4..]);
        client.socket.send_to(&[0, 4, packet[2], packet[3]], from).await.unwrap();
    }
    assert!(file == pattern(300_000));
    server.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_with_a_hint() {
    let server = Server::start();
    let error = TftpServer::bind(TftpOptions::new(server.address)).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot serve TFTP on {}", server.address));
    assert!(error.hint().unwrap().contains("another TFTP server has port"), "{:?}", error.hint());
    server.stop().await;
}
