//! The device actor over fakes that keep state and fail on command, with a real journal and console.

mod power;
pub(crate) mod world;

use self::world::{Fault, World};
use crate::journal::{Open, read_all, records};
use crate::support::console::Rig;
use pilab::device::ports::{BootLayer, BootOffer, TicketFate, TicketRefusal};
use pilab::device::{
    self, BootRequest, DeviceError, DeviceHandle, DeviceParts, DeviceState, MIN_OFF, Stagger, TicketRequest,
};
use pilab::journal::{Entry, JournalHandle, Since};
use pilab::model::boot::BootAttempt;
use pilab::model::device::{Backend, Device, Model};
use pilab::model::event::Event;
use pilab::model::id::DeviceId;
use pilab::model::identity::Mark;
use pilab::model::lease::FencingToken;
use pilab::model::power::{PowerReading, PowerState};
use pilab::support::term::Term;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A device whose actor runs.
struct Lab {
    world: Arc<World>,
    device: DeviceHandle,
    rig: Rig,
    journal: Open,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Lab {
    async fn new(dir: &Path, world: Arc<World>, min_off: Duration) -> Self {
        Self::staggered(dir, world, min_off, Arc::default()).await
    }

    async fn staggered(dir: &Path, world: Arc<World>, min_off: Duration, stagger: Arc<Stagger>) -> Self {
        let journal = Open::at(dir).await;
        let rig = Rig::new(&journal.handle);
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let device = Device {
            id: DeviceId::new("lab-vm-1").unwrap(),
            backend: Backend::Vm,
            model: Model::VmAarch64,
            labels: Default::default(),
            capabilities: Default::default(),
        };
        let parts = DeviceParts {
            device,
            mac: "52:54:00:00:00:01".to_owned(),
            power: world.clone(),
            boot: world.clone(),
            reach: world.clone(),
            tickets: world.clone(),
            console: rig.console.clone(),
            journal: journal.handle.clone(),
            min_off,
            stagger,
            term: Term::endless(),
            way_in: Some(dir.join("way-in.json")),
        };
        let device = device::spawn(parts, &tracker, token.clone());
        Self { world, device, rig, journal, tracker, token }
    }

    async fn until(&self, what: &str, holds: impl Fn(&DeviceState) -> bool) -> DeviceState {
        let mut state = self.device.state();
        match timeout(Duration::from_secs(20), state.wait_for(|state| holds(state))).await {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("{what}: {:?}", self.device.state().borrow().clone()),
        }
    }

    fn fate(&self, fate: TicketFate) {
        self.world.lock().fate.as_ref().expect("a ticket is out").send_replace(fate);
    }

    /// Ends everything in order.
    async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.rig.stop().await;
        self.journal.close().await;
    }
}

async fn events(journal: &JournalHandle) -> Vec<(u64, Event)> {
    let event = |record: pilab::journal::Record| match record.entry {
        Entry::Event(event) => Some((record.attempt.0, event)),
        _ => None,
    };
    records(read_all(journal, Since::Start).await).into_iter().filter_map(event).collect()
}

fn request(layer: &Path) -> BootRequest {
    BootRequest {
        image_id: "img".to_owned(),
        offer: BootOffer {
            kernel: Some(PathBuf::from("/kernel")),
            initramfs: Some(PathBuf::from("/initramfs")),
            layers: vec![BootLayer { path: layer.to_owned(), sha256: "ab12".to_owned() }],
            cmdline: vec!["loglevel=6".to_owned()],
            ..BootOffer::default()
        },
        ticket: Some(TicketRequest {
            cold: None,
            window: Duration::from_secs(60),
            host_key_public: "host".to_owned(),
            client_key_private: "client".to_owned(),
            mark: Mark::from_random(1),
            files: Box::new(|attempt| vec![("identity.json".to_owned(), attempt.to_string().into_bytes())]),
        }),
    }
}

fn layer(dir: &Path) -> PathBuf {
    let path = dir.join("base.squashfs");
    std::fs::write(&path, [0; 42]).unwrap();
    path
}

const OLD: FencingToken = FencingToken { epoch: 1, sequence: 1 };
const NEW: FencingToken = FencingToken { epoch: 1, sequence: 2 };

