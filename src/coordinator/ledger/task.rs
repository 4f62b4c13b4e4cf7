//! The task that owns the book: decides, sends, follows, and answers what is stored.

use super::error::{LedgerError, TakeError};
use super::handle::{Ask, LedgerHandle, Read, Waiter};
use super::options::LedgerOptions;
use super::outbox::{Outbox, SendError, Tenure};
use super::points::FailPoint;
use super::take::{Taken, Taker};
use crate::bus::connect::Connection;
use crate::bus::error::BusError;
use crate::model::id::LeaseId;
use crate::model::lease::{FencingToken, Lease};
use crate::model::ledger::{Epoch, Key, Record};
use crate::plan::lease::{Book, Change, Input, Now, Refusal, decide};
use crate::support::chain::Chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many requests wait for the task: a tenth of a second of them at the speed that is asked of it.
const MAX_ASKS: usize = 256;
/// How long it sleeps at most: nothing tells when the wall clock becomes synchronised, or is set.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The pause before it is tried again to take the ledger.
const PAUSE: Duration = Duration::from_millis(500);
/// How long what was sent may take to be stored at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// Takes the lab's ledger, whoever has it, and starts its task.
pub async fn start(
    options: LedgerOptions,
    tracker: &TaskTracker,
    shutdown: CancellationToken,
) -> Result<LedgerHandle, TakeError> {
    let me = rand::random();
    let connection = options.bus.connection();
    let taken = Box::pin(taker(&options, me).take(None)).await?;
    let (stored, stored_seen) = watch::channel(0);
    let (asks, inbox) = mpsc::channel(MAX_ASKS);
    let task = Task::new(options, me, taken, stored);
    tracker.spawn(task.run(inbox, connection, shutdown));
    Ok(LedgerHandle::new(asks, stored_seen))
}

fn taker(options: &LedgerOptions, me: u64) -> Taker<'_> {
    let LedgerOptions { bus, lab, epoch_file, hook, clock, tenure, longest_act, silence, .. } = options;
    let (now, acts_for) = (clock(), tenure.saturating_add(*longest_act));
    let (boot, now_ns, silence, hook) = (now.boot, now.at.boot_ns, *silence, hook.as_ref());
    Taker { bus, lab, disk: epoch_file, me, boot, acts_for, silence, now_ns, hook }
}

/// Why the task does not go on as it is.
enum Trouble {
    Bus(BusError),
    Disconnected,
    Encode(serde_json::Error),
}

impl From<SendError> for Trouble {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Bus(error) => Self::Bus(error),
            SendError::Encode(error) => Self::Encode(error),
        }
    }
}

enum Ended {
    Shutdown,
    Trouble(Trouble),
    Deposed(u64),
}

struct Task {
    options: LedgerOptions,
    me: u64,
    epoch: u64,
    book: Book,
    outbox: Outbox,
    /// Since when holders could be heard, on the boot clock in nanoseconds.
    hearing_ns: u64,
    waiters: BTreeMap<LeaseId, Vec<Waiter>>,
}

