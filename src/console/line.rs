//! The task that owns a console's line: opens it, reads it, opens it again, and writes to it for the
//! one who may.

use super::handle::WriteError;
use super::port::{ByteStream, Line};
use super::recorder::Note;
use crate::journal::JournalHandle;
use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::lease::{Fence, Fenced, FencingToken};
use crate::support::chain::Chain;
use crate::support::term::Term;
use bytes::Bytes;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// The size of a read.
const READ: usize = 16 * 1024;
/// For how long bytes gather in the kernel before a line is read again that was read shortly before: a UART gives a few bytes
/// each time, and each piece costs a record and a message. Less than 1 KiB comes at 3 Mbaud meanwhile, and the kernel keeps 4.
const GATHER: Duration = Duration::from_millis(2);
/// How long a write may take: 4 KiB need 0.4 s at 115200 baud, and QEMU takes no more while its guest
/// is paused.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked of the line task.
#[derive(Debug)]
pub(super) enum Command {
    /// Write bytes to the line.
    Write(FencingToken, Bytes, Done),
    /// Send a BREAK on the line.
    Break(FencingToken, Done),
    /// From now on refuse holders before this one.
    Fence(FencingToken, oneshot::Sender<Result<(), Fenced>>),
    /// To be passed on to the recorder, in order with the bytes.
    Note(Note),
}

type Half = WriteHalf<Box<dyn Line>>;
/// Where the outcome of a write goes.
type Done = oneshot::Sender<Result<(), WriteError>>;
/// A write that is under way; gives the line's half back.
type Writing = Pin<Box<dyn Future<Output = Half> + Send>>;

pub(super) struct LineTask {
    port: Arc<dyn ByteStream>,
    journal: JournalHandle,
    notes: mpsc::Sender<Note>,
    attempt: BootAttempt,
    reopen_after: Duration,
    fence: Fence,
    term: Term,
}

/// Whose turn it is to write.
enum Writer {
    Closed,
    Idle(Half),
    /// Whose, and how it is told to end.
    Busy(Writing, FencingToken, CancellationToken),
}

impl LineTask {
    pub(super) fn new(
        port: Arc<dyn ByteStream>,
        journal: JournalHandle,
        notes: mpsc::Sender<Note>,
        attempt: BootAttempt,
        reopen_after: Duration,
        term: Term,
    ) -> Self {
        Self { port, journal, notes, attempt, reopen_after, fence: Fence::default(), term }
    }

    /// Keeps the line open until `token` is cancelled.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, token: CancellationToken) {
        let port = Arc::clone(&self.port);
        while !token.is_cancelled() {
            let since = Instant::now();
            match self.meanwhile(port.open(), &mut commands, &token).await {
                Some(Ok(line)) => {
                    self.note(Note::Opened).await;
                    let cause = self.pump(line, &mut commands, &token).await;
                    self.note(Note::Gone(cause)).await;
                }
                Some(Err(error)) => {
                    let cause = Chain(&error).to_string();
                    self.note(Note::Unopened(cause)).await;
                }
                None => return,
            }
            // A line that stayed for a while is opened again at once, so that little is missed.
            let _ = self.meanwhile(sleep_until(since + self.reopen_after), &mut commands, &token).await;
        }
    }

    /// Waits for something while there is no line. None when the token is cancelled.
    async fn meanwhile<T>(
        &mut self,
        wait: impl Future<Output = T>,
        commands: &mut mpsc::Receiver<Command>,
        token: &CancellationToken,
    ) -> Option<T> {
        let mut wait = std::pin::pin!(wait);
        loop {
            tokio::select! {
                () = token.cancelled() => return None,
                done = &mut wait => return Some(done),
                Some(command) = commands.recv() => self.obey(command, &mut Writer::Closed).await,
            }
        }
    }

    /// Reads the line until it is gone, and answers why.
    async fn pump(
        &mut self,
        line: Box<dyn Line>,
        commands: &mut mpsc::Receiver<Command>,
        token: &CancellationToken,
    ) -> String {
        let (mut reader, half) = tokio::io::split(line);
        let mut writer = Writer::Idle(half);
        let mut buffer = Vec::with_capacity(READ);
        let mut pace = Pace::default();
        let mut cancelled = std::pin::pin!(token.cancelled());
        loop {
            let read = async {
                if let Some(until) = pace.until {
                    sleep_until(until).await;
                }
                reader.read_buf(&mut buffer).await
            };
            tokio::select! {
                () = &mut cancelled => return "the coordinator stops".to_owned(),
                read = read => match read {
                    // A hung-up tty answers 0 for ever.
                    Ok(0) => return "the line is gone".to_owned(),
                    Ok(length) => {
                        pace.read(length, Instant::now());
                        self.note(Note::Bytes(Bytes::copy_from_slice(&buffer))).await;
                        buffer.clear();
                    }
                    Err(error) => return format!("the line cannot be read: {}", Chain(&error)),
                },
                half = writer.written() => writer = Writer::Idle(half),
                Some(command) = commands.recv() => self.obey(command, &mut writer).await,
            }
        }
    }

    async fn obey(&mut self, command: Command, writer: &mut Writer) {
        match command {
            Command::Note(note) => {
                if let Note::Begin(attempt, _) = &note {
                    self.attempt = *attempt;
                }
                self.note(note).await;
            }
            // Whoever asked and left needs no answer; here and below.
            Command::Fence(token, fenced) => {
                let admitted = self.fence.admit(token);
                if admitted.is_ok() {
                    writer.end_before(token).await;
                }
                let _ = fenced.send(admitted);
            }
            Command::Write(token, bytes, done) => {
                if let Some((half, done)) = self.turn(token, writer, done) {
                    let audit = Event::ConsoleWritten { token, bytes: bytes.len() as u64 };
                    *writer = self.begin(half, token, audit, done, Act::Bytes(bytes));
                }
            }
            Command::Break(token, done) => {
                if let Some((half, done)) = self.turn(token, writer, done) {
                    let audit = Event::ConsoleBreak { token };
                    *writer = self.begin(half, token, audit, done, Act::Break(Arc::clone(&self.port)));
                }
            }
        }
    }

    /// Begins to write, or to send a BREAK.
    fn begin(&self, half: Half, token: FencingToken, audit: Event, done: Done, act: Act) -> Writer {
        let stop = CancellationToken::new();
        let task = Task {
            half,
            journal: self.journal.clone(),
            attempt: self.attempt,
            term: self.term.clone(),
            stop: stop.clone(),
        };
        Writer::Busy(Box::pin(task.run(audit, act, done)), token, stop)
    }

    /// The line's half, when it is this holder's turn to use it; otherwise says why not.
    fn turn(&mut self, token: FencingToken, writer: &mut Writer, done: Done) -> Option<(Half, Done)> {
        let refused = match self.fence.admit(token) {
            Err(fenced) => WriteError::Fenced(fenced),
            Ok(()) => match std::mem::replace(writer, Writer::Closed) {
                Writer::Idle(half) => return Some((half, done)),
                busy @ Writer::Busy(..) => {
                    *writer = busy;
                    WriteError::Busy
                }
                Writer::Closed => WriteError::NotOpen,
            },
        };
        let _ = done.send(Err(refused));
        None
    }

    /// Tells the recorder, waiting when it is behind. It ends only after this task.
    async fn note(&self, note: Note) {
        let _ = self.notes.send(note).await;
    }
}