#[tokio::test]
async fn a_boot_is_offered_recorded_and_switched_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    world.lock().power = Some(PowerState::On);
    let lab = Lab::new(&dir.path().join("journal"), world.clone(), Duration::ZERO).await;
    let attempt = lab.device.boot(NEW, request(&layer(dir.path()))).await.unwrap();
    assert_eq!(attempt, BootAttempt(1));
    let acts = ["power Off", "issue 52:54:00:00:00:01", "offer 1", "power On"];
    assert_eq!(world.take(), acts);
    assert_eq!(world.lock().cmdline, ["pilab.ticket=t", "loglevel=6", "pilab.layer=ab12:42"]);
    assert_eq!(world.lock().files, [("identity.json".to_owned(), b"1".to_vec())]);
    let state = lab.until("on", |state| state.powered_on_at.is_some()).await;
    assert_eq!((state.power, state.attempt, state.address), (PowerReading::On, attempt, None));

    lab.device.off(NEW).await.unwrap();
    assert_eq!(world.take(), ["power Off", "withdraw", "revoke lab-vm-1"]);
    let intent = |state| Event::PowerIntent { state, token: NEW };
    let done = |state| Event::PowerDone { state, reading: state.into() };
    let (on, off) = (PowerState::On, PowerState::Off);
    assert_eq!(
        events(&lab.journal.handle).await,
        [
            (0, intent(off)),
            (0, done(off)),
            (1, Event::BootOffered { attempt, image: "img".to_owned() }),
            (1, intent(on)),
            (1, done(on)),
            (1, intent(off)),
            (1, done(off)),
        ]
    );
    lab.stop().await;
}

#[tokio::test]
async fn attempts_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (layer, journal) = (layer(dir.path()), dir.path().join("journal"));
    let world = Arc::new(World::default());
    for expected in 1..=3 {
        let lab = Lab::new(&journal, world.clone(), Duration::ZERO).await;
        assert_eq!(lab.device.boot(NEW, request(&layer)).await.unwrap(), BootAttempt(expected));
        assert_eq!(lab.device.unfinished_intent(), None);
        let before = world.take().len();
        lab.stop().await;
        assert_eq!((before > 0, world.take().len()), (true, 0), "shutting down switches nothing");
    }
}

#[tokio::test]
async fn a_passed_lease_has_no_effect_through_any_verb() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(&dir.path().join("journal"), Arc::default(), Duration::ZERO).await;
    let layer = layer(dir.path());
    lab.device.boot(OLD, request(&layer)).await.unwrap();
    lab.fate(TicketFate::Redeemed { address: [10, 0, 0, 7].into() });
    lab.until("address", |state| state.address.is_some()).await;
    lab.device.run(NEW, vec!["true".to_owned()], Duration::from_secs(1)).await.unwrap();
    let (before, state) = (events(&lab.journal.handle).await.len(), lab.device.state().borrow().clone());
    lab.world.take();

    let booted = lab.device.boot(OLD, request(&layer)).await;
    assert!(matches!(booted, Err(DeviceError::Fenced(_))), "{booted:?}");
    let off = lab.device.off(OLD).await;
    assert!(matches!(off, Err(DeviceError::Fenced(_))), "{off:?}");
    let ran = lab.device.run(OLD, vec!["true".to_owned()], Duration::from_secs(1)).await;
    assert!(matches!(ran, Err(DeviceError::Fenced(_))), "{ran:?}");
    assert_eq!(lab.world.take(), [""; 0]);
    assert_eq!(*lab.device.state().borrow(), state);
    assert_eq!(events(&lab.journal.handle).await.len(), before);

    lab.device.off(NEW).await.unwrap();
    let written = lab.device.console().write(OLD, "x").await;
    assert!(matches!(written, Err(pilab::console::WriteError::Fenced(_))), "{written:?}");
    lab.stop().await;
}

