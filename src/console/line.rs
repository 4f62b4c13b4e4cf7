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
use bytes::{Bytes, BytesMut};
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// The size of a read.
const READ: usize = 16 * 1024;
/// How long a write may take: 4 KiB need 0.4 s at 115200 baud, and QEMU takes no more while its guest
/// is paused.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

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
}

/// Whose turn it is to write.
enum Writer {
    Closed,
    Idle(Half),
    Busy(Writing),
}

impl LineTask {
    pub(super) fn new(
        port: Arc<dyn ByteStream>,
        journal: JournalHandle,
        notes: mpsc::Sender<Note>,
        attempt: BootAttempt,
        reopen_after: Duration,
    ) -> Self {
        Self { port, journal, notes, attempt, reopen_after, fence: Fence::default() }
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
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            tokio::select! {
                () = token.cancelled() => return "the coordinator stops".to_owned(),
                read = reader.read_buf(&mut buffer) => match read {
                    // A hung-up tty answers 0 for ever.
                    Ok(0) => return "the line is gone".to_owned(),
                    Ok(_) => self.note(Note::Bytes(buffer.split().freeze())).await,
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
                let _ = fenced.send(self.fence.admit(token));
            }
            Command::Write(token, bytes, done) => {
                if let Some((half, done)) = self.turn(token, writer, done) {
                    let writing = write(half, self.journal.clone(), self.attempt, token, bytes, done);
                    *writer = Writer::Busy(Box::pin(writing));
                }
            }
            Command::Break(token, done) => {
                if let Some((half, done)) = self.turn(token, writer, done) {
                    let port = Arc::clone(&self.port);
                    let sending = send_break(half, port, self.journal.clone(), self.attempt, token, done);
                    *writer = Writer::Busy(Box::pin(sending));
                }
            }
        }
    }

    /// The line's half, when it is this holder's turn to use it; otherwise says why not.
    fn turn(&mut self, token: FencingToken, writer: &mut Writer, done: Done) -> Option<(Half, Done)> {
        let refused = match self.fence.admit(token) {
            Err(fenced) => WriteError::Fenced(fenced),
            Ok(()) => match std::mem::replace(writer, Writer::Closed) {
                Writer::Idle(half) => return Some((half, done)),
                Writer::Busy(writing) => {
                    *writer = Writer::Busy(writing);
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

impl Writer {
    /// Waits for the write that is under way; for ever when there is none.
    async fn written(&mut self) -> Half {
        match self {
            Self::Busy(writing) => writing.await,
            Self::Idle(_) | Self::Closed => pending().await,
        }
    }
}

/// Journals who writes, and then writes.
async fn write(
    mut half: Half,
    journal: JournalHandle,
    attempt: BootAttempt,
    token: FencingToken,
    bytes: Bytes,
    done: Done,
) -> Half {
    let audit = Event::ConsoleWritten { token, bytes: bytes.len() as u64 };
    let result = match journal.event(attempt, audit).await {
        Ok(_) => match timeout(WRITE_TIMEOUT, write_all(&mut half, &bytes)).await {
            Ok(written) => written.map_err(WriteError::Io),
            Err(_) => Err(WriteError::Stalled),
        },
        Err(error) => Err(WriteError::NotAudited(error)),
    };
    let _ = done.send(result);
    half
}

/// Journals who sends a BREAK, and then sends it. Nothing is written meanwhile.
async fn send_break(
    half: Half,
    port: Arc<dyn ByteStream>,
    journal: JournalHandle,
    attempt: BootAttempt,
    token: FencingToken,
    done: Done,
) -> Half {
    let result = match journal.event(attempt, Event::ConsoleBreak { token }).await {
        Ok(_) => port.send_break().await.map_err(WriteError::Io),
        Err(error) => Err(WriteError::NotAudited(error)),
    };
    let _ = done.send(result);
    half
}

async fn write_all(half: &mut Half, bytes: &[u8]) -> io::Result<()> {
    half.write_all(bytes).await?;
    half.flush().await
}
