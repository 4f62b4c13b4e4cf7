//! What one decision costs in labs of several sizes: nine of ten devices are lent, and one request waits for
//! each ten of them, half of these for a device that they name.

use crate::simulator::Random;
use pilab::model::device::{Backend, Device, Model};
use pilab::model::health::Health;
use pilab::model::id::{DeviceId, LeaseId, UserName};
use pilab::model::lease::{FencingToken, LeaseRequest, Priority, Purpose};
use pilab::model::scenario::Need;
use pilab::model::time::{Moment, Stamp};
use pilab::plan::lease::{Book, Caller, Input, Now, Policy, Quota, decide};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How many kinds of devices there are. Of every fourth all devices are lent, and there the queue is.
pub(crate) const KINDS: u64 = 24;

pub(crate) struct Cost {
    pub(crate) devices: u64,
    pub(crate) waiting: usize,
    pub(crate) decisions: usize,
    pub(crate) mean: Duration,
    pub(crate) p99: Duration,
}

struct Lab {
    book: Book,
    sequence: u64,
    boot_ns: u64,
    spent: Vec<Duration>,
    requests: u64,
    /// What the next request names.
    named: Option<DeviceId>,
}

pub(crate) fn policy() -> Policy {
    let quota = Quota { devices: usize::MAX, requests: usize::MAX };
    Policy {
        max_lease: Duration::from_secs(1_000_000),
        default_lease: Duration::from_secs(500_000),
        handover: Duration::from_secs(300),
        aging: Duration::from_secs(600),
        booking_ahead: Duration::from_secs(86_400),
        quota,
        quotas: BTreeMap::new(),
        trust: Default::default(),
        care: Default::default(),
    }
}

pub(crate) fn device(number: u64) -> Device {
    Device {
        id: DeviceId::new(format!("pi-{number}")).unwrap(),
        backend: Backend::Vm,
        model: Model::VmAarch64,
        labels: BTreeMap::from([("kind".to_owned(), (number % KINDS).to_string())]),
        capabilities: BTreeSet::new(),
    }
}

pub(crate) fn caller() -> Caller {
    Caller { user: UserName::new("ann").unwrap(), admin: false }
}

/// For any device of a kind.
pub(crate) fn request(id: &str, kind: u64) -> LeaseRequest {
    let labels = BTreeMap::from([("kind".to_owned(), kind.to_string())]);
    let need = Need { role: "dut".to_owned(), labels, ..Need::default() };
    LeaseRequest {
        id: LeaseId::new(id).unwrap(),
        holder: caller().user,
        purpose: Purpose::default(),
        needs: vec![need],
        duration: None,
        priority: Priority::Normal,
        hold_by_process: None,
        start: None,
        any_health: false,
    }
}

impl Lab {
    fn new(devices: u64) -> Self {
        let book = Book::load(policy(), []);
        let mut lab = Self { book, sequence: 1, boot_ns: 0, spent: Vec::new(), requests: 0, named: None };
        let all = (0..devices).map(device).collect();
        lab.put(Input::Inventory { devices: all, newcomers: Health::Good });
        for number in 0..devices {
            lab.put(Input::DeviceReady { device: device(number).id });
        }
        for number in 0..devices {
            let kind = number % KINDS;
            // Six of the kinds are lent to the last device, the other eighteen to 87 of 100.
            if kind.is_multiple_of(4) || number / KINDS % 100 < 87 {
                lab.reserve(kind);
            }
        }
        for number in 0..devices / 10 {
            let kind = number % (KINDS / 4) * 4;
            lab.named = number.is_multiple_of(2).then(|| device(number / 6 * KINDS + kind).id);
            lab.reserve(kind);
        }
        lab
    }

    fn put(&mut self, input: Input) {
        let boot = "00000000-0000-0000-0000-000000000001".parse().unwrap();
        let mut input = Some(input);
        loop {
            self.boot_ns += 1_000_000;
            let at = Stamp { boot_ns: self.boot_ns, wall_ms: self.boot_ns / 1_000_000 };
            let moment = Moment { boot, at, synchronised: true };
            let now = Now { moment, hearing_ns: 0, next: FencingToken { epoch: 1, sequence: self.sequence } };
            let began = Instant::now();
            let changes = decide(&self.book, input.take().unwrap_or(Input::Tick), &now).unwrap();
            for change in &changes {
                self.book.apply(change);
            }
            self.spent.push(began.elapsed());
            self.sequence += changes.len() as u64;
            if changes.is_empty() {
                return;
            }
        }
    }

    fn reserve(&mut self, kind: u64) {
        self.requests += 1;
        let mut request = request(&format!("l{}", self.requests), kind);
        request.needs[0].device = self.named.take();
        self.put(Input::Reserve { by: caller(), request });
    }

    /// A lease ends, its device is made ready, and somebody asks for such a device.
    fn turn(&mut self, lease: &LeaseId, device: &DeviceId) {
        let number: u64 = device.as_str().trim_start_matches("pi-").parse().unwrap();
        self.put(Input::Release { by: caller(), lease: lease.clone() });
        self.put(Input::DeviceReady { device: device.clone() });
        self.reserve(number % KINDS);
    }
}

pub(crate) fn measure(devices: u64, turns: u64) -> Cost {
    let mut lab = Lab::new(devices);
    lab.spent.clear();
    let mut random = Random::new(devices);
    let ids = |lab: &Lab| -> Vec<(LeaseId, DeviceId)> {
        lab.book.leases().map(|(lease, _)| (lease.request.id.clone(), lease.devices[0].clone())).collect()
    };
    let mut leases = Vec::new();
    for _ in 0..turns {
        if leases.is_empty() {
            leases = ids(&lab);
        }
        let (lease, device) = leases.swap_remove(random.index(leases.len()));
        lab.turn(&lease, &device);
    }
    let waiting = lab.book.usage(&caller().user).requests;
    let mut spent = lab.spent;
    spent.sort_unstable();
    let mean = spent.iter().sum::<Duration>() / u32::try_from(spent.len()).unwrap();
    Cost { devices, waiting, decisions: spent.len(), mean, p99: spent[spent.len() * 99 / 100] }
}
