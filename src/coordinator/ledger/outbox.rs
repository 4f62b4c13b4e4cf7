//! What has been sent to the bucket and is not known to be stored, and what is told once it is.

use super::error::LedgerError;
use super::handle::Reply;
use crate::bus::error::BusError;
use crate::bus::sole_writer::SoleWriter;
use crate::model::ledger::{LEDGER_VERSION, Stored};
use crate::plan::lease::Change;
use crate::support::chain::Chain;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use std::collections::VecDeque;
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

/// The writes that are on their way, in order.
pub(super) struct Outbox {
    writer: SoleWriter,
    sent: FuturesOrdered<BoxFuture<'static, Result<u64, BusError>>>,
    /// What is to be told once the write with this sequence is stored, in order.
    replies: VecDeque<(u64, Reply)>,
    /// The sequences of deletion marks, in order.
    marks: VecDeque<u64>,
    erasing: FuturesUnordered<BoxFuture<'static, ()>>,
    stored: watch::Sender<u64>,
}

impl Outbox {
    /// With this writer, on a bucket that has marks of deletions. `stored` tells the last sequence that is stored.
    pub(super) fn new(writer: SoleWriter, marks: Vec<u64>, stored: watch::Sender<u64>) -> Self {
        let (sent, erasing) = (FuturesOrdered::new(), FuturesUnordered::new());
        stored.send_replace(writer.next() - 1);
        Self { writer, sent, replies: VecDeque::new(), marks: marks.into(), erasing, stored }
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
        let sequence = self.writer.next();
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
        self.sent.push_back(Box::pin(sent.map_err(SendError::Bus)?.stored()));
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

    /// All up to this sequence is stored.
    fn stored(&mut self, sequence: u64) {
        self.stored.send_replace(sequence);
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
