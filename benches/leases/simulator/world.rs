//! A book, the bucket beneath it, and clocks that can be stepped and rebooted. Every write is checked by the
//! [`Oracle`] before the book follows it.

use super::oracle::Oracle;
use pilab::model::id::LeaseId;
use pilab::model::lease::{FencingToken, Lease};
use pilab::model::ledger::{DeviceRecord, Key, Queued, Rank, Record};
use pilab::model::time::{HostBoot, Moment, Stamp};
use pilab::plan::lease::{Book, Change, Input, Now, Policy, Refusal, decide};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the wall clock shows at the beginning, in milliseconds since 1970-01-01 UTC.
const WALL_MS: u64 = 1_800_000_000_000;

pub(crate) type Bucket = BTreeMap<Key, Record>;

/// The clocks of the coordinator's host.
#[derive(Debug, Clone)]
pub(crate) struct Clocks {
    /// The time since the beginning in nanoseconds, which nobody in the lab can read.
    pub(crate) true_ns: u64,
    boot: u32,
    boot_began_ns: u64,
    /// How far the wall clock is ahead of the truth, in milliseconds.
    pub(crate) wall_ahead_ms: i64,
    pub(crate) synchronised: bool,
    hearing_since_ns: u64,
}

impl Clocks {
    pub(crate) fn new() -> Self {
        Self {
            true_ns: 0,
            boot: 1,
            boot_began_ns: 0,
            wall_ahead_ms: 0,
            synchronised: true,
            hearing_since_ns: 0,
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        let boot: HostBoot = format!("00000000-0000-0000-0000-{:012x}", self.boot).parse().unwrap();
        let wall_ms = (WALL_MS + self.true_ns / 1_000_000).saturating_add_signed(self.wall_ahead_ms);
        let at = Stamp { boot_ns: self.true_ns - self.boot_began_ns, wall_ms };
        Moment { boot, at, synchronised: self.synchronised }
    }

    /// The host boots again, and its wall clock is not right yet.
    pub(crate) fn reboot(&mut self) {
        self.boot += 1;
        self.boot_began_ns = self.true_ns;
        self.synchronised = false;
        self.hear();
    }

    /// Holders' processes can be heard from now on.
    pub(crate) fn hear(&mut self) {
        self.hearing_since_ns = self.true_ns;
    }
}

pub(crate) struct World {
    pub(crate) book: Book,
    pub(crate) bucket: Bucket,
    pub(crate) clocks: Clocks,
    pub(crate) oracle: Oracle,
    pub(crate) decisions: u64,
    next: FencingToken,
}

impl World {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            book: Book::load(policy, []),
            bucket: Bucket::new(),
            clocks: Clocks::new(),
            oracle: Oracle::default(),
            decisions: 0,
            next: FencingToken { epoch: 1, sequence: 1 },
        }
    }

    pub(crate) fn now(&self) -> Now {
        let hearing_ns = self.clocks.hearing_since_ns - self.clocks.boot_began_ns;
        Now { moment: self.clocks.moment(), hearing_ns, next: self.next }
    }

    pub(crate) fn policy(&self) -> &Policy {
        self.book.policy()
    }

    pub(crate) fn decide(&mut self, input: Input) -> Result<Vec<Change>, Refusal> {
        self.decisions += 1;
        decide(&self.book, input, &self.now())
    }

    pub(crate) fn write(&mut self, change: &Change) {
        self.oracle.check(change, &self.bucket, &self.now(), self.book.policy());
        match change {
            Change::Put(record) => self.bucket.insert(record.key(), record.clone()),
            Change::Delete(key) => self.bucket.remove(key),
        };
        self.next.sequence += 1;
        self.book.apply(change);
    }

    /// Does what follows from `input`, and all that follows from that.
    pub(crate) fn put(&mut self, input: Input) -> Result<(), Refusal> {
        self.put_first(input, u64::MAX).map(drop)
    }

    /// The same, broken off after so many writes; answers whether what was decided first is written.
    pub(crate) fn put_first(&mut self, input: Input, writes: u64) -> Result<bool, Refusal> {
        let mut changes = self.decide(input)?;
        let (mut left, mut first) = (writes, false);
        while !changes.is_empty() {
            for change in &changes {
                if left == 0 {
                    return Ok(first);
                }
                self.write(change);
                left -= 1;
            }
            first = true;
            changes = self.decide(Input::Tick)?;
        }
        Ok(true)
    }

    /// How many writes there have been.
    pub(crate) fn writes(&self) -> u64 {
        self.next.sequence
    }

    pub(crate) fn tick(&mut self) {
        self.put(Input::Tick).unwrap();
    }

    pub(crate) fn wake(&self) -> Option<Duration> {
        self.book.wake(&self.now())
    }

    /// The coordinator starts anew, with what is in the bucket.
    pub(crate) fn restart(&mut self) {
        self.book = Book::load(self.book.policy().clone(), self.bucket.values().cloned());
        self.next.epoch += 1;
    }

    /// The same lab under a coordinator that has just started.
    pub(crate) fn fork(&self) -> Self {
        Self {
            book: Book::load(self.book.policy().clone(), self.bucket.values().cloned()),
            bucket: self.bucket.clone(),
            clocks: self.clocks.clone(),
            oracle: self.oracle.clone(),
            decisions: 0,
            next: self.next,
        }
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = &DeviceRecord> {
        self.bucket.values().filter_map(|record| match record {
            Record::Device(record) => Some(&**record),
            _ => None,
        })
    }

    pub(crate) fn leases(&self) -> Vec<&Lease> {
        let records = self.bucket.values();
        let leases = records.filter_map(|record| match record {
            Record::Lease(lease) => Some(&**lease),
            _ => None,
        });
        leases.collect()
    }

    /// The requests that wait, bookings among them.
    pub(crate) fn queued(&self) -> impl Iterator<Item = &Queued> {
        self.bucket.values().filter_map(|record| match record {
            Record::Queue(queued) => Some(&**queued),
            _ => None,
        })
    }

    pub(crate) fn is_leased(&self, id: &LeaseId) -> bool {
        self.bucket.contains_key(&Key::Lease(id.clone()))
    }

    /// The bucket in terms that two histories share: without the sequences of tokens, which differ by the number
    /// of writes, and with the order of the queue instead of the queue's own clock, which begins anew.
    pub(crate) fn settled(mut self) -> Bucket {
        self.tick();
        let mut order: Vec<Rank> = self.queued().map(|queued| queued.rank).collect();
        order.sort_unstable();
        for record in self.bucket.values_mut() {
            match record {
                Record::Lease(lease) => lease.token = FencingToken { epoch: 0, sequence: 0 },
                Record::Renewal(renewal) => renewal.token = FencingToken { epoch: 0, sequence: 0 },
                Record::Queue(queued) => {
                    let place = order.binary_search(&queued.rank).unwrap();
                    queued.rank = Rank { time_ns: place as u64, sequence: 0 };
                    queued.clock_ns = 0;
                }
                Record::Device(_) => {}
            }
        }
        self.bucket
    }
}
