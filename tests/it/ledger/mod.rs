//! The ledger on a real nats-server: what it answers, who may write, and what survives. Needs `nats-server`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod answers;
mod killed;
mod loss;
mod tenure;

use crate::nats::{Lab, lab_name};
use pilab::bus::connect::Bus;
use pilab::coordinator::ledger::{
    Clock, Hook, LedgerError, LedgerHandle, LedgerOptions, Reserved, TERM, start,
};
use pilab::model::device::{Backend, Device, Model};
use pilab::model::health::Health;
use pilab::model::id::{DeviceId, LeaseId, UserName};
use pilab::model::lease::{Lease, LeaseRequest, Priority, Purpose};
use pilab::model::scenario::Need;
use pilab::model::time::Moment;
use pilab::plan::lease::{Caller, Policy, Quota};
use pilab::support::clock;
use pilab::support::term::Term;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn policy() -> Policy {
    Policy {
        max_lease: 4 * HOUR,
        default_lease: HOUR,
        handover: Duration::from_secs(300),
        aging: Duration::from_secs(600),
        booking_ahead: 48 * HOUR,
        quota: Quota { devices: 10_000, requests: 10_000 },
        quotas: BTreeMap::new(),
        trust: Default::default(),
        care: Default::default(),
    }
}

/// A coordinator's right to act, on this clock.
pub(crate) fn term(clock: Clock) -> Term {
    Term::new(Arc::new(move || clock().at.boot_ns))
}

pub(crate) fn host_clock() -> Clock {
    let boot = clock::boot_id().parse().unwrap();
    Arc::new(move || Moment { boot, at: clock::stamp(), synchronised: true })
}

fn device_id(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn lease_id(name: &str) -> LeaseId {
    LeaseId::new(name).unwrap()
}

pub(crate) fn user(name: &str) -> UserName {
    UserName::new(name).unwrap()
}

pub(crate) fn by(name: &str) -> Caller {
    Caller { user: user(name), admin: false }
}

fn device(name: &str) -> Device {
    Device {
        id: device_id(name),
        backend: Backend::Vm,
        model: Model::VmAarch64,
        labels: BTreeMap::new(),
        capabilities: BTreeSet::new(),
    }
}

/// A named device, or any.
pub(crate) fn request(id: &str, holder: &str, device: Option<&str>) -> LeaseRequest {
    let need = Need { role: "dut".to_owned(), device: device.map(device_id), ..Need::default() };
    LeaseRequest {
        id: lease_id(id),
        holder: user(holder),
        purpose: Purpose::default(),
        needs: vec![need],
        duration: None,
        priority: Priority::Normal,
        hold_by_process: None,
        start: None,
        any_health: false,
    }
}

pub(crate) fn options(bus: &Bus, dir: &Path, hook: Option<Hook>) -> LedgerOptions {
    LedgerOptions {
        bus: bus.clone(),
        lab: lab_name(),
        policy: policy(),
        epoch_file: dir.join("ledger-epoch"),
        clock: host_clock(),
        term: term(host_clock()),
        tenure: TERM,
        longest_act: Duration::ZERO,
        revive: Arc::new(|| ()),
        silence: None,
        hook,
    }
}

/// A coordinator's ledger, and how it is stopped.
struct Running {
    handle: LedgerHandle,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

impl Running {
    async fn start(options: LedgerOptions) -> Self {
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let handle = start(options, &tracker, shutdown.clone()).await.unwrap();
        Self { handle, shutdown, tracker }
    }

    async fn on(lab: &Lab) -> (Self, Bus) {
        let bus = lab.coordinator().await;
        (Self::start(options(&bus, lab.dir.path(), None)).await, bus)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// These devices are in the inventory, and free.
pub(crate) async fn stock(ledger: &LedgerHandle, names: &[&str]) {
    let devices = names.iter().map(|name| device(name)).collect();
    ledger.inventory(devices, Health::Good).await.unwrap();
    for name in names {
        ledger.device_ready(device_id(name)).await.unwrap();
    }
}

pub(crate) async fn granted(ledger: &LedgerHandle, request: LeaseRequest) -> Lease {
    let by = Caller { user: request.holder.clone(), admin: false };
    match ledger.reserve(by, request).await.unwrap() {
        Reserved::Granted(lease) => *lease,
        Reserved::Waiting(place, _) => panic!("it waits: {place:?}"),
    }
}

/// Asks until the ledger is there: while it is away, nobody knows whether it was done.
async fn again<T, F: Future<Output = Result<T, LedgerError>>>(mut ask: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + crate::nats::SOON;
    loop {
        match ask().await {
            Ok(done) => return done,
            Err(LedgerError::Away | LedgerError::Busy) => {
                assert!(tokio::time::Instant::now() < deadline, "the ledger stays away");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}
