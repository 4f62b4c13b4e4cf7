//! A device whose every port writes down what is done to it, by whom and when, and tells what came too late.

use pilab::console::port::{BreakFuture, ByteStream, Line, LineFuture};
use pilab::console::{self, ConsoleParts};
use pilab::device::ports::{
    Boot, BootOffer, PortFuture, Power, Reach, ReachOutput, ReachTarget, TicketFate, TicketGrant,
    TicketOffice,
};
use pilab::device::{self, BootRequest, DeviceHandle, DeviceParts, Stagger, TicketRequest};
use pilab::model::device::{Backend, Device, Model};
use pilab::model::id::DeviceId;
use pilab::model::identity::Mark;
use pilab::model::lease::FencingToken;
use pilab::model::power::{PowerReading, PowerState};
use pilab::support::term::{Nanos, Term};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::Open;

/// How many bytes the line takes at a time.
const PIECE: usize = 64;
/// The least time off.
pub(super) const MIN_OFF: Duration = Duration::from_millis(30);

/// What was done, and what of it came too late.
#[derive(Default)]
pub(super) struct Effects {
    /// Acts under a smaller token come too late.
    floor: Mutex<Option<FencingToken>>,
    /// Acts at this time or later come too late, in nanoseconds of the boot clock; 0 for never.
    pub(super) until: AtomicU64,
    /// How long each act takes, in milliseconds.
    pub(super) pace: AtomicU64,
    clock: Mutex<Option<Nanos>>,
    seen: Mutex<Vec<(&'static str, bool)>>,
    log: Mutex<Option<File>>,
}

impl Effects {
    /// From now on acts before this token are stale.
    pub(super) fn lost_to(&self, token: FencingToken) {
        *self.floor.lock().unwrap() = Some(token);
    }

    /// Each act is a line of this file too.
    pub(super) fn log_to(&self, path: &Path) {
        *self.log.lock().unwrap() = Some(File::options().create(true).append(true).open(path).unwrap());
    }

    /// What was done since it was asked last; `true` for what came too late.
    pub(super) fn take(&self) -> Vec<(&'static str, bool)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn act(&self, what: &'static str, token: Option<FencingToken>) {
        if let Some(log) = self.log.lock().unwrap().as_mut() {
            writeln!(log, "{what}").unwrap();
        }
        let floor = *self.floor.lock().unwrap();
        let fenced = token.is_some_and(|token| Some(token) < floor);
        let until = self.until.load(Ordering::Relaxed);
        let late = until > 0 && self.clock.lock().unwrap().as_ref().is_some_and(|clock| clock() >= until);
        self.seen.lock().unwrap().push((what, fenced || late));
    }

    fn go_on(&self, what: &'static str, token: FencingToken) {
        let fenced = Some(token) < *self.floor.lock().unwrap();
        self.seen.lock().unwrap().push((what, fenced));
    }

    async fn take_time(&self) {
        sleep(Duration::from_millis(self.pace.load(Ordering::Relaxed))).await;
    }
}

/// The ports of the device, and its line.
pub(super) struct Fake {
    pub(super) effects: Effects,
    power: Mutex<PowerState>,
    /// Kept, so that the ticket's fate can be told.
    fate: Mutex<Option<watch::Sender<TicketFate>>>,
}

impl Power for Fake {
    fn set(&self, token: FencingToken, state: PowerState) -> PortFuture<'_, ()> {
        Box::pin(async move {
            self.effects.act("power", Some(token));
            *self.power.lock().unwrap() = state;
            self.effects.take_time().await;
            Ok(())
        })
    }

    fn get(&self) -> PortFuture<'_, PowerReading> {
        let reading = PowerReading::from(*self.power.lock().unwrap());
        Box::pin(async move {
            self.effects.take_time().await;
            Ok(reading)
        })
    }
}

impl Boot for Fake {
    fn offer(&self, token: FencingToken, _: BootOffer) -> PortFuture<'_, ()> {
        Box::pin(async move {
            self.effects.act("offer", Some(token));
            self.effects.take_time().await;
            Ok(())
        })
    }

    fn withdraw(&self, token: FencingToken) -> PortFuture<'_, ()> {
        Box::pin(async move {
            self.effects.act("withdraw", Some(token));
            self.effects.take_time().await;
            Ok(())
        })
    }
}

impl TicketOffice for Fake {
    fn issue(&self, grant: TicketGrant) -> PortFuture<'_, Vec<String>> {
        Box::pin(async move {
            self.effects.act("ticket", None);
            grant.fate.send_replace(TicketFate::Redeemed { address: [127, 0, 0, 1].into() });
            *self.fate.lock().unwrap() = Some(grant.fate);
            self.effects.take_time().await;
            Ok(Vec::new())
        })
    }

    fn revoke<'a>(&'a self, _: &'a DeviceId) -> PortFuture<'a, ()> {
        Box::pin(async move {
            self.effects.act("revocation", None);
            Ok(())
        })
    }
}

