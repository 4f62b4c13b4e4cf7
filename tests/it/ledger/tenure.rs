//! For how long a coordinator may act on devices, and when the next one may.

use super::*;
use crate::nats::SOON;
use pilab::coordinator::ledger::TERM;
use pilab::model::time::Deadline;
use pilab::support::term::Lapsed;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The host's clocks, which a test moves on.
#[derive(Clone, Default)]
struct Clocks {
    boot_ns: Arc<AtomicU64>,
    wall_ms: Arc<AtomicI64>,
}

impl Clocks {
    fn clock(&self) -> Clock {
        let (clocks, host) = (self.clone(), host_clock());
        Arc::new(move || {
            let mut now = host();
            now.at.boot_ns += clocks.boot_ns.load(Ordering::Relaxed);
            now.at.wall_ms = now.at.wall_ms.saturating_add_signed(clocks.wall_ms.load(Ordering::Relaxed));
            now
        })
    }

    /// All stood still for so long.
    fn jump(&self, time: Duration) {
        self.boot_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
    }

    /// Somebody sets the wall clock.
    fn step(&self, hours: i64) {
        self.wall_ms.fetch_add(hours * 3_600_000, Ordering::Relaxed);
    }
}

/// A coordinator on a disk of its own.
async fn on(bus: &Bus, dir: &Path, clocks: &Clocks, longest_act: Duration) -> (Running, Term) {
    let term = term(clocks.clock());
    let options =
        LedgerOptions { clock: clocks.clock(), term: term.clone(), longest_act, ..options(bus, dir, None) };
    (Running::start(options).await, term)
}

