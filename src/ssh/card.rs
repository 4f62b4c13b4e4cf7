//! [`Card`]: a device that boots from its own card, where our agent was installed (`pilab device setup`).
//!
//! It is offered nothing to boot and exchanges no ticket. What a ticket brings others is given to it over SSH when it has
//! come up, into memory and nowhere else, after all that the holder before has left of the agent's is gone:
//!
//! ```text
//!  issue (files kept) ──► power on ──► SSH: agent stopped, its state and containers removed,
//!                                           credentials written, identity last, agent started ──► redeemed
//! ```
//!
//! A device without a switch is never off: that it is switched off means that its agent is stopped and forgets who it is.

use super::reach::SshError;
use super::remote::{Remote, Way};
use crate::device::ports::{
    Boot, BootOffer, PortError, PortFuture, Power, Reach, ReachOutput, ReachTarget, TicketFate, TicketGrant,
    TicketOffice,
};
use crate::model::id::DeviceId;
use crate::model::identity::file;
use crate::model::lease::{Fence, FencingToken};
use crate::model::power::{PowerReading, PowerState};
use crate::model::workload::label;
use crate::support::chain::Chain;
use crate::support::lock::lock;
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a login and a script may take where the device is up: sshd under emulation takes seconds.
pub const ACT_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two tries to reach a device that is coming up.
const AGAIN: Duration = Duration::from_secs(2);
/// Where the agent's identity and credentials lie on the device: in memory.
pub const IDENTITY_DIR: &str = "/run/pilab-agent";
/// Where its state lies. The lab's own programs, should there be some on the device, have other places.
pub const STATE_DIR: &str = "/var/lib/pilab-agent";

/// Nothing of the agent's is left but its program: `DIR STATE LABEL`. A device on which none was installed is as clean.
const CLEAN: &str = r#"set -eu
systemctl stop pilab-agent.service 2> /dev/null || ! systemctl --quiet is-active pilab-agent.service
rm -rf -- "$1"
if [ -d "$2" ]; then find "$2" -mindepth 1 -delete; fi
if command -v podman > /dev/null; then
	podman ps --all --quiet --filter "label=$3" | xargs -r podman rm --force --time 0 > /dev/null
fi
"#;

/// Gives the agent its credentials and starts it: `DIR SHA256`, with the identity in the first line of the input and the
/// credentials after that. What does not come whole is not put there.
const GIVE: &str = r#"set -eu
umask 077
mkdir -p "$1"
IFS= read -r identity
cat > "$1/nats.creds.new"
[ "$(sha256sum < "$1/nats.creds.new")" = "$2  -" ] || { rm -f "$1/nats.creds.new"; echo 'the credentials did not arrive whole' >&2; exit 3; }
mv -f "$1/nats.creds.new" "$1/nats.creds"
printf '%s\n' "$identity" > "$1/identity.json.new"
mv -f "$1/identity.json.new" "$1/identity.json"
systemctl start pilab-agent.service
"#;

/// Stops the agent, and removes all that it knows and has made.
pub async fn clean(remote: &Remote) -> Result<(), SshError> {
    let managed = format!("{}={}", label::MANAGED_BY, label::AGENT);
    let arguments = [IDENTITY_DIR, STATE_DIR, managed.as_str()];
    remote.script("clean the device", CLEAN, &arguments, &[], ACT_TIMEOUT).await.map(drop)
}

/// What a card's device is made of.
pub struct CardParts {
    /// The way to it.
    pub way: Way,
    /// Its switch, where it has one.
    pub power: Option<Arc<dyn Power>>,
    /// Whose tasks wait for it to come up.
    pub tracker: TaskTracker,
    /// When they end.
    pub token: CancellationToken,
}