impl Reach for Fake {
    fn run<'a>(
        &'a self,
        token: FencingToken,
        _: &'a ReachTarget,
        _: &'a [String],
        _: Duration,
    ) -> PortFuture<'a, ReachOutput> {
        Box::pin(async move {
            self.effects.act("command", Some(token));
            for _ in 0..5 {
                self.effects.take_time().await;
                // It runs on the device by itself now: what ends it is the loss of the device.
                self.effects.go_on("command", token);
            }
            Ok(ReachOutput { exit_code: Some(0), stdout: Vec::new(), stderr: Vec::new() })
        })
    }
}

/// The device's line: it says nothing, and takes a piece at a time.
struct Tape {
    fake: Arc<Fake>,
    pause: Pin<Box<Sleep>>,
}

/// What a holder types: its token's sequence, again and again.
pub(super) fn typed(token: FencingToken) -> Vec<u8> {
    token.sequence.to_be_bytes().repeat(4 * PIECE / 8)
}

impl AsyncRead for Tape {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Tape {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.pause.as_mut().poll(cx));
        let sequence = bytes.first_chunk().map(|first| u64::from_be_bytes(*first)).unwrap();
        self.fake.effects.act("typed", Some(FencingToken { epoch: 1, sequence }));
        let pace = Duration::from_millis(self.fake.effects.pace.load(Ordering::Relaxed));
        self.pause.as_mut().reset(Instant::now() + pace);
        Poll::Ready(Ok(bytes.len().min(PIECE)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct TapePort(Arc<Fake>);

impl ByteStream for TapePort {
    fn open(&self) -> LineFuture<'_> {
        let tape = Tape { fake: self.0.clone(), pause: Box::pin(sleep(Duration::ZERO)) };
        Box::pin(async move { Ok(Box::new(tape) as Box<dyn Line>) })
    }

    fn send_break(&self) -> BreakFuture<'_> {
        Box::pin(async {
            self.0.effects.act("break", None);
            Ok(())
        })
    }
}

/// A device whose actor and console run on the fake.
pub(super) struct Bench {
    pub(super) fake: Arc<Fake>,
    pub(super) device: DeviceHandle,
    journal: Open,
    tracker: TaskTracker,
    token: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// `clock` is the boot clock, on which `term` may have been made.
    pub(super) async fn new(term: Term, clock: Option<Nanos>) -> Self {
        // In memory, where it can be: what is asked of the disk is asked elsewhere.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let journal = Open::at(&dir.path().join("journal")).await;
        let effects = Effects { clock: Mutex::new(clock), ..Effects::default() };
        let fake = Arc::new(Fake { effects, power: Mutex::new(PowerState::Off), fate: Mutex::default() });
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let console = ConsoleParts {
            port: Arc::new(TapePort(fake.clone())),
            journal: journal.handle.clone(),
            reopen_after: Duration::from_millis(10),
            term: term.clone(),
        };
        let console = console::spawn(console, &tracker, token.clone());
        console.status().wait_for(|now| now.open).await.unwrap();
        let device = Device {
            id: DeviceId::new("lab-pi").unwrap(),
            backend: Backend::Pi,
            model: Model::Pi4B,
            labels: Default::default(),
            capabilities: Default::default(),
        };
        let parts = DeviceParts {
            device,
            mac: String::new(),
            power: fake.clone(),
            boot: fake.clone(),
            reach: fake.clone(),
            tickets: fake.clone(),
            console,
            journal: journal.handle.clone(),
            min_off: MIN_OFF,
            stagger: Arc::new(Stagger::new(Duration::from_millis(3))),
            term,
            way_in: None,
        };
        let device = device::spawn(parts, &tracker, token.clone());
        Self { fake, device, journal, tracker, token, _dir: dir }
    }

    pub(super) async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.journal.close().await;
    }
}

/// What a holder does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    On,
    Off,
    Cycle,
    Boot,
    Type,
    Break,
    Run,
}

impl Act {
    pub(super) const ALL: [Self; 7] =
        [Self::On, Self::Off, Self::Cycle, Self::Boot, Self::Type, Self::Break, Self::Run];

    /// Does it; answers whether it was done.
    pub(super) async fn perform(self, device: &DeviceHandle, token: FencingToken) -> bool {
        match self {
            Self::On => device.on(token).await.is_ok(),
            Self::Off => device.off(token).await.is_ok(),
            Self::Cycle => device.cycle(token).await.is_ok(),
            Self::Boot => device.boot(token, request()).await.is_ok(),
            Self::Type => device.console().write(token, typed(token)).await.is_ok(),
            Self::Break => device.console().send_break(token).await.is_ok(),
            Self::Run => {
                let done = device.boot(token, request()).await.is_ok();
                let command = vec!["true".to_owned()];
                done && device.run(token, command, Duration::from_secs(1)).await.is_ok()
            }
        }
    }
}

fn request() -> BootRequest {
    BootRequest {
        image_id: String::new(),
        offer: BootOffer::default(),
        ticket: Some(TicketRequest {
            cold: None,
            window: Duration::from_secs(60),
            host_key_public: String::new(),
            client_key_private: String::new(),
            mark: Mark::from_random(1),
            files: Box::new(|_| Vec::new()),
        }),
    }
}
