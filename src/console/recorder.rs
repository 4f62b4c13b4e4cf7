//! The task that puts a console's bytes into the journal, in order, and then looks for stages in them.

use super::stages::{Detector, Found};
use crate::journal::{Entry, Item, JournalError, JournalHandle, Record, Since};
use crate::model::boot::{BootAttempt, BootStage};
use crate::model::event::Event;
use crate::model::time::Stamp;
use crate::support::chain::Chain;
use crate::support::clock;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

/// How often it is tried to tell the journal of a hole, while nothing more comes that would be journaled.
const AGAIN: Duration = Duration::from_secs(1);

/// A stage that the device has reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageReached {
    /// The stage.
    pub stage: BootStage,
    /// When the bytes that show it were journaled.
    pub stamp: Stamp,
    /// The line that showed it: at most 200 characters, without escape sequences.
    pub line: String,
    /// The absolute console offset at which it was recognised.
    pub offset: u64,
    /// In which boot of the attempt, from 1: more than one when the device began anew by itself.
    pub boot: u32,
}

impl StageReached {
    /// What there is to add for people when it was not the first boot.
    pub fn again(&self) -> String {
        if self.boot > 1 { format!(", in boot {} of this attempt", self.boot) } else { String::new() }
    }
}

/// The stages of the current boot attempt, in the order they were reached, also before a restart of
/// this process. Progress is there once for each boot, trouble each time, up to a bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stages {
    /// The attempt.
    pub attempt: BootAttempt,
    /// Its stages.
    pub reached: Vec<StageReached>,
}

impl Stages {
    /// The first time a stage was reached.
    pub fn get(&self, stage: BootStage) -> Option<&StageReached> {
        self.reached.iter().find(|reached| reached.stage == stage)
    }

    /// The last stage of progress.
    pub fn last(&self) -> Option<&StageReached> {
        self.reached.iter().rfind(|reached| !reached.stage.is_trouble())
    }
}

/// How a console is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Its line is open.
    pub open: bool,
    /// Why it is not, or why what is read cannot be journaled.
    pub fault: Option<String>,
    /// Why there is a hole in what was recorded, as long as the journal cannot tell of it.
    pub untold: Option<String>,
}

/// What the line task tells, in the order it happened.
#[derive(Debug)]
pub(super) enum Note {
    /// The line is open.
    Opened,
    /// Bytes came.
    Bytes(Bytes),
    /// The line is gone.
    Gone(String),
    /// The line could not be opened.
    Unopened(String),
    /// What comes from here on belongs to another boot attempt. Answers the offset of its first byte.
    Begin(BootAttempt, oneshot::Sender<u64>),
    /// Asks for the last lines.
    LastLines(usize, oneshot::Sender<Vec<String>>),
}

/// A hole of which the journal does not tell yet: bytes that could not be journaled, or the line's end.
struct Hole {
    offset: u64,
    cause: String,
}

pub(super) struct Recorder {
    journal: JournalHandle,
    stages: watch::Sender<Stages>,
    status: watch::Sender<Status>,
    detector: Detector,
    attempt: BootAttempt,
    /// The absolute offset of the next byte.
    offset: u64,
    hole: Option<Hole>,
    /// Whether the line is open.
    open: bool,
}

impl Recorder {
    pub(super) fn new(
        journal: JournalHandle,
        stages: watch::Sender<Stages>,
        status: watch::Sender<Status>,
    ) -> Self {
        let attempt = journal.recovered().attempt;
        let offset = journal.recovered().console_offset;
        stages.send_replace(Stages { attempt, reached: Vec::new() });
        Self {
            journal,
            stages,
            status,
            detector: Detector::default(),
            attempt,
            offset,
            hole: None,
            open: false,
        }
    }