async fn until(what: &str, so: impl Fn() -> bool) {
    crate::nats::until(what, so).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_coordinator_touches_no_device_while_the_last_one_may() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let clocks = Clocks::default();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let act = Duration::from_secs(7);
    let (old, old_term) = on(&bus, here.path(), &clocks, act).await;
    old.handle.queue().await.unwrap();
    assert_eq!(old_term.check(), Ok(()), "nobody was before it");
    // As long as it writes, it may.
    clocks.jump(TERM / 2);
    until("it writes", || old_term.check().is_ok()).await;

    let (new, new_term) = on(&bus, there.path(), &clocks, act).await;
    new.handle.queue().await.unwrap();
    let Err(Lapsed::NotYet { left }) = new_term.check() else { panic!("{new_term:?}") };
    assert!(left > TERM && left <= TERM + act, "{left:?}");
    // Its ledger answers meanwhile.
    stock(&new.handle, &["pi-1"]).await;
    granted(&new.handle, request("a", "ann", None)).await;
    // The last one stood still, and goes on.
    clocks.jump(TERM);
    assert!(old_term.check().is_err(), "{old_term:?}");
    assert!(matches!(new_term.check(), Err(Lapsed::NotYet { .. }) | Err(Lapsed::Over)), "{new_term:?}");
    clocks.jump(act);
    until("the next one may", || new_term.check().is_ok()).await;
    until("the last one knows", || old_term.check() == Err(Lapsed::Ended)).await;
    old.stop().await;

    // Who has ended says so, and is not waited for.
    new.stop().await;
    assert_eq!(new_term.check(), Err(Lapsed::Ended));
    let (third, third_term) = on(&bus, here.path(), &clocks, act).await;
    third.handle.queue().await.unwrap();
    assert_eq!(third_term.check(), Ok(()));
    // Nor is one that was killed on the same disk.
    let (fourth, fourth_term) = on(&bus, here.path(), &clocks, act).await;
    fourth.handle.queue().await.unwrap();
    assert_eq!(fourth_term.check(), Ok(()));
    fourth.stop().await;
    third.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_cannot_write_acts_no_more_until_it_can() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let clocks = Clocks::default();
    let (ledger, term) = on(&bus, lab.dir.path(), &clocks, Duration::ZERO).await;
    ledger.handle.queue().await.unwrap();
    let server = rustix::process::Pid::from_raw(lab.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::STOP).unwrap();
    clocks.jump(TERM);
    assert_eq!(term.check(), Err(Lapsed::Over));
    // Keys are written within the term, or not at all.
    let refused = bus.within(term.clone()).kv_put("status", "x", "y").await;
    assert!(matches!(refused, Err(pilab::bus::error::BusError::Lapsed { .. })), "{refused:?}");
    rustix::process::kill_process(server, rustix::process::Signal::CONT).unwrap();
    until("it writes again", || term.check().is_ok()).await;
    assert!(!term.has_ended());
    ledger.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_is_set_by_an_hour_moves_no_lease() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let clocks = Clocks::default();
    let (ledger, term) = on(&bus, lab.dir.path(), &clocks, Duration::ZERO).await;
    stock(&ledger.handle, &["pi-1"]).await;
    let lease = granted(&ledger.handle, request("a", "ann", None)).await;
    let Reserved::Waiting(..) = ledger.handle.reserve(by("bob"), request("b", "bob", None)).await.unwrap()
    else {
        panic!("there is one device");
    };
    for hours in [1, -2, 1] {
        clocks.step(hours);
        let now = clocks.clock();
        let left = |deadline: Deadline| deadline.left(&now()).unwrap();
        let rows = ledger.handle.devices().await.unwrap();
        let (held, deadline) = rows[0].lease.clone().expect("it is held");
        assert_eq!(held, lease);
        assert!(left(deadline) > HOUR - SOON && left(deadline) <= HOUR, "{deadline:?}");
        assert_eq!(ledger.handle.queue().await.unwrap().len(), 1);
        assert_eq!(term.check(), Ok(()));
    }
    ledger.stop().await;
    // Nor for the next coordinator in the same boot of the host.
    clocks.step(1);
    let (ledger, _term) = on(&bus, lab.dir.path(), &clocks, Duration::ZERO).await;
    let rows = ledger.handle.devices().await.unwrap();
    let left = rows[0].lease.clone().expect("it is held").1.left(&clocks.clock()()).unwrap();
    assert!(left > HOUR - 2 * SOON && left <= HOUR, "{left:?}");
    // Time itself ends it.
    clocks.jump(HOUR);
    let ended = async {
        let mut changes = ledger.handle.changes();
        while ledger.handle.devices().await.unwrap()[0].record.handover.is_none() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, ended).await.unwrap();
    ledger.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_whose_answer_was_lost_is_one_and_the_next_coordinator_names_who_came_after() {
    let lab = Lab::start().await;
    let (ledger, _bus) = Running::on(&lab).await;
    stock(&ledger.handle, &["pi-1"]).await;
    granted(&ledger.handle, request("a", "ann", None)).await;
    let left = async |ledger: &Running| {
        let deadline = ledger.handle.extend(by("ann"), lease_id("a"), HOUR, 7).await.unwrap();
        deadline.left(&host_clock()()).unwrap()
    };
    assert!(left(&ledger).await > 2 * HOUR - SOON);
    ledger.stop().await;
    let (ledger, _bus) = Running::on(&lab).await;
    assert!(left(&ledger).await <= 2 * HOUR, "asked again of the next coordinator");
    ledger.handle.release(by("ann"), lease_id("a")).await.unwrap();
    ledger.handle.device_ready(device_id("pi-1")).await.unwrap();
    let bob = granted(&ledger.handle, request("b", "bob", None)).await;
    ledger.stop().await;

    let (ledger, _bus) = Running::on(&lab).await;
    for lost in [
        ledger.handle.heartbeat(by("ann"), lease_id("a")).await,
        ledger.handle.release(by("ann"), lease_id("a")).await,
        ledger.handle.extend(by("ann"), lease_id("a"), HOUR, 8).await.map(drop),
    ] {
        let Err(LedgerError::Refused(pilab::plan::lease::Refusal::LeaseLost(lost))) = lost else {
            panic!("{lost:?}")
        };
        let now = lost.present.expect("who came after is named");
        assert_eq!((now.holder, now.token, now.until_ms), (user("bob"), bob.token, bob.deadline.wall_ms()));
    }
    ledger.stop().await;
    lab.stop().await;
}
