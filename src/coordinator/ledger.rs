//! The ledger: one task that owns who has which device, and writes each decision down before anybody is told.
//!
//! ```text
//!  requests ──► decide (plan::lease) ──► write (NATS, in order) ──► apply ──► answer
//!  time, devices ──► Tick ──┘  ▲                                                │
//!                              └──────────────── Tick, until nothing follows ◄──┘
//! ```
//!
//! When a write fails, nobody knows whether it was done: the book is read again from the bucket before the next
//! decision, and a decision that was broken off is finished then. Meanwhile nothing is granted, and what has been
//! granted is held until its deadline. A coordinator that another has followed decides nothing any more.

mod store;

use self::store::Store;
use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::model::id::{IdError, LabName};
use crate::model::time::{HostBoot, HostBootError, Moment};
use crate::plan::lease::{Book, Input, Now, Policy, Refusal, decide};
use crate::support::chain::Chain;
use crate::support::clock;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many requests may wait.
const COMMANDS: usize = 256;
/// The longest time between two looks at the clock: it may have become synchronised.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Pause before the bucket is read again after an error.
const RETRY: Duration = Duration::from_millis(500);

/// The ledger did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The rules forbid it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// NATS did not take it, or did not answer.
    #[error("the ledger cannot be reached")]
    Bus(#[from] BusError),
    /// A write failed, and the ledger has not been read again yet.
    #[error("the ledger is being read again after a failed write; try again in a moment")]
    Unsure,
    /// Another coordinator of this lab has taken over.
    #[error("another coordinator of this lab has taken over")]
    Deposed,
    /// Another coordinator wrote at the same moment.
    #[error("another coordinator of this lab is at work")]
    Contended,
    /// A record cannot be read.
    #[error("key {key} of the ledger cannot be read")]
    Record {
        /// The key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A key names nothing.
    #[error("key {key} of the ledger names nothing")]
    Key {
        /// The key.
        key: String,
        /// Why.
        source: IdError,
    },
    /// A record has no JSON form.
    #[error("a record of the ledger cannot be written as JSON: {0}")]
    Encode(String),
    /// What the coordinator's own disk remembers of the ledger cannot be read or written.
    #[error("cannot use {}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel does not say which boot of the host this is.
    #[error("cannot tell this boot of the host from others")]
    Boot(#[from] HostBootError),
    /// Too many requests wait.
    #[error("the ledger has too much to do")]
    Busy,
    /// The ledger has ended.
    #[error("the coordinator is ending")]
    Gone,
}

/// What a ledger is made of.
pub struct LedgerParts {
    /// The connection, with the coordinator's rights.
    pub bus: Bus,
    /// The lab.
    pub lab: LabName,
    /// The lab's rules.
    pub policy: Policy,
    /// The directory on the coordinator's own disk.
    pub dir: PathBuf,
}

type Reading = Box<dyn FnOnce(&Book, &Now) + Send>;

enum Command {
    Decide(Input, oneshot::Sender<Result<(), LedgerError>>),
    Read(Reading),
}

/// Asks the ledger. Clones ask the same one.
#[derive(Clone)]
pub struct Ledger {
    commands: mpsc::Sender<Command>,
    /// Counts the changes.
    version: watch::Receiver<u64>,
}

impl Ledger {
    /// Becomes the writer of the lab's bucket, reads it, and serves it until `stop`.
    pub async fn start(
        parts: LedgerParts,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, LedgerError> {
        let boot: HostBoot = clock::boot_id().parse()?;
        let LedgerParts { bus, lab, policy, dir } = parts;
        let mut store = Store::open(bus.clone(), &lab, dir).await?;
        let book = Book::load(policy, store.load().await?);
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (told, version) = watch::channel(0);
        let hearing_ns = clock::stamp().boot_ns;
        let task = Task { bus, store, book, boot, hearing_ns, sound: true, deposed: false, told };
        tracker.spawn(task.run(inbox, stop));
        Ok(Self { commands, version })
    }

    /// Decides, and answers once the decision is written. What is granted to whom, [`Self::read`] tells.
    pub async fn decide(&self, input: Input) -> Result<(), LedgerError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Decide(input, answer))?;
        answered.await.unwrap_or(Err(LedgerError::Gone))
    }

    /// What the book says.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Book, &Now) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Read(Box::new(move |book, now| {
            // Whoever asked and left needs no answer.
            let _ = answer.send(read(book, now));
        })))?;
        answered.await.map_err(|_| LedgerError::Gone)
    }

    /// Counts the changes: whoever waits for one reads again when this has changed.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    fn send(&self, command: Command) -> Result<(), LedgerError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LedgerError::Busy,
            mpsc::error::TrySendError::Closed(_) => LedgerError::Gone,
        })
    }
}

struct Task {
    bus: Bus,
    store: Store,
    book: Book,
    boot: HostBoot,
    /// Since when holders' processes could be heard without a break, on the boot clock.
    hearing_ns: u64,
    /// The book is what the bucket says.
    sound: bool,
    deposed: bool,
    told: watch::Sender<u64>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut connection = self.bus.connection();
        loop {
            self.settle().await;
            let pause = if self.sound {
                self.book.wake(&self.now()).unwrap_or(MAX_PAUSE).min(MAX_PAUSE)
            } else {
                RETRY
            };
            tokio::select! {
                () = stop.cancelled() => return,
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                Ok(()) = connection.changed() => {
                    if connection.borrow_and_update().up {
                        self.hearing_ns = clock::stamp().boot_ns;
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn now(&self) -> Now {
        let moment = Moment { boot: self.boot, at: clock::stamp(), synchronised: clock::is_synchronised() };
        Now { moment, hearing_ns: self.hearing_ns, next: self.store.next() }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Read(read) => read(&self.book, &self.now()),
            Command::Decide(input, answer) => {
                let decided = self.decide(input).await;
                // Whoever asked and left needs no answer.
                let _ = answer.send(decided);
            }
        }
    }

    async fn decide(&mut self, input: Input) -> Result<(), LedgerError> {
        if self.deposed {
            return Err(LedgerError::Deposed);
        }
        self.make_sound().await?;
        let changes = decide(&self.book, input, &self.now())?;
        self.carry_out(&changes).await
    }

    async fn carry_out(&mut self, changes: &[crate::plan::lease::Change]) -> Result<(), LedgerError> {
        if changes.is_empty() {
            return Ok(());
        }
        // Unsure from before the first write: this future may be dropped in the midst of them.
        self.sound = false;
        self.store.write(changes).await?;
        for change in changes {
            self.book.apply(change);
        }
        self.sound = true;
        self.told.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Reads the book again where a write has failed.
    async fn make_sound(&mut self) -> Result<(), LedgerError> {
        if self.sound {
            return Ok(());
        }
        let records = self.store.load().await.inspect_err(|error| {
            if matches!(error, LedgerError::Deposed) {
                self.deposed = true;
            }
        })?;
        self.book = Book::load(self.book.policy().clone(), records);
        self.sound = true;
        self.told.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Does what is due, until nothing is.
    async fn settle(&mut self) {
        while !self.deposed {
            let done = async {
                self.make_sound().await?;
                let changes = decide(&self.book, Input::Tick, &self.now())?;
                self.carry_out(&changes).await.map(|()| changes.is_empty())
            };
            match done.await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "what is due in the ledger is not done");
                    return;
                }
            }
        }
    }
}
