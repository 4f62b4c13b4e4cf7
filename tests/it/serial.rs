//! Serial lines over real pseudo terminals and sockets, with a real console and journal.

use crate::journal::{Open, read_all, records};
use pilab::console::{self, ConsoleHandle, ConsoleParts, Status, WriteError};
use pilab::journal::{Entry, Record, Since};
use pilab::model::boot::{BootAttempt, BootStage};
use pilab::model::event::Event;
use pilab::model::lease::FencingToken;
use pilab::model::wiring::ConsoleLine;
use pilab::serial;
use pilab::sim::PtyLine;
use pilab::support::term::Term;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SOON: Duration = Duration::from_secs(20);
const NEW: FencingToken = FencingToken { epoch: 1, sequence: 2 };

/// A console on a line.
struct Rig {
    console: ConsoleHandle,
    journal: Open,
    tracker: TaskTracker,
    token: CancellationToken,
    _dir: TempDir,
}

impl Rig {
    async fn new(line: ConsoleLine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = Open::at(dir.path()).await;
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let (port, reopen_after) = (serial::line(line), Duration::from_millis(10));
        let parts =
            ConsoleParts { port, journal: journal.handle.clone(), reopen_after, term: Term::endless() };
        let console = console::spawn(parts, &tracker, token.clone());
        Self { console, journal, tracker, token, _dir: dir }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.console.status();
        match timeout(SOON, status.wait_for(|status| holds(status))).await {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("{what}: {:?}", *self.console.status().borrow()),
        }
    }

    async fn until_open(&self, open: bool) {
        self.until("open or not", |status| status.open == open).await;
    }

    /// Waits until so many bytes are in the journal.
    async fn until_journaled(&self, bytes: usize) {
        let mut cursor = self.console.subscribe(Since::Start);
        let come = timeout(SOON, async {
            while self.journal.handle.console_offset() < bytes as u64 {
                cursor.next().await.unwrap();
            }
        });
        let come = come.await;
        assert!(come.is_ok(), "{} bytes of {bytes}", self.journal.handle.console_offset());
    }

    /// Ends it, and answers the bytes and the offsets of the gaps.
    async fn end(self) -> (Vec<u8>, Vec<u64>) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        let all = records(read_all(&self.journal.handle, Since::Start).await);
        self.journal.close().await;
        let (mut bytes, mut gaps) = (Vec::new(), Vec::new());
        for Record { entry, .. } in all {
            match entry {
                Entry::Console { offset, bytes: more } => {
                    assert_eq!(offset, bytes.len() as u64, "once and only once");
                    bytes.extend_from_slice(&more);
                }
                Entry::Event(Event::ConsoleGap { offset, .. }) => gaps.push(offset),
                _ => {}
            }
        }
        (bytes, gaps)
    }
}

fn tty(path: &Path) -> ConsoleLine {
    ConsoleLine::Tty { path: path.to_owned(), baud: 115_200 }
}

/// Every byte there is, line ends and 0xff among them, in an order that repeats only after 256 KiB.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from((index ^ (index >> 8)) & 0xff).unwrap()).collect()
}

#[tokio::test]
async fn a_terminal_carries_every_byte_once_over_replugs() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("usb-FTDI_TTL232R-3V3_FTA1B2C3-if00-port0");
    let rig = Rig::new(tty(&name)).await;
    let status = rig.until("not there", |status| status.fault.is_some()).await;
    let fault = status.fault.unwrap();
    assert!(fault.starts_with("cannot open /") && fault.contains("No such file"), "{fault}");
    let (mut sent, mut holes) = (Vec::new(), Vec::new());
    for round in 0..4 {
        // Each time another device, as a kernel names them, and the same name.
        let mut line = PtyLine::plug(&name).unwrap();
        rig.until_open(true).await;
        let chunk = noise(40_000 + round);
        timeout(SOON, line.write_all(&chunk)).await.unwrap().unwrap();
        sent.extend(chunk);
        rig.until_journaled(sent.len()).await;
        rig.console.write(NEW, vec![b'0' + u8::try_from(round).unwrap(), 0xff, b'\r', 3]).await.unwrap();
        let mut typed = [0; 4];
        timeout(SOON, line.read_exact(&mut typed)).await.unwrap().unwrap();
        assert_eq!(typed[1..], [0xff, b'\r', 3], "nothing is translated, and no character is a signal");
        drop(line);
        rig.until_open(false).await;
        assert!(!name.exists(), "its name goes with it");
        holes.push(sent.len() as u64);
    }
    let (bytes, gaps) = rig.end().await;
    assert!(bytes == sent, "{} bytes of {}", bytes.len(), sent.len());
    assert_eq!(gaps, holes);
}

#[tokio::test]
async fn noise_from_a_powering_board_hides_no_stage_and_starts_no_echo() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("tty");
    let mut line = PtyLine::plug(&name).unwrap();
    let rig = Rig::new(tty(&name)).await;
    rig.until_open(true).await;
    rig.console.begin(BootAttempt(1)).await.unwrap();
    let boot = b"\xff\xff\0\xfe\x80\xc3\x1b[6n\x05\x11\x13\r\r\n[    0.0] Linux version 6.1.0\r\r\n";
    line.write_all(boot).await.unwrap();
    let deadline = Instant::now() + SOON;
    rig.console.wait_stage(BootAttempt(1), BootStage::Kernel, deadline).await.unwrap();
    // Neither the terminal nor the console answers to what looks like a question.
    rig.console.write(NEW, "x").await.unwrap();
    let mut typed = [0; 64];
    let read = timeout(SOON, line.read(&mut typed)).await.unwrap().unwrap();
    assert_eq!(&typed[..read], b"x");
    assert_eq!(rig.end().await.0, boot);
}

