//! The ledger on a real nats-server, on this machine's disk: clients that acquire and release, and what a
//! coordinator needs to take over. No power, no handover: each device is ready at once.

use crate::cost;
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::issuer::{COORDINATOR, Issuer};
use pilab::bus::server::{EmbeddedServer, ServerOptions};
use pilab::coordinator::ledger::{LedgerHandle, LedgerOptions, Reserved, TERM, start};
use pilab::model::health::Health;
use pilab::model::id::LabName;
use pilab::model::lease::LeaseRequest;
use pilab::model::time::Moment;
use pilab::support::clock;
use pilab::support::term::Term;
use pilab::wire::subject;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What labgrid's coordinator was measured with: so many places and clients.
const PLACES: u64 = 1_000;
const CLIENTS: u64 = 16;
/// Requests of one client alone, for the latency of a free lab.
const ALONE: u64 = 2_000;

pub(crate) struct Figures {
    /// One client, everything free: a request until it is granted.
    pub(crate) alone: Vec<Duration>,
    /// All clients: the same.
    pub(crate) crowded: Vec<Duration>,
    /// Acquired and released in a second, all clients together.
    pub(crate) pace: f64,
    pub(crate) writes_a_second: f64,
    /// From the start until the ledger is taken, with all devices leased.
    pub(crate) taken: Duration,
}

struct Lab {
    bus: Bus,
    name: LabName,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    _server: EmbeddedServer,
}

impl Lab {
    async fn start(dir: &Path) -> Self {
        let name = LabName::new("bench").unwrap();
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let issuer = Arc::new(Issuer::open(dir.join("issuer"), &name).unwrap());
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let server = ServerOptions { dir: dir.join("nats"), listen, port: None, program: None, tls: None };
        let server = EmbeddedServer::start(server, issuer.clone(), &tracker, shutdown.clone()).await.unwrap();
        let options = BusOptions {
            url: server.url().into(),
            creds: issuer.coordinator(Duration::from_secs(3600)).unwrap().creds,
            name: COORDINATOR.to_owned(),
            inbox_prefix: subject::inbox(COORDINATOR),
        };
        let bus = Bus::connect(options, Some(Duration::from_secs(5))).await.unwrap();
        Self { bus, name, shutdown, tracker, _server: server }
    }

    async fn ledger(&self, dir: &Path) -> LedgerHandle {
        let boot = clock::boot_id().parse().unwrap();
        let options = LedgerOptions {
            bus: self.bus.clone(),
            lab: self.name.clone(),
            policy: cost::policy(),
            epoch_file: dir.join("epoch"),
            clock: Arc::new(move || Moment { boot, at: clock::stamp(), synchronised: true }),
            term: Term::new(Arc::new(|| clock::stamp().boot_ns)),
            tenure: TERM,
            longest_act: Duration::ZERO,
            revive: Arc::new(|| ()),
            silence: None,
            hook: None,
        };
        start(options, &self.tracker, self.shutdown.clone()).await.unwrap()
    }
}

async fn acquire(ledger: &LedgerHandle, request: LeaseRequest) -> Duration {
    let began = Instant::now();
    let reserved = ledger.reserve(cost::caller(), request).await.unwrap();
    let took = began.elapsed();
    assert!(matches!(reserved, Reserved::Granted(_)), "{reserved:?}");
    took
}

/// Acquires a device, gives it back, and has it made ready; answers how long the first took.
async fn cycle(ledger: &LedgerHandle, id: String, kind: u64) -> Duration {
    let request = cost::request(&id, kind);
    let lease = request.id.clone();
    let began = Instant::now();
    let reserved = ledger.reserve(cost::caller(), request).await.unwrap();
    let took = began.elapsed();
    let Reserved::Granted(granted) = reserved else { panic!("there are more than enough: {reserved:?}") };
    ledger.release(cost::caller(), lease).await.unwrap();
    ledger.device_ready(granted.devices[0].clone()).await.unwrap();
    took
}

pub(crate) async fn measure(time: Duration) -> Figures {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::start(dir.path()).await;
    let ledger = lab.ledger(dir.path()).await;
    ledger.inventory((0..PLACES).map(cost::device).collect(), Health::Good).await.unwrap();
    for number in 0..PLACES {
        ledger.device_ready(cost::device(number).id).await.unwrap();
    }
    let mut alone = Vec::new();
    for number in 0..ALONE {
        alone.push(cycle(&ledger, format!("alone-{number}"), number % cost::KINDS).await);
    }
    let first = *ledger.changes().borrow();
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let ledger = ledger.clone();
        clients.spawn(async move {
            let mut took = Vec::new();
            while began.elapsed() < time {
                let number = took.len() as u64;
                let kind = (number * CLIENTS + client) % cost::KINDS;
                took.push(cycle(&ledger, format!("c{client}-{number}"), kind).await);
            }
            took
        });
    }
    let crowded: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    let took = began.elapsed().as_secs_f64();
    let writes = *ledger.changes().borrow() - first;
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
    let (pace, writes_a_second) = (crowded.len() as f64 / took, writes as f64 / took);

    for number in 0..PLACES {
        acquire(&ledger, cost::request(&format!("kept-{number}"), number % cost::KINDS)).await;
    }
    let began = Instant::now();
    let next = lab.ledger(dir.path()).await;
    let taken = began.elapsed();
    assert!(next.devices().await.unwrap().iter().all(|row| row.lease.is_some()));
    lab.shutdown.cancel();
    lab.tracker.close();
    lab.tracker.wait().await;
    Figures { alone, crowded, pace, writes_a_second, taken }
}