impl Task {
    fn new(options: LedgerOptions, me: u64, taken: Taken, stored: watch::Sender<u64>) -> Self {
        let Taken { epoch, wait, writer, records, marks } = taken;
        let (term, clock, length) = (options.term.clone(), Arc::clone(&options.clock), options.tenure);
        let now = clock().at.boot_ns;
        term.begin(now.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)));
        if !wait.is_zero() {
            let seconds = wait.as_secs();
            tracing::warn!(seconds, "another coordinator had the ledger: no device is touched for so long");
        }
        let outbox = Outbox::new(writer, marks, stored, Tenure { term, length, clock });
        let book = Book::load(options.policy.clone(), []);
        let mut task = Self { options, me, epoch, book, outbox, hearing_ns: 0, waiters: BTreeMap::new() };
        task.load(epoch, records);
        task
    }

    /// Begins with what is in the bucket.
    fn load(&mut self, epoch: u64, records: Vec<Record>) {
        tracing::info!(lab = %self.options.lab, epoch, records = records.len(), "the ledger is taken");
        self.book = Book::load(self.options.policy.clone(), records);
        self.epoch = epoch;
        self.hearing_ns = (self.options.clock)().at.boot_ns;
        for (id, waiters) in std::mem::take(&mut self.waiters) {
            match self.book.lease(&id) {
                None if self.book.is_queued(&id) => {
                    self.waiters.insert(id, waiters);
                }
                lease => {
                    let end = lease.cloned().ok_or(LedgerError::Away);
                    tell(waiters, &end);
                }
            }
        }
    }

    async fn run(
        mut self,
        mut asks: mpsc::Receiver<Ask>,
        mut connection: watch::Receiver<Connection>,
        shutdown: CancellationToken,
    ) {
        loop {
            let ended = match self.lead(&mut asks, &mut connection, &shutdown).await {
                Ended::Trouble(trouble) => {
                    warn(&trouble);
                    self.outbox.fail(&LedgerError::Away);
                    self.regain(&mut asks, &mut connection, &shutdown).await
                }
                ended => Some(ended),
            };
            match ended {
                None => {}
                Some(Ended::Deposed(epoch)) => {
                    tracing::error!(lab = %self.options.lab, epoch, "another coordinator has taken the ledger");
                    self.options.term.end();
                    let deposed = LedgerError::Deposed { epoch };
                    for waiters in std::mem::take(&mut self.waiters).into_values() {
                        tell(waiters, &Err(deposed.clone()));
                    }
                    while let Some(Some(ask)) = shutdown.run_until_cancelled(asks.recv()).await {
                        refuse(ask, deposed.clone());
                    }
                    return;
                }
                Some(Ended::Shutdown | Ended::Trouble(_)) => return self.resign().await,
            }
        }
    }

    /// Takes requests as long as all goes well.
    async fn lead(
        &mut self,
        asks: &mut mpsc::Receiver<Ask>,
        connection: &mut watch::Receiver<Connection>,
        shutdown: &CancellationToken,
    ) -> Ended {
        let mut wake = Duration::ZERO;
        // A connection that was lost and is back has lost answers that were on their way.
        // It tells that it is up a moment after it is.
        let up = shutdown.run_until_cancelled(connection.wait_for(|now| now.up));
        let Some(Ok(epoch)) = up.await.map(|up| up.map(|now| now.epoch)) else { return Ended::Shutdown };
        let is_same = |now: &Connection| now.up && now.epoch == epoch;
        loop {
            if wake.is_zero() {
                if let Err(trouble) = self.settle().await {
                    return Ended::Trouble(trouble);
                }
                if self.outbox.until_renewal().is_zero()
                    && let Err(error) = self.outbox.send_epoch(&self.myself(false)).await
                {
                    return Ended::Trouble(error.into());
                }
                wake = self.book.wake(&self.now()).unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
                wake = wake.min(self.outbox.until_renewal());
                // Nothing more follows now, whatever the book says of itself.
                wake = wake.max(Duration::from_millis(1));
            }
            // Each arm is cancel safe: a channel, a watch, a stream of futures that it owns, a sleep.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ended::Shutdown,
                changed = connection.changed() => {
                    if changed.is_err() || !is_same(&connection.borrow_and_update()) {
                        return Ended::Trouble(Trouble::Disconnected);
                    }
                }
                progress = self.outbox.progress() => {
                    if let Err(error) = progress {
                        return Ended::Trouble(Trouble::Bus(error));
                    }
                }
                ask = asks.recv(), if !self.outbox.is_full() => {
                    let Some(ask) = ask else { return Ended::Shutdown };
                    if let Err(trouble) = self.handle(ask).await {
                        return Ended::Trouble(trouble);
                    }
                    wake = Duration::ZERO;
                }
                () = tokio::time::sleep(wake) => wake = Duration::ZERO,
            }
        }
    }

    fn now(&self) -> Now {
        let next = FencingToken { epoch: self.epoch, sequence: self.outbox.next() };
        Now { moment: (self.options.clock)(), hearing_ns: self.hearing_ns, next }
    }

    /// Decides a request; its answer goes out once all that was sent by then is stored, a refusal's too: it may
    /// follow from what is not stored yet. What else follows is done before the next request.
    async fn handle(&mut self, ask: Ask) -> Result<(), Trouble> {
        let Ask { input, read, waiter, policy } = ask;
        if let Some(policy) = policy {
            self.book.rule_by(policy.clone());
            self.options.policy = policy;
        }
        if let (Some(Input::DeviceFinding { .. }), Some(hook)) = (&input, &self.options.hook) {
            hook.reached(FailPoint::FindingCame);
        }
        let decided = input.map_or(Ok(Vec::new()), |input| decide(&self.book, input, &self.now()));
        let reply = match decided {
            Err(refusal) => read(Err(refusal.into())),
            Ok(changes) => {
                if let Err(trouble) = self.send(changes).await {
                    refuse_read(read, LedgerError::Away);
                    return Err(trouble);
                }
                if let Some((id, waiter)) = waiter.filter(|(id, _)| self.book.is_queued(id)) {
                    join(self.waiters.entry(id).or_default(), waiter);
                }
                read(Ok((&self.book, &self.now())))
            }
        };
        self.outbox.reply(reply);
        Ok(())
    }

    /// Does what is due until nothing is.
    async fn settle(&mut self) -> Result<(), Trouble> {
        loop {
            match decide(&self.book, Input::Tick, &self.now()) {
                Ok(changes) if changes.is_empty() => return Ok(()),
                Ok(changes) => self.send(changes).await?,
                // The bucket cannot have gone back under a writer that says which sequence it must have.
                Err(refusal @ Refusal::LedgerWentBack { .. }) => {
                    tracing::error!(error = %Chain(&refusal), "nothing is granted");
                    return Ok(());
                }
                Err(refusal) => {
                    tracing::warn!(error = %Chain(&refusal), "a tick was refused");
                    return Ok(());
                }
            }
        }
    }

    async fn send(&mut self, changes: Vec<Change>) -> Result<(), Trouble> {
        for change in changes {
            self.outbox.send(&change).await?;
            self.book.apply(&change);
            self.tell_waiters(&change);
            if let Some(hook) = self.options.hook.clone() {
                self.outbox.settle().await.map_err(Trouble::Bus)?;
                hook.reached(FailPoint::after(&change));
            }
        }
        Ok(())
    }

    /// Those who wait for what has been granted or withdrawn.
    fn tell_waiters(&mut self, change: &Change) {
        let (id, end) = match change {
            Change::Put(Record::Lease(lease)) => (&lease.request.id, Ok((**lease).clone())),
            Change::Delete(Key::Queue(id)) => (id, Err(LedgerError::Gone)),
            _ => return,
        };
        if let Some(waiters) = self.waiters.remove(id) {
            self.outbox.reply(Box::new(move |stored| tell(waiters, &stored.and(end))));
        }
    }

    /// Takes the ledger again, and refuses requests meanwhile; none when that was done.
    async fn regain(
        &mut self,
        asks: &mut mpsc::Receiver<Ask>,
        connection: &mut watch::Receiver<Connection>,
        shutdown: &CancellationToken,
    ) -> Option<Ended> {
        loop {
            let taken = {
                let take = async {
                    // Whether it is up is looked at, not waited for in vain: its sender lives with the bus.
                    let _ = connection.wait_for(|now| now.up).await;
                    let taken = taker(&self.options, self.me).take(Some(self.epoch)).await;
                    if taken.is_err() {
                        tokio::time::sleep(PAUSE).await;
                    }
                    taken
                };
                let mut take = Box::pin(take);
                loop {
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return Some(Ended::Shutdown),
                        taken = &mut take => break taken,
                        ask = asks.recv() => match ask {
                            Some(ask) => refuse(ask, LedgerError::Away),
                            None => return Some(Ended::Shutdown),
                        },
                    }
                }
            };
            match taken {
                Ok(taken) => {
                    let Taken { epoch, writer, records, marks, .. } = taken;
                    self.outbox.begin(writer, marks);
                    self.load(epoch, records);
                    return None;
                }
                Err(TakeError::Deposed { epoch }) => return Some(Ended::Deposed(epoch)),
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the ledger is not taken yet");
                    if connection.borrow().up {
                        (self.options.revive)();
                    }
                }
            }
        }
    }

    /// What this coordinator writes of itself.
    fn myself(&self, resigned: bool) -> Epoch {
        Epoch { resigned, ..taker(&self.options, self.me).epoch(self.epoch) }
    }

    /// Acts no more, says so, and waits for what was sent.
    async fn resign(mut self) {
        self.options.term.end();
        let last = self.myself(true);
        // What is not stored by then is told to be unknown; whoever does not learn of the end waits for it.
        let _ = tokio::time::timeout(DRAIN, async {
            let _ = self.outbox.send_epoch(&last).await;
            self.outbox.settle().await
        })
        .await;
        self.outbox.fail(&LedgerError::Away);
    }
}

