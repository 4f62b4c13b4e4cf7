//! Takes requests and owns the runs.

use super::answers::{decode, json, needed, ok, same_version};
use super::bundle::Bundles;
use super::care;
use super::handover;
use super::intake;
use super::ledger::{self, LedgerError, LedgerOptions, TERM, TakeError};
use super::lending::Lending;
use super::log::RunLog;
use super::operator::Operator;
use super::parts::Parts;
use super::people::People;
use super::refusal::Refusal;
use super::runner::Kept;
use super::runs::Runs;
use crate::bus::connect::Message;
use crate::bus::error::BusError;
use crate::bus::issuer::IssuerError;
use crate::model::id::{DeviceId, RunId, UserName};
use crate::model::role::Role;
use crate::plan::lease::Caller;
use crate::support::chain::Chain;
use crate::support::lock::lock;
use crate::wire::boot::{BOOT, EVENTS_OF, UPLOAD, UPLOAD_LACKS};
use crate::wire::console::{CONSOLE_BREAK, CONSOLE_READ, CONSOLE_WRITE};
use crate::wire::deploying::{APPLY, DEPLOY, DEPLOYMENTS, STATUS, UNDEPLOY, VERIFY, WITHDRAW};
use crate::wire::lending::{
    DEVICE, DEVICES, ESTIMATE, EXTEND, HEALTH, HEARTBEAT, LEASE, LOGIN, LOGOUT, LeaseRef, LogoutAsked,
    LogoutDone, PING, POWER, QUEUE, RELEASE, RELOAD, RESERVE, Reloaded, Reserve, TRANSFER,
};
use crate::wire::request::{
    BUNDLE, BUNDLE_READ, BundleRead, CANCEL, EVENTS, EventsRequest, HELLO, RUN, Reply, RunRef,
};
use crate::wire::subject;
use crate::wire::training::TRAIN;
use crate::wire::tunnel::{ADMIT, TUNNEL_CLOSE, TUNNEL_OPEN, TUNNEL_RECEIVE, TUNNEL_SEND};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where the ledger's epoch is kept, below the coordinator's directory.
const EPOCH_FILE: &str = "ledger.json";
/// How often it is looked whether another has the lab.
const LOOK: Duration = Duration::from_millis(200);
/// A running coordinator.
pub struct Coordinator {
    shared: Arc<Shared>,
    tracker: TaskTracker,
    token: CancellationToken,
}

pub(super) struct Shared {
    pub(super) parts: Arc<Parts>,
    pub(super) lending: Arc<Lending>,
    pub(super) bundles: Arc<Bundles>,
    pub(super) kept_runs: Arc<Runs>,
    people: People,
    pub(super) tracker: TaskTracker,
    /// No await happens under these locks.
    pub(super) runs: Mutex<BTreeMap<RunId, Run>>,
    pub(super) kept: Mutex<BTreeMap<RunId, Kept>>,
}

pub(super) struct Run {
    pub(super) owner: UserName,
    /// None once it has ended and its events are read from the disk.
    pub(super) log: Option<Arc<RunLog>>,
}

impl Run {
    pub(super) fn is_under_way(&self) -> bool {
        self.log.as_ref().is_some_and(|log| !log.has_ended())
    }
}