/// One device.
pub struct Card {
    way: Way,
    power: Option<Arc<dyn Power>>,
    tracker: TaskTracker,
    token: CancellationToken,
    fence: Mutex<Fence>,
    /// What it is given when it is next switched on.
    grant: Mutex<Option<Grant>>,
    /// One at a time logs in.
    kept: tokio::sync::Mutex<Option<Arc<Remote>>>,
    /// Nothing of an agent's is on it, as far as this process knows.
    is_clean: AtomicBool,
}

/// What a device is to be given. Void once it is cancelled.
#[derive(Clone)]
struct Grant {
    grant: Arc<TicketGrant>,
    void: CancellationToken,
}

impl Card {
    /// Reaches nothing yet.
    pub fn new(parts: CardParts) -> Arc<Self> {
        let CardParts { way, power, tracker, token } = parts;
        let (fence, grant, kept) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        let is_clean = AtomicBool::new(false);
        Arc::new(Self { way, power, tracker, token, fence, grant, kept, is_clean })
    }

    fn admit(&self, token: FencingToken) -> Result<(), PortError> {
        Ok(lock(&self.fence).admit(token)?)
    }

    /// Voids what was to be given.
    fn void(&self) {
        if let Some(grant) = lock(&self.grant).take() {
            grant.void.cancel();
        }
    }

    /// A connection that is kept, or a new one.
    async fn remote(&self) -> Result<Arc<Remote>, SshError> {
        let mut kept = self.kept.lock().await;
        if let Some(remote) = kept.as_ref().filter(|remote| remote.is_open()) {
            return Ok(Arc::clone(remote));
        }
        let remote = Arc::new(self.way.connect(ACT_TIMEOUT).await?);
        *kept = Some(Arc::clone(&remote));
        Ok(remote)
    }

    /// The next one connects anew.
    async fn forget(&self) {
        self.kept.lock().await.take();
    }

    async fn clean(&self) -> Result<(), SshError> {
        if clean(&*self.remote().await?).await.is_err() {
            // The connection that was kept may be of a boot that is over.
            self.forget().await;
            clean(&*self.remote().await?).await?;
        }
        self.is_clean.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn give(&self, grant: &Grant) -> Result<(), SshError> {
        if !self.is_clean.load(Ordering::SeqCst) {
            self.clean().await?;
        }
        let remote = self.remote().await?;
        let of = |name: &str| {
            let found = grant.grant.files.iter().find(|(file, _)| file == name);
            found.map(|(_, content)| content.as_slice()).unwrap_or_default()
        };
        let (identity, creds) = (of(file::IDENTITY), of(file::NATS_CREDS));
        let input = [identity, b"\n", creds].concat();
        let sha256 = format!("{:x}", Sha256::digest(creds));
        if grant.void.is_cancelled() {
            return Err(SshError::Lost);
        }
        self.is_clean.store(false, Ordering::SeqCst);
        let arguments = [IDENTITY_DIR, sha256.as_str()];
        remote.script("start the agent", GIVE, &arguments, &input, ACT_TIMEOUT).await?;
        grant.grant.fate.send_replace(TicketFate::Redeemed { address: self.way.login.address });
        Ok(())
    }

    /// Gives it what it is to have once it has come up.
    async fn give_when_up(self: Arc<Self>, grant: Grant) {
        let deadline = Instant::now() + grant.grant.window;
        while !grant.void.is_cancelled() {
            let error = match self.give(&grant).await {
                Ok(()) => return,
                Err(error) => error,
            };
            let device = &self.way.device;
            // Another machine, or a key that is refused, is the same the next time.
            let lasts = !matches!(
                error,
                SshError::Unreachable { .. }
                    | SshError::Lost
                    | SshError::TimedOut { .. }
                    | SshError::Protocol { .. }
            );
            if lasts || Instant::now() >= deadline {
                tracing::warn!(%device, "it was not given its credentials: {}", Chain(&error));
                return;
            }
            tracing::debug!(%device, "not up yet: {}", Chain(&error));
            sleep(AGAIN).await;
        }
    }

    async fn set_now(&self, state: PowerState) -> Result<(), SshError> {
        let grant = lock(&self.grant).clone();
        match (state, grant) {
            (PowerState::On, Some(grant)) => self.give(&grant).await,
            (PowerState::On, None) => Ok(()),
            // One that nobody has said is ours has nothing of ours.
            (PowerState::Off, _) if self.way.pinned()?.is_none() => Ok(()),
            (PowerState::Off, _) => self.clean().await,
        }
    }

    fn failed(&self, operation: &str) -> impl FnOnce(SshError) -> PortError {
        let operation = format!("{operation} {} over SSH", self.way.device);
        move |error| PortError::Failed { operation, hint: error.hint(), source: Box::new(error) }
    }
}

/// The device's ports: one thing stands behind them all.
#[derive(Clone)]
pub struct CardPorts(pub Arc<Card>);

impl Power for CardPorts {
    fn set(&self, token: FencingToken, state: PowerState) -> PortFuture<'_, ()> {
        Box::pin(async move {
            let Self(card) = self;
            card.admit(token)?;
            let Some(power) = &card.power else {
                let bound = timeout(ACT_TIMEOUT, card.set_now(state)).await;
                let done = bound.unwrap_or(Err(SshError::TimedOut { timeout: ACT_TIMEOUT }));
                let doing = if state == PowerState::On { "give credentials to" } else { "clean" };
                return done.map_err(card.failed(doing));
            };
            card.forget().await;
            card.is_clean.store(false, Ordering::SeqCst);
            power.set(token, state).await?;
            let grant = lock(&card.grant).clone();
            if let (PowerState::On, Some(grant)) = (state, grant) {
                let (this, end) = (Arc::clone(card), card.token.clone());
                card.tracker.spawn(async move {
                    let void = grant.void.clone();
                    tokio::select! {
                        () = this.give_when_up(grant) => {}
                        () = void.cancelled() => {}
                        () = end.cancelled() => {}
                    }
                });
            }
            Ok(())
        })
    }

