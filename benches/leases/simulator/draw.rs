//! Labs, requests and events by chance.

use super::random::Random;
use super::world::World;
use pilab::model::device::{Backend, Capability, Device, Model};
use pilab::model::health::Health;
use pilab::model::id::{DeviceId, LeaseId, UserName};
use pilab::model::lease::{LeaseRequest, Priority, Purpose};
use pilab::model::scenario::Need;
use pilab::plan::lease::{Caller, Input, Policy, Quota};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) const USERS: u64 = 8;

/// What goes on in a lab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    pub(crate) devices: u64,
    /// Health, inventory and clocks change.
    pub(crate) rough: bool,
    /// Some ask for later.
    pub(crate) bookings: bool,
}

fn seconds(random: &mut Random, from: u64, to: u64) -> Duration {
    Duration::from_secs(from + random.below(to - from))
}

pub(crate) fn policy(random: &mut Random) -> Policy {
    let quota = Quota { devices: 4 + random.index(5), requests: 2 + random.index(4) };
    Policy {
        max_lease: seconds(random, 1800, 14_400),
        default_lease: Duration::from_secs(900),
        handover: seconds(random, 10, 400),
        aging: seconds(random, 60, 3600),
        booking_ahead: Duration::from_secs(40_000),
        quota,
        quotas: BTreeMap::from([(user(0), Quota { devices: 12, requests: 6 })]),
        trust: Default::default(),
        care: Default::default(),
    }
}

pub(crate) fn user(number: u64) -> UserName {
    UserName::new(format!("user-{number}")).unwrap()
}

/// The kind of each device follows from its number, so that a device which comes back is the same.
pub(crate) fn device(number: u64) -> Device {
    let mut labels = BTreeMap::new();
    if number.is_multiple_of(3) {
        labels.insert("usb".to_owned(), "yes".to_owned());
    }
    if number.is_multiple_of(4) {
        labels.insert("site".to_owned(), "north".to_owned());
    }
    let mut capabilities = BTreeSet::from([Capability::Power]);
    if number.is_multiple_of(2) {
        capabilities.insert(Capability::PersistentState);
    }
    let model = if number % 5 < 3 { Model::VmAarch64 } else { Model::VmX86_64 };
    let id = DeviceId::new(format!("pi-{number}")).unwrap();
    Device { id, backend: Backend::Vm, model, labels, capabilities }
}

fn need(random: &mut Random, role: usize, devices: u64) -> Need {
    let mut need = Need { role: format!("role-{role}"), ..Need::default() };
    if random.percent(12) {
        need.device = Some(device(random.below(devices)).id);
        return need;
    }
    if random.percent(50) {
        need.model = Some(if random.percent(60) { Model::VmAarch64 } else { Model::VmX86_64 });
    }
    if random.percent(20) {
        need.labels.insert("usb".to_owned(), "yes".to_owned());
    }
    if random.percent(15) {
        need.labels.insert("site".to_owned(), "north".to_owned());
    }
    if random.percent(15) {
        need.capabilities.insert(Capability::PersistentState);
    }
    need
}

fn reserve(random: &mut Random, world: &World, number: u64, habits: &Habits) -> Input {
    let needs = if random.percent(65) { 1 } else { 2 + random.index(3) };
    let max = world.policy().max_lease.as_secs();
    let wall_ms = world.now().moment.at.wall_ms;
    let holder = user(random.below(USERS));
    let any_health = random.percent(2);
    let request = LeaseRequest {
        id: LeaseId::new(format!("l{number}")).unwrap(),
        holder: holder.clone(),
        purpose: Purpose::default(),
        needs: (0..needs).map(|role| need(random, role, habits.devices)).collect(),
        duration: random.percent(90).then(|| seconds(random, 1, max + 60)),
        priority: *random.pick(&[Priority::Low, Priority::Normal, Priority::Normal, Priority::High]).unwrap(),
        hold_by_process: random.percent(10).then(|| seconds(random, 1, 300)),
        start: (habits.bookings && random.percent(6)).then(|| wall_ms + random.below(45_000_000)),
        any_health,
    };
    Input::Reserve { by: Caller { user: holder, admin: any_health }, request }
}

/// A lease or request, and a caller: its holder as a rule, an admin or anybody else at times.
fn somebodys(random: &mut Random, world: &World, among_leases: bool) -> Option<(Caller, LeaseId)> {
    let leases = world.leases();
    let (id, holder) = if among_leases {
        let lease = random.pick(&leases)?;
        (lease.request.id.clone(), lease.request.holder.clone())
    } else {
        let queued: Vec<_> = world.queued().collect();
        let queued = random.pick(&queued)?;
        (queued.request.id.clone(), queued.request.holder.clone())
    };
    let caller = match random.below(20) {
        0 => Caller { user: user(random.below(USERS)), admin: false },
        1 => Caller { user: user(random.below(USERS)), admin: true },
        _ => Caller { user: holder, admin: false },
    };
    Some((caller, id))
}

fn health(random: &mut Random, devices: u64) -> Input {
    let healths = [Health::Good, Health::Good, Health::Good, Health::Suspect, Health::Quarantined];
    let device = device(random.below(devices)).id;
    let reason = format!("reason {}", random.below(3));
    Input::DeviceHealth { device, health: *random.pick(&healths).unwrap(), reason }
}

/// All devices of the lab, one left out now and then.
pub(crate) fn inventory(random: &mut Random, devices: u64) -> Input {
    let left_out = random.below(devices * 2);
    let devices = (0..devices).filter(|number| *number != left_out).map(device).collect();
    Input::Inventory { devices, newcomers: Health::Good }
}

/// An input; none when there is nothing of the kind that was drawn.
pub(crate) fn input(random: &mut Random, world: &World, number: u64, habits: &Habits) -> Option<Input> {
    Some(match random.below(100) {
        0..50 => reserve(random, world, number, habits),
        50..68 => {
            let (by, lease) = somebodys(random, world, true)?;
            Input::Release { by, lease }
        }
        68..72 => {
            let (by, lease) = somebodys(random, world, false)?;
            Input::Release { by, lease }
        }
        72..82 => {
            let (by, lease) = somebodys(random, world, true)?;
            let max = world.policy().max_lease.as_secs();
            Input::Extend { by, lease, longer: seconds(random, 0, max), once: number }
        }
        82..86 => {
            let (by, lease) = somebodys(random, world, true)?;
            Input::Transfer { by, lease, to: user(random.below(USERS)) }
        }
        86..94 => {
            let (by, lease) = somebodys(random, world, true)?;
            Input::Heartbeat { by, lease }
        }
        // Of a lease that may have ended long ago.
        94..96 => {
            let lease = LeaseId::new(format!("l{}", random.below(number + 1))).unwrap();
            let by = Caller { user: user(0), admin: true };
            Input::Extend { by, lease, longer: Duration::ZERO, once: number }
        }
        96..99 if habits.rough => health(random, habits.devices),
        99 if habits.rough => inventory(random, habits.devices),
        _ => Input::Tick,
    })
}