/// A coordinator could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// NATS refused or did not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// What the lab's coordinators have issued cannot be read or recorded.
    #[error(transparent)]
    Issued(#[from] IssuerError),
    /// The ledger of the lab's leases cannot be taken.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The ledger did not take the lab's devices.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Coordinator {
    /// Subscribes to the lab's requests and serves them until `shutdown`.
    pub async fn start(mut parts: Parts) -> Result<Self, StartError> {
        let requests = parts.bus.subscribe(subject::requests(&parts.lab)).await?;
        parts.bus.settle().await?;
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let ledger = LedgerOptions {
            bus: parts.bus.clone(),
            lab: parts.lab.clone(),
            policy: parts.policy.clone(),
            epoch_file: parts.dir.join(EPOCH_FILE),
            clock: Arc::clone(&parts.clock),
            term: parts.term.clone(),
            tenure: TERM,
            longest_act: parts.longest_act,
            revive: Arc::clone(&parts.revive),
            silence: parts.silence,
            hook: parts.hook.clone(),
        };
        let ledger = ledger::start(ledger, &tracker, token.clone()).await?;
        // From here on each key is written by whoever has the ledger, or not at all.
        parts.bus = parts.bus.within(parts.term.clone());
        parts.issuer.share_through(&parts.bus).await?;
        // Rights follow the program's version; a site's servers learn of them here.
        parts.issuer.announce(&parts.nats_url).await?;
        let people = People::load(&parts).await?;
        let inventory = parts.devices.iter().map(|device| device.handle.device().clone()).collect();
        let lab = parts.lab.clone();
        let (bus, book) = (parts.bus.clone(), ledger.clone());
        let operator = Operator::start(bus, lab, inventory, book, &tracker, token.clone());
        let parts = Arc::new(parts);
        let lending =
            Lending::start(ledger, Arc::clone(&parts), operator, tracker.clone(), token.clone()).await?;
        tracker.spawn(handover::run(Arc::clone(&lending), token.clone()));
        tracker.spawn(care::run(Arc::clone(&lending), token.clone()));
        let bundles = Bundles::new(&parts);
        let kept_runs = Arc::new(Runs::start(&parts, &tracker, token.clone()));
        let shared = Arc::new(Shared {
            parts,
            lending,
            bundles,
            kept_runs,
            people,
            tracker: tracker.clone(),
            runs: Mutex::default(),
            kept: Mutex::default(),
        });
        // Before anybody is answered: a run that somebody follows must be known.
        shared.recover().await?;
        tracker.spawn(intake::run(requests, Arc::clone(&shared), token.clone()));
        Ok(Self { shared, tracker, token })
    }

    /// Reads the lab file anew; an error tells why the lab stays as it is.
    pub async fn reload(&self) -> Result<Reloaded, String> {
        self.shared.lending.reload().await.map_err(|refusal| refusal.error)
    }

    /// Done when another coordinator has taken the lab.
    pub async fn deposed(&self) {
        while !self.shared.parts.term.has_ended() {
            sleep(LOOK).await;
        }
    }

    /// Stops all runs, waits for their ends, and ends. Answers the devices that are kept beyond their
    /// runs; they are left as they are.
    pub async fn shutdown(self) -> Vec<DeviceId> {
        for log in self.shared.logs() {
            log.cancel().cancel();
        }
        for log in self.shared.logs() {
            log.ended().await;
        }
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        let kept = lock(&self.shared.kept);
        kept.values()
            .flat_map(|kept| kept.grant.devices.iter().map(|device| device.handle.id().clone()))
            .collect()
    }
}

impl Shared {
    fn logs(&self) -> Vec<Arc<RunLog>> {
        lock(&self.runs).values().filter_map(|run| run.log.clone()).collect()
    }

    /// Answers a request.
    pub(super) async fn serve(self: &Arc<Self>, message: &Message) {
        let Some(asks) = asks(message) else { return };
        let answer = self.answer(&asks.user, asks.verb, &message.payload).await;
        self.reply(&asks, answer).await;
    }

    /// Answers a request of a user who asks for too much at once.
    pub(super) async fn turn_away(&self, message: &Message) {
        let Some(asks) = asks(message) else { return };
        let refusal = Refusal::hinted(
            format!("too many requests of {} wait to be answered already", asks.user),
            "ask again when some have been",
        );
        self.reply(&asks, Err(refusal)).await;
    }

    async fn reply(&self, asks: &Asks<'_>, answer: Result<Vec<u8>, Refusal>) {
        let Asks { user, verb, reply } = asks;
        // Whoever has the lab now heard it too, and answers.
        if self.parts.term.has_ended() {
            return tracing::debug!(%user, verb, "not answered: another coordinator has the lab");
        }
        let answer = match answer {
            Ok(bytes) => bytes,
            Err(refusal) => json(&Reply::<()>::from(refusal)),
        };
        if let Err(error) = self.parts.bus.publish((*reply).to_owned(), answer).await {
            tracing::warn!(%user, verb, error = %Chain(&error), "an answer was not sent");
        }
    }