#[tokio::test]
async fn the_address_comes_from_the_ticket_and_goes_with_the_power() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(&dir.path().join("journal"), Arc::default(), Duration::ZERO).await;
    let layer = layer(dir.path());
    lab.device.boot(NEW, request(&layer)).await.unwrap();
    let command = vec!["uname".to_owned(), "-r".to_owned()];
    let early = lab.device.run(NEW, command.clone(), Duration::from_secs(1)).await;
    assert!(matches!(early, Err(DeviceError::NoAddress)), "{early:?}");
    // Both changes at once: the exchange is recorded though only the refusal is left to see.
    let (address, thief) = ([10, 0, 0, 7].into(), [10, 0, 0, 66].into());
    lab.fate(TicketFate::Redeemed { address });
    lab.fate(TicketFate::Refused { address: thief, cause: TicketRefusal::Used, redeemed: Some(address) });
    lab.until("address", |state| state.address == Some(address)).await;
    lab.world.take();
    let output = lab.device.run(NEW, command, Duration::from_secs(1)).await.unwrap();
    assert_eq!(output.stdout, b"ok");
    assert_eq!(lab.world.take(), ["run uname -r at 10.0.0.7 as client"]);
    let (slept, booted) =
        tokio::join!(lab.device.run(NEW, vec!["sleep".to_owned()], Duration::from_secs(9)), async {
            lab.world.acted.notified().await;
            lab.device.boot(NEW, request(&layer)).await
        });
    assert!(matches!(slept, Err(DeviceError::SwitchedOff)), "{slept:?}");
    assert_eq!(booted.unwrap(), BootAttempt(2));
    assert_eq!(lab.device.state().borrow().address, None);
    let tickets: Vec<_> = events(&lab.journal.handle)
        .await
        .into_iter()
        .filter(|(_, e)| matches!(e, Event::TicketRedeemed { .. } | Event::TicketRefused { .. }))
        .collect();
    let refused =
        Event::TicketRefused { address: thief.to_string(), cause: "the ticket has been used".to_owned() };
    assert_eq!(tickets, [(1, Event::TicketRedeemed { address: address.to_string() }), (1, refused)]);
    lab.stop().await;
}

#[tokio::test]
async fn what_fails_is_recorded_and_leaves_nothing_offered() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    world.lock().power = Some(PowerState::Off);
    let lab = Lab::new(&dir.path().join("journal"), world.clone(), Duration::ZERO).await;
    let layer = layer(dir.path());
    for (fault, expected) in [
        (Fault::SwitchFails, "cannot switch power on"),
        (Fault::SwitchSticks, "power was switched on but reads back as off"),
        (Fault::OfferFails, "cannot offer what to boot"),
    ] {
        world.lock().fault = fault;
        let error = lab.device.boot(NEW, request(&layer)).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        let acts = world.take();
        assert_eq!(acts[acts.len() - 2..], ["withdraw", "revoke lab-vm-1"], "{acts:?}");
        assert_eq!(lab.device.state().borrow().powered_on_at, None);
    }
    let missing = lab.device.boot(NEW, request(&dir.path().join("none"))).await;
    assert!(matches!(missing, Err(DeviceError::Layer { .. })), "{missing:?}");
    assert_eq!(world.take(), [""; 0]);
    let failures: Vec<_> = events(&lab.journal.handle)
        .await
        .into_iter()
        .filter_map(|(_, event)| match event {
            Event::PowerFailed { cause, .. } => Some(cause),
            _ => None,
        })
        .collect();
    assert_eq!(failures, ["cannot switch the relay: broken", "power was switched on but reads back as off"]);
    lab.stop().await;
}

#[tokio::test]
async fn a_busy_device_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    world.lock().fault = Fault::SwitchHangs;
    let lab = Lab::new(&dir.path().join("journal"), world.clone(), Duration::ZERO).await;
    let tracker = TaskTracker::new();
    let off = lab.device.clone();
    tracker.spawn(async move { off.off(NEW).await });
    world.acted.notified().await;
    let mut refused = 0;
    for _ in 0..6 {
        let off = lab.device.clone();
        let waiting = tracker.spawn(async move { off.off(NEW).await });
        tokio::task::yield_now().await;
        if waiting.is_finished() {
            assert!(matches!(waiting.await.unwrap(), Err(DeviceError::Busy)));
            refused += 1;
        }
    }
    assert_eq!(refused, 2, "four wait");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_board_stays_off_for_the_least_time() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    world.lock().power = Some(PowerState::On);
    let lab = Lab::new(&dir.path().join("journal"), world, MIN_OFF).await;
    let layer = layer(dir.path());
    let begun = Instant::now();
    lab.device.boot(NEW, request(&layer)).await.unwrap();
    assert!(begun.elapsed() >= MIN_OFF, "{:?}", begun.elapsed());
    lab.device.off(NEW).await.unwrap();
    tokio::time::advance(MIN_OFF).await;
    let begun = Instant::now();
    lab.device.boot(NEW, request(&layer)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100), "it has been off for long: {:?}", begun.elapsed());
    lab.stop().await;
}
