//! A lab of virtual machines and a clock for tables of what is decided, one file for each group of rules.

mod bookings;
mod crashes;
mod devices;
mod holding;
mod queueing;
mod time;

use super::*;
use crate::model::device::{Backend, Capability, Model};
use crate::model::lease::{Lease, Purpose};
use crate::model::scenario::Need;
use crate::model::time::{HostBoot, Stamp};
use std::collections::BTreeSet;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const EPOCH: u64 = 3;
/// What the wall clock shows when the first test second begins, in milliseconds since 1970-01-01 UTC.
const WALL_MS: u64 = 1_000_000_000;

fn policy() -> Policy {
    Policy {
        max_lease: 4 * HOUR,
        default_lease: HOUR,
        handover: 5 * MINUTE,
        aging: 10 * MINUTE,
        booking_ahead: 48 * HOUR,
        quota: Quota { devices: 8, requests: 4 },
        quotas: BTreeMap::new(),
        trust: Default::default(),
        care: Default::default(),
    }
}

fn device_id(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn lease_id(name: &str) -> LeaseId {
    LeaseId::new(name).unwrap()
}

fn user(name: &str) -> UserName {
    UserName::new(name).unwrap()
}

fn by(name: &str) -> Caller {
    Caller { user: user(name), admin: false }
}

fn admin() -> Caller {
    Caller { user: user("root"), admin: true }
}

/// `pi-1` is a device without labels, `usb-1` one with the label `usb=yes`.
fn device(name: &str) -> Device {
    let usb = name.starts_with("usb").then(|| ("usb".to_owned(), "yes".to_owned()));
    Device {
        id: device_id(name),
        backend: Backend::Vm,
        model: Model::VmAarch64,
        labels: usb.into_iter().collect(),
        capabilities: BTreeSet::from([Capability::Power]),
    }
}

/// `any` needs some device, `usb` one with that label, and another word is the name of a device.
fn need(what: &str) -> Need {
    let usb = (what == "usb").then(|| ("usb".to_owned(), "yes".to_owned()));
    Need {
        role: what.to_owned(),
        device: (!["any", "usb"].contains(&what)).then(|| device_id(what)),
        labels: usb.into_iter().collect(),
        ..Need::default()
    }
}

/// For an hour, at once, by normal priority.
fn request(id: &str, holder: &str, needs: &[&str]) -> LeaseRequest {
    LeaseRequest {
        id: lease_id(id),
        holder: user(holder),
        purpose: Purpose::default(),
        needs: needs.iter().map(|what| need(what)).collect(),
        duration: None,
        priority: Priority::Normal,
        hold_by_process: None,
        start: None,
        any_health: false,
    }
}

fn with_priority(priority: Priority, request: LeaseRequest) -> LeaseRequest {
    LeaseRequest { priority, ..request }
}

fn lasting(duration: Duration, request: LeaseRequest) -> LeaseRequest {
    LeaseRequest { duration: Some(duration), ..request }
}

/// A booking that starts so long after the tests' beginning.
fn starting(after: Duration, request: LeaseRequest) -> LeaseRequest {
    let after = u64::try_from(after.as_millis()).unwrap();
    LeaseRequest { start: Some(WALL_MS + after), ..request }
}

/// A book, the bucket beneath it, and the clock.
struct Lab {
    book: Book,
    bucket: BTreeMap<Key, Record>,
    now: Now,
}

impl Lab {
    /// These devices are good, ready and free.
    fn of(devices: &[&str]) -> Self {
        Self::with(policy(), devices)
    }

    fn with(policy: Policy, devices: &[&str]) -> Self {
        let at = Stamp { boot_ns: 0, wall_ms: WALL_MS };
        let moment = Moment { boot: boot(1), at, synchronised: true };
        let next = FencingToken { epoch: EPOCH, sequence: 1 };
        let now = Now { moment, hearing_ns: 0, next };
        let mut lab = Self { book: Book::load(policy, []), bucket: BTreeMap::new(), now };
        lab.inventory(devices);
        for name in devices {
            lab.ready(name);
        }
        lab
    }

    fn inventory(&mut self, devices: &[&str]) {
        let devices = devices.iter().map(|name| device(name)).collect();
        self.must(Input::Inventory { devices, newcomers: Health::Good });
    }

    /// Decides, writes and follows; then does all that follows from it.
    fn put(&mut self, input: Input) -> Result<Vec<Change>, Refusal> {
        let mut all = Vec::new();
        let mut changes = decide(&self.book, input, &self.now)?;
        while !changes.is_empty() {
            for change in &changes {
                self.write(change);
            }
            all.append(&mut changes);
            changes = decide(&self.book, Input::Tick, &self.now)?;
        }
        Ok(all)
    }

    fn write(&mut self, change: &Change) {
        match change {
            Change::Put(record) => self.bucket.insert(record.key(), record.clone()),
            Change::Delete(key) => self.bucket.remove(key),
        };
        self.now.next.sequence += 1;
        self.book.apply(change);
    }

    fn must(&mut self, input: Input) -> Vec<Change> {
        self.put(input).unwrap()
    }

    fn tick(&mut self) -> Vec<Change> {
        self.must(Input::Tick)
    }

    /// Time passes on both clocks, and what is due is done when it is due.
    fn pass(&mut self, time: Duration) {
        let mut left = time;
        loop {
            self.tick();
            let step = self.book.wake(&self.now).map_or(left, |wake| wake.min(left));
            assert!(step == left || !step.is_zero(), "it woke for nothing");
            self.now.moment.at.boot_ns += u64::try_from(step.as_nanos()).unwrap();
            self.now.moment.at.wall_ms += u64::try_from(step.as_millis()).unwrap();
            left -= step;
            if left.is_zero() {
                self.tick();
                return;
            }
        }
    }

    /// The coordinator's host boots again, and its clock is not right yet.
    fn reboot(&mut self) {
        self.now.moment = Moment { boot: boot(2), at: Stamp { boot_ns: 0, wall_ms: 7 }, synchronised: false };
        self.now.hearing_ns = 0;
        self.restart();
    }

    /// The coordinator starts anew.
    fn restart(&mut self) {
        self.book = Book::load(self.book.policy().clone(), self.bucket.values().cloned());
    }

    fn reserve(&mut self, request: LeaseRequest) -> Result<Vec<Change>, Refusal> {
        let by = Caller { user: request.holder.clone(), admin: false };
        self.put(Input::Reserve { by, request })
    }

    /// Asks, and answers the devices when the request was served at once.
    fn ask(&mut self, request: LeaseRequest) -> Option<Vec<String>> {
        let id = request.id.as_str().to_owned();
        self.reserve(request).unwrap();
        self.devices_of(&id)
    }

    fn extend(&mut self, holder: &str, lease: &str, longer: Duration) -> Result<Vec<Change>, Refusal> {
        let once = self.now.next.sequence;
        self.put(Input::Extend { by: by(holder), lease: lease_id(lease), longer, once })
    }

    fn release(&mut self, holder: &str, lease: &str) -> Result<Vec<Change>, Refusal> {
        self.put(Input::Release { by: by(holder), lease: lease_id(lease) })
    }

    fn transfer(&mut self, holder: &str, lease: &str, to: &str) -> Result<Vec<Change>, Refusal> {
        self.put(Input::Transfer { by: by(holder), lease: lease_id(lease), to: user(to) })
    }

    fn heartbeat(&mut self, holder: &str, lease: &str) -> Result<Vec<Change>, Refusal> {
        self.put(Input::Heartbeat { by: by(holder), lease: lease_id(lease) })
    }

    fn ready(&mut self, name: &str) -> Vec<Change> {
        self.must(Input::DeviceReady { device: device_id(name) })
    }

    fn health(&mut self, name: &str, health: Health) {
        let reason = "said a test".to_owned();
        self.must(Input::DeviceHealth { device: device_id(name), health, reason });
    }

    /// A device is handed back and made ready.
    fn give_back(&mut self, holder: &str, lease: &str) {
        let devices = self.devices_of(lease).unwrap();
        self.release(holder, lease).unwrap();
        for name in devices {
            self.ready(&name);
        }
    }

    fn lease(&self, id: &str) -> Option<&Lease> {
        self.book.leases().map(|(lease, _)| lease).find(|lease| lease.request.id.as_str() == id)
    }

    fn devices_of(&self, id: &str) -> Option<Vec<String>> {
        Some(self.lease(id)?.devices.iter().map(ToString::to_string).collect())
    }

    fn holder(&self, device: &str) -> Option<String> {
        let lent = self.book.leases().find(|(lease, _)| lease.devices.contains(&device_id(device)));
        lent.map(|(lease, _)| lease.request.holder.to_string())
    }

    /// The ids of those that wait, in their order, bookings at the end.
    fn line(&self) -> Vec<String> {
        self.book.queue(&self.now.moment).iter().map(|row| row.request.id.to_string()).collect()
    }

    fn row(&self, id: &str) -> QueueRow<'_> {
        let mut rows = self.book.queue(&self.now.moment).into_iter();
        rows.find(|row| row.request.id.as_str() == id).unwrap()
    }

    fn left(&self, id: &str) -> Option<Duration> {
        let mut leases = self.book.leases();
        leases.find(|(lease, _)| lease.request.id.as_str() == id)?.1.left(&self.now.moment)
    }
}

fn boot(number: u128) -> HostBoot {
    format!("00000000-0000-0000-0000-{number:012x}").parse().unwrap()
}

fn names(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(ToString::to_string).collect())
}