    async fn answer(
        self: &Arc<Self>,
        user: &UserName,
        verb: &str,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let role = self.people.role(user);
        if role < needed(verb) {
            return Err(Refusal::hinted(
                format!(
                    "{user} is a {role} of lab {}; {verb:?} takes the role {}",
                    self.parts.lab,
                    needed(verb)
                ),
                "an admin gives more with pilab login",
            ));
        }
        let by = Caller { user: user.clone(), admin: role == Role::Admin };
        let lending = &self.lending;
        match verb {
            HELLO => Ok(ok(())),
            DEVICES => lending.list().await.map(ok),
            DEVICE => lending.show(decode(payload)?).await.map(ok),
            RELOAD => lending.reload().await.map(ok),
            TRAIN => self.train(user, decode(payload)?).await.map(ok),
            HEALTH => lending.say_health(&by, decode(payload)?).await.map(ok),
            QUEUE => lending.queue().await.map(ok),
            RESERVE => {
                let asked: Reserve = decode(payload)?;
                same_version(asked.version)?;
                lending.reserve(by, asked).await.map(ok)
            }
            ESTIMATE => lending.estimate(by, decode(payload)?).await.map(ok),
            LEASE => lending.watch(&by, decode(payload)?).await.map(ok),
            EXTEND => lending.extend(by, decode(payload)?).await.map(ok),
            TRANSFER => lending.transfer(by, decode(payload)?).await.map(ok),
            RELEASE => lending.release_by(by, decode::<LeaseRef>(payload)?.lease).await.map(ok),
            HEARTBEAT => lending.heartbeat(by, decode::<LeaseRef>(payload)?.lease).await.map(ok),
            POWER => lending.power(&by, decode(payload)?).await.map(ok),
            BOOT => lending.boot(&by, decode(payload)?).await.map(ok),
            UPLOAD_LACKS => lending.upload_lacks(&by, decode(payload)?).await.map(ok),
            UPLOAD => lending.upload(&by, decode(payload)?).await.map(ok),
            EVENTS_OF => lending.events_of(&by, decode(payload)?).await.map(ok),
            PING => lending.ping(&by, decode(payload)?).await.map(ok),
            CONSOLE_READ => lending.read_console(decode(payload)?).await.map(ok),
            CONSOLE_WRITE => lending.write_console(&by, decode(payload)?).await.map(ok),
            ADMIT => lending.admit(&by, decode(payload)?).await.map(ok),
            TUNNEL_OPEN => lending.open_tunnel(&by, decode(payload)?).await.map(ok),
            TUNNEL_SEND => lending.tunnel_send(&by, decode(payload)?).await.map(ok),
            TUNNEL_RECEIVE => lending.tunnel_receive(&by, decode(payload)?).await.map(ok),
            TUNNEL_CLOSE => {
                lending.close_tunnel(&by, decode(payload)?);
                Ok(ok(()))
            }
            CONSOLE_BREAK => lending.break_console(&by, decode(payload)?).await.map(ok),
            DEPLOY => lending.deploy(&by, decode(payload)?).await.map(ok),
            UNDEPLOY => lending.undeploy(&by, decode(payload)?).await.map(ok),
            APPLY => lending.apply(&by, decode(payload)?).await.map(ok),
            WITHDRAW => lending.withdraw(&by, decode(payload)?).await.map(ok),
            DEPLOYMENTS => lending.deployments().await.map(ok),
            STATUS => lending.status(decode(payload)?).await.map(ok),
            VERIFY => lending.verify(&by, decode(payload)?).await.map(ok),
            LOGIN => self.people.login(decode(payload)?).await.map(ok),
            LOGOUT => self.logout(decode(payload)?).await.map(ok),
            RUN => self.start_run(user, decode(payload)?).await.map(ok),
            EVENTS => {
                let request: EventsRequest = decode(payload)?;
                self.events(&request).await.map(ok)
            }
            CANCEL => {
                let request: RunRef = decode(payload)?;
                self.cancel(&by, &request.run).map(ok)
            }
            BUNDLE => {
                let request: RunRef = decode(payload)?;
                self.bundle(&request.run).await.map(ok)
            }
            BUNDLE_READ => {
                let request: BundleRead = decode(payload)?;
                let piece = self.bundles.read(&request.run, &request.path, request.offset);
                piece.map_err(|e| Refusal::new(Chain(&e).to_string()))
            }
            other => Err(Refusal::new(format!("there is no request {other:?}"))),
        }
    }

    async fn logout(&self, asked: LogoutAsked) -> Result<LogoutDone, Refusal> {
        let logins = self.people.logout(&asked.user).await?;
        Ok(LogoutDone { logins, leases: self.lending.leases_of(asked.user).await? })
    }
}

/// Who asks for what, and where the answer goes.
struct Asks<'a> {
    user: UserName,
    verb: &'a str,
    reply: &'a str,
}

/// None for what is no request.
///
/// An answer goes only to the caller's own inbox: otherwise a request with the reply subject `$KV.desired.x` would make the
/// coordinator overwrite that key with its answer.
fn asks(message: &Message) -> Option<Asks<'_>> {
    let (user, verb) = subject::parse_request(&message.subject)?;
    let reply = message.reply.as_deref()?;
    if reply.starts_with(&format!("{}.", subject::inbox(user.as_str()))) {
        return Some(Asks { user, verb, reply });
    }
    tracing::warn!(%user, verb, reply, "a request asks for its answer outside the caller's inbox");
    None
}