/// One more waits. Who asks again and again under one id waits once: those who wait no more are forgotten.
fn join(waiters: &mut Vec<Waiter>, waiter: Waiter) {
    waiters.retain(|waiter| !waiter.is_closed());
    waiters.push(waiter);
}

fn tell(waiters: Vec<Waiter>, end: &Result<Lease, LedgerError>) {
    for waiter in waiters {
        // Whoever waited may have gone.
        let _ = waiter.send(end.clone());
    }
}

fn refuse(ask: Ask, error: LedgerError) {
    refuse_read(ask.read, error);
}

fn refuse_read(read: Read, error: LedgerError) {
    read(Err(error))(Ok(()));
}

fn warn(trouble: &Trouble) {
    match trouble {
        Trouble::Bus(error) => tracing::warn!(error = %Chain(error), "the ledger is taken again"),
        Trouble::Disconnected => tracing::warn!("NATS is away: the ledger is taken again once it is back"),
        Trouble::Encode(error) => tracing::error!(error = %Chain(error), "a record cannot be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[test]
    fn who_asks_again_and_again_waits_once() {
        let mut waiters = Vec::new();
        let (other, _still_waits) = oneshot::channel();
        join(&mut waiters, other);
        for _ in 0..1000 {
            let (waiter, waits) = oneshot::channel();
            join(&mut waiters, waiter);
            drop(waits);
        }
        assert_eq!(waiters.len(), 2);
    }
}
