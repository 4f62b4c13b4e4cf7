//! What has been sent to the bucket and is not known to be stored, and what is told once it is.

use super::error::LedgerError;
use super::handle::Reply;
use super::options::Clock;
use crate::bus::error::BusError;
use crate::bus::sole_writer::{Sent, SoleWriter};
use crate::model::ledger::{Epoch, LEDGER_VERSION, Stored};
use crate::plan::lease::Change;
use crate::support::chain::Chain;
use crate::support::term::Term;
use crate::wire::subject::EPOCH_KEY;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;

/// How many writes are on their way at a time: no more requests are looked at meanwhile.
const MAX_SENT: usize = 256;
/// So many of the last writes no deletion mark is removed from: an old server forgets its last sequence with
/// the last messages.
const MARKS_KEPT: u64 = 1024;
/// How many marks are removed at a time.
const MAX_ERASING: usize = 32;

/// A change could not be sent.
pub(super) enum SendError {
    /// The connection does not take it.
    Bus(BusError),
    /// It does not become JSON.
    Encode(serde_json::Error),
}

/// A write that is stored.
#[derive(Clone, Copy)]
struct Written {
    sequence: u64,
    /// On the boot clock in nanoseconds.
    sent_ns: u64,
    /// Whether the ledger is another one by it.
    matters: bool,
}

/// What ends when this coordinator has written nothing for so long.
pub(super) struct Tenure {
    pub(super) term: Term,
    pub(super) length: Duration,
    pub(super) clock: Clock,
}

impl Tenure {
    fn now(&self) -> u64 {
        (self.clock)().at.boot_ns
    }
}

/// The writes that are on their way, in order.
pub(super) struct Outbox {
    writer: SoleWriter,
    /// Each tells its sequence, and when it was sent.
    sent: FuturesOrdered<BoxFuture<'static, Result<Written, BusError>>>,
    /// What is to be told once the write with this sequence is stored, in order.
    replies: VecDeque<(u64, Reply)>,
    /// The sequences of deletion marks, in order.
    marks: VecDeque<u64>,
    erasing: FuturesUnordered<BoxFuture<'static, ()>>,
    stored: watch::Sender<u64>,
    tenure: Tenure,
    /// When the last write was sent, on the boot clock in nanoseconds.
    last_ns: u64,
}

impl Outbox {
    /// With this writer, on a bucket that has marks of deletions. `stored` tells the last sequence that is stored.
    pub(super) fn new(
        writer: SoleWriter,
        marks: Vec<u64>,
        stored: watch::Sender<u64>,
        tenure: Tenure,
    ) -> Self {
        let (sent, erasing) = (FuturesOrdered::new(), FuturesUnordered::new());
        stored.send_replace(writer.next() - 1);
        let marks = marks.into();
        Self { writer, sent, replies: VecDeque::new(), marks, erasing, stored, tenure, last_ns: 0 }
    }

    /// Writes under the epoch's key, which proves that nobody else has the ledger.
    pub(super) async fn send_epoch(&mut self, epoch: &Epoch) -> Result<(), SendError> {
        let value = serde_json::to_vec(epoch).map_err(SendError::Encode)?;
        let sent_ns = self.tenure.now();
        let sent = self.writer.put(EPOCH_KEY, value).await.map_err(SendError::Bus)?;
        self.push(sent, sent_ns, false);
        Ok(())
    }

    /// How long until something has to be written so that this coordinator may go on to act.
    pub(super) fn until_renewal(&self) -> Duration {
        let since = Duration::from_nanos(self.tenure.now().saturating_sub(self.last_ns));
        (self.tenure.length / 3).saturating_sub(since)
    }

    fn push(&mut self, sent: Sent, sent_ns: u64, matters: bool) {
        self.last_ns = sent_ns;
        self.sent.push_back(Box::pin(async move {
            let sequence = sent.stored().await?;
            Ok(Written { sequence, sent_ns, matters })
        }));
    }

    /// Goes on with another writer. Nothing may be on its way.
    pub(super) fn begin(&mut self, writer: SoleWriter, marks: Vec<u64>) {
        self.stored.send_replace(writer.next() - 1);
        (self.writer, self.marks) = (writer, marks.into());
    }

    /// The sequence that the next write will have.
    pub(super) fn next(&self) -> u64 {
        self.writer.next()
    }

    pub(super) fn is_full(&self) -> bool {
        self.sent.len() >= MAX_SENT
    }

    pub(super) async fn send(&mut self, change: &Change) -> Result<(), SendError> {
        let (sequence, sent_ns) = (self.writer.next(), self.tenure.now());
        let sent = match change {
            Change::Put(record) => {
                let stored = Stored { version: LEDGER_VERSION, record: record.clone() };
                let value = serde_json::to_vec(&stored).map_err(SendError::Encode)?;
                self.writer.put(record.key().to_string(), value).await
            }
            Change::Delete(key) => {
                self.marks.push_back(sequence);
                self.writer.delete(key.to_string()).await
            }
        };
        self.push(sent.map_err(SendError::Bus)?, sent_ns, true);
        Ok(())
    }

    /// Tells once all that was sent until now is stored.
    pub(super) fn reply(&mut self, reply: Reply) {
        let sequence = self.writer.next() - 1;
        if sequence <= *self.stored.borrow() {
            reply(Ok(()));
        } else {
            self.replies.push_back((sequence, reply));
        }
    }

    /// Waits until one more write is stored, for ever when there is none. Cancel safe: what it waits for is kept.
    pub(super) async fn progress(&mut self) -> Result<(), BusError> {
        tokio::select! {
            Some(stored) = self.sent.next(), if !self.sent.is_empty() => self.stored(stored?),
            Some(()) = self.erasing.next(), if !self.erasing.is_empty() => self.erase(),
            () = std::future::pending() => {}
        }
        Ok(())
    }

    /// Waits until all that was sent is stored.
    pub(super) async fn settle(&mut self) -> Result<(), BusError> {
        while let Some(stored) = self.sent.next().await {
            self.stored(stored?);
        }
        Ok(())
    }

    /// Nobody knows what of that which was sent is stored.
    pub(super) fn fail(&mut self, error: &LedgerError) {
        (self.sent, self.erasing) = (FuturesOrdered::new(), FuturesUnordered::new());
        for (_, reply) in self.replies.drain(..) {
            reply(Err(error.clone()));
        }
    }

    /// All up to this write is stored.
    fn stored(&mut self, written: Written) {
        let Written { sequence, sent_ns, matters } = written;
        let length = u64::try_from(self.tenure.length.as_nanos()).unwrap_or(u64::MAX);
        // Nobody else had the ledger when it was sent, or it would not be stored.
        self.tenure.term.renew(sent_ns.saturating_add(length));
        self.stored.send_if_modified(|stored| {
            *stored = sequence;
            matters
        });
        while let Some((_, reply)) = self.replies.pop_front_if(|(needed, _)| *needed <= sequence) {
            reply(Ok(()));
        }
        self.erase();
    }

    /// Removes deletion marks that are old enough. One that is left is removed after the next start.
    fn erase(&mut self) {
        let stored = *self.stored.borrow();
        while self.erasing.len() < MAX_ERASING
            && let Some(mark) = self.marks.pop_front_if(|mark| *mark + MARKS_KEPT <= stored)
        {
            let writer = self.writer.clone();
            self.erasing.push(Box::pin(async move {
                if let Err(error) = writer.erase(mark).await {
                    tracing::debug!(mark, error = %Chain(&error), "a deletion mark stays");
                }
            }));
        }
    }
}