    /// Records until the line task has ended.
    pub(super) async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        if let Err(error) = self.recall().await {
            tracing::warn!("earlier boot stages are not known: {}", Chain(&error));
        }
        if self.journal.recovered().console_open {
            self.gap("the coordinator was not running".to_owned()).await;
        }
        loop {
            tokio::select! {
                note = notes.recv() => match note {
                    Some(note) => self.note(note).await,
                    None => return,
                },
                () = sleep(AGAIN), if self.hole.is_some() => {
                    self.close_hole().await;
                }
            }
        }
    }

    async fn note(&mut self, note: Note) {
        match note {
            Note::Opened => {
                self.open = true;
                match self.hole.as_ref().map(|hole| hole.cause.clone()) {
                    None => {
                        self.event(Event::ConsoleOpened {}).await;
                        self.set_status(true, None);
                    }
                    cause => {
                        if !self.close_hole().await {
                            self.set_status(true, cause);
                        }
                    }
                }
            }
            Note::Bytes(bytes) => self.bytes(bytes).await,
            Note::Gone(cause) => {
                let whole = self.close_hole().await;
                self.open = false;
                let found = self.detector.flush(self.offset);
                self.reached(found, clock::stamp()).await;
                // A hole that is there already reaches up to the line's next beginning.
                if whole {
                    self.gap(cause.clone()).await;
                }
                self.set_status(false, Some(cause));
            }
            Note::Unopened(cause) => self.set_status(false, Some(cause)),
            Note::Begin(attempt, begun) => {
                let found = self.detector.begin(self.offset);
                self.reached(found, clock::stamp()).await;
                self.attempt = attempt;
                self.stages.send_replace(Stages { attempt, reached: Vec::new() });
                // Whoever asked and left needs no answer; the attempt has begun all the same.
                let _ = begun.send(self.offset);
            }
            Note::LastLines(count, lines) => {
                let _ = lines.send(self.detector.last_lines(count));
            }
        }
    }

    /// Reads the stages that this attempt had reached when the last process ended.
    async fn recall(&mut self) -> Result<(), JournalError> {
        let mut cursor = self.journal.cursor(Since::Attempt(self.attempt));
        let mut reached = Vec::new();
        while let Some(item) = cursor.next_written().await? {
            if let Item::Record(Record { stamp, attempt, entry: Entry::Event(event), .. }) = item
                && attempt == self.attempt
                && let Event::Stage { stage, line, offset, boot } = event
            {
                self.detector.recall(stage, boot);
                reached.push(StageReached { stage, stamp, line, offset, boot });
            }
        }
        self.stages.send_modify(|stages| stages.reached = reached);
        Ok(())
    }

    async fn bytes(&mut self, bytes: Bytes) {
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        if !self.close_hole().await {
            return;
        }
        match self.journal.console(self.attempt, offset, bytes.clone()).await {
            Ok(receipt) => {
                let found = self.detector.push(offset, &bytes);
                self.reached(found, receipt.stamp).await;
            }
            Err(error) => self.lose(offset, &error),
        }
    }

    /// Records the hole, when there is one and writing works again. False when it does not.
    async fn close_hole(&mut self) -> bool {
        let Some(Hole { offset, cause }) = &self.hole else {
            return true;
        };
        let lost = Event::ConsoleGap { cause: cause.clone(), offset: *offset };
        let closed = match self.journal.event(self.attempt, lost).await {
            Ok(_) if self.open => self.journal.event(self.attempt, Event::ConsoleOpened {}).await,
            told => told,
        };
        if closed.is_ok() {
            self.hole = None;
            let fault = if self.open { None } else { self.status.borrow().fault.clone() };
            self.set_status(self.open, fault);
        }
        closed.is_ok()
    }

    /// The bytes from an offset on are lost.
    fn lose(&mut self, offset: u64, error: &JournalError) {
        let cause = format!("the journal could not be written: {}", Chain(error));
        tracing::error!("console bytes are being lost: {cause}");
        // The line is not complete, so nothing may be recognised across the hole.
        self.detector.flush(offset);
        self.hole = Some(Hole { offset, cause: cause.clone() });
        self.set_status(true, Some(cause));
    }

    async fn reached(&mut self, found: Vec<Found>, stamp: Stamp) {
        for Found { stage, line, offset, boot } in found {
            self.event(Event::Stage { stage, line: line.clone(), offset, boot }).await;
            self.stages.send_modify(|stages| {
                stages.reached.push(StageReached { stage, stamp, line, offset, boot });
            });
        }
    }

    async fn gap(&mut self, cause: String) {
        let offset = self.offset;
        if !self.event(Event::ConsoleGap { cause: cause.clone(), offset }).await {
            self.hole = Some(Hole { offset, cause });
        }
    }

    /// Journals an event that tells of the console. That it could not be journaled is seen in the
    /// status and the log; the bytes go on. Answers whether it is.
    async fn event(&mut self, event: Event) -> bool {
        let journaled = self.journal.event(self.attempt, event).await;
        if let Err(error) = &journaled {
            let fault = Chain(error).to_string();
            tracing::error!("an event of the console is lost: {fault}");
            self.status.send_modify(|status| status.fault = Some(fault));
        }
        journaled.is_ok()
    }

    fn set_status(&self, open: bool, fault: Option<String>) {
        let untold = self.hole.as_ref().map(|hole| hole.cause.clone());
        self.status.send_if_modified(|status| {
            let new = Status { open, fault, untold };
            let changed = *status != new;
            *status = new;
            changed
        });
    }
}