#[tokio::test]
async fn a_terminal_is_opened_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("tty");
    let _line = PtyLine::plug(&name).unwrap();
    let first = Rig::new(tty(&name)).await;
    first.until_open(true).await;
    let second = Rig::new(tty(&name)).await;
    let status = second.until("refused", |status| status.fault.is_some()).await;
    let fault = status.fault.unwrap();
    assert!(fault.contains("is in use by another program"), "{fault}");
    first.end().await;
    second.until_open(true).await;
    second.end().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("tty");
    let mut line = PtyLine::plug(&name).unwrap();
    let rig = Rig::new(tty(&name)).await;
    rig.until_open(true).await;
    let mut stalled = rig.console.subscribe(Since::Start);
    let all = noise(1 << 20);
    timeout(SOON, line.write_all(&all)).await.expect("the line is read on").unwrap();
    rig.until_journaled(all.len()).await;
    assert!(stalled.next_written().await.unwrap().is_some(), "and it finds what it has not read");
    assert!(rig.end().await.0 == all);
}

#[tokio::test]
async fn a_break_is_sent_by_the_holder_and_audited() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("tty");
    let rig = Rig::new(tty(&name)).await;
    let closed = rig.console.send_break(NEW).await;
    assert!(matches!(closed, Err(WriteError::NotOpen)), "{closed:?}");
    let mut line = PtyLine::plug(&name).unwrap();
    rig.until_open(true).await;
    // A pseudo terminal takes a BREAK and shows nothing of it.
    rig.console.send_break(NEW).await.unwrap();
    rig.console.write(NEW, "h").await.unwrap();
    let mut typed = [0];
    timeout(SOON, line.read_exact(&mut typed)).await.unwrap().unwrap();
    let old = FencingToken { epoch: 1, sequence: 1 };
    let stale = rig.console.send_break(old).await;
    assert!(matches!(stale, Err(WriteError::Fenced(_))), "{stale:?}");
    let all = records(read_all(&rig.journal.handle, Since::Start).await);
    let audit: Vec<_> = all
        .into_iter()
        .filter_map(|record| match record.entry {
            Entry::Event(event @ (Event::ConsoleBreak { .. } | Event::ConsoleWritten { .. })) => Some(event),
            _ => None,
        })
        .collect();
    assert_eq!(audit, [Event::ConsoleBreak { token: NEW }, Event::ConsoleWritten { token: NEW, bytes: 1 }]);
    rig.end().await;
}

/// Plays a server that is restarted: sends, is gone, is back.
async fn serve<S, F>(line: ConsoleLine, mut accept: impl FnMut() -> F)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    F: Future<Output = S>,
{
    let rig = Rig::new(line).await;
    let (mut sent, mut holes) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let mut stream = timeout(SOON, accept()).await.expect("the console connects");
        let chunk = noise(70_000 + round);
        stream.write_all(&chunk).await.unwrap();
        sent.extend(chunk);
        rig.until_journaled(sent.len()).await;
        rig.console.write(NEW, "typed").await.unwrap();
        let mut typed = [0; 5];
        timeout(SOON, stream.read_exact(&mut typed)).await.unwrap().unwrap();
        assert_eq!(&typed, b"typed");
        let unsupported = rig.console.send_break(NEW).await;
        let Err(WriteError::Io(error)) = unsupported else { panic!("{unsupported:?}") };
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
        drop(stream);
        holes.push(sent.len() as u64);
    }
    // It comes again, and is open when the console ends.
    let mut stream = timeout(SOON, accept()).await.expect("the console connects");
    stream.write_all(b".").await.unwrap();
    sent.push(b'.');
    rig.until_journaled(sent.len()).await;
    holes.push(sent.len() as u64);
    let (bytes, gaps) = rig.end().await;
    assert!(bytes == sent, "{} bytes of {}", bytes.len(), sent.len());
    assert_eq!(gaps, holes);
}

#[tokio::test]
async fn a_tcp_server_that_is_restarted_is_a_gap() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    serve(ConsoleLine::Tcp { address }, || async { listener.accept().await.unwrap().0 }).await;
}

#[tokio::test]
async fn a_unix_socket_that_comes_again_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("uart");
    let listener = UnixListener::bind(&path).unwrap();
    serve(ConsoleLine::Unix { path }, || async { listener.accept().await.unwrap().0 }).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("uart");
    let rig = Rig::new(ConsoleLine::Unix { path }).await;
    let fault = rig.until("not there", |status| status.fault.is_some()).await.fault.unwrap();
    assert!(fault.starts_with("cannot connect to /") && fault.contains("No such file"), "{fault}");
    rig.end().await;
    let rig = Rig::new(ConsoleLine::Tcp { address: "127.0.0.1:1".to_owned() }).await;
    let fault = rig.until("not there", |status| status.fault.is_some()).await.fault.unwrap();
    assert!(fault.starts_with("cannot connect to 127.0.0.1:1: Connection refused"), "{fault}");
    rig.end().await;
}