    fn get(&self) -> PortFuture<'_, PowerReading> {
        Box::pin(async move {
            match &self.0.power {
                Some(power) => power.get().await,
                None => Ok(PowerReading::Unknown),
            }
        })
    }
}

impl Boot for CardPorts {
    /// It boots what is on its card.
    fn offer(&self, token: FencingToken, _: BootOffer) -> PortFuture<'_, ()> {
        Box::pin(async move { self.0.admit(token) })
    }

    fn withdraw(&self, token: FencingToken) -> PortFuture<'_, ()> {
        Box::pin(async move {
            self.0.admit(token)?;
            self.0.void();
            Ok(())
        })
    }
}

impl TicketOffice for CardPorts {
    fn issue(&self, grant: TicketGrant) -> PortFuture<'_, Vec<String>> {
        Box::pin(async move {
            self.0.void();
            *lock(&self.0.grant) = Some(Grant { grant: Arc::new(grant), void: CancellationToken::new() });
            Ok(Vec::new())
        })
    }

    fn revoke<'a>(&'a self, _: &'a DeviceId) -> PortFuture<'a, ()> {
        Box::pin(async move {
            self.0.void();
            Ok(())
        })
    }
}

impl Reach for CardPorts {
    /// With the key of the lab file and the host key that is pinned: the ticket's were given to nobody.
    fn run<'a>(
        &'a self,
        token: FencingToken,
        _: &'a ReachTarget,
        command: &'a [String],
        bound: Duration,
    ) -> PortFuture<'a, ReachOutput> {
        Box::pin(async move {
            let Self(card) = self;
            card.admit(token)?;
            let ran = async { card.remote().await?.run(command, bound).await };
            let ran = timeout(bound, ran).await.unwrap_or(Err(SshError::TimedOut { timeout: bound }));
            if ran.is_err() {
                card.forget().await;
            }
            ran.map_err(card.failed(&format!("run {} on", super::quote::join(command))))
        })
    }
}