/// When a line is read again.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    /// None: as soon as there is something.
    until: Option<Instant>,
}

impl Pace {
    /// The line gave so many bytes. The first after a silence are passed on at once, and so is all that comes in large pieces.
    fn read(&mut self, length: usize, now: Instant) {
        let busy = self.last.replace(now).is_some_and(|last| now - last < 2 * GATHER);
        self.until = (busy && length < READ / 2).then(|| now + GATHER);
    }
}

impl Writer {
    /// Waits for the write that is under way; for ever when there is none.
    async fn written(&mut self) -> Half {
        match self {
            Self::Busy(writing, ..) => writing.await,
            Self::Idle(_) | Self::Closed => pending().await,
        }
    }

    /// Ends what a holder before this one is writing.
    async fn end_before(&mut self, token: FencingToken) {
        if let Self::Busy(writing, by, stop) = self
            && *by < token
        {
            stop.cancel();
            *self = Self::Idle(writing.await);
        }
    }
}

/// What is done to the line.
enum Act {
    Bytes(Bytes),
    Break(Arc<dyn ByteStream>),
}

/// One write, or BREAK.
struct Task {
    half: Half,
    journal: JournalHandle,
    attempt: BootAttempt,
    term: Term,
    /// Cancelled when its holder has lost the device.
    stop: CancellationToken,
}

impl Task {
    /// Journals who writes, and then writes. Nothing is written meanwhile.
    async fn run(mut self, audit: Event, act: Act, done: Done) -> Half {
        let stop = self.stop.clone();
        let result = stop.run_until_cancelled(self.write(audit, act)).await;
        let _ = done.send(result.unwrap_or(Err(WriteError::Revoked)));
        self.half
    }

    async fn write(&mut self, audit: Event, act: Act) -> Result<(), WriteError> {
        self.journal.event(self.attempt, audit).await.map_err(WriteError::NotAudited)?;
        self.term.check()?;
        match act {
            Act::Bytes(bytes) => match timeout(WRITE_TIMEOUT, self.write_all(&bytes)).await {
                Ok(written) => written,
                Err(_) => Err(WriteError::Stalled),
            },
            Act::Break(port) => port.send_break().await.map_err(WriteError::Io),
        }
    }

    /// A line may take its bytes one by one: each time it does, this process must still be the one to write.
    async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let (half, term) = (&mut self.half, &self.term);
            let written = poll_fn(|cx| match term.check() {
                Ok(()) => Pin::new(&mut *half).poll_write(cx, bytes).map_err(WriteError::Io),
                Err(lapsed) => Poll::Ready(Err(lapsed.into())),
            });
            let written = written.await?;
            bytes = bytes
                .get(written..)
                .filter(|_| written > 0)
                .ok_or_else(|| WriteError::Io(io::ErrorKind::WriteZero.into()))?;
        }
        self.half.flush().await.map_err(WriteError::Io)
    }
}
