//! A lab for tests of the command line: a real nats-server with real credentials, and a coordinator that
//! answers by a script.

use bytes::Bytes;
use pilab::bus::connect::{Bus, BusOptions, Message};
use pilab::bus::issuer::{COORDINATOR, Issuer};
use pilab::bus::server::{EmbeddedServer, ServerOptions, ServerState};
use pilab::cli::error::CliError;
use pilab::cli::local::{LocalFuture, Preparation, RunningLab};
use pilab::model::id::{LabName, RunId, UserName};
use pilab::model::run::{Outcome, RunEvent, RunFact, Verdict};
use pilab::wire::request::{
    self, BundleFile, BundleList, BundleRead, EventsRequest, Reply, RunRef, RunRequest,
};
use pilab::wire::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const HOUR: Duration = Duration::from_secs(3600);
/// A bound for what takes milliseconds.
pub const SOON: Duration = Duration::from_secs(20);
/// How many events one answer to `events` holds: small, so that every replay takes several.
const PAGE: usize = 3;

/// How events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// As they happen.
    All,
    /// Each twice, and the later ones first.
    Shuffled,
    /// Not at all: there is only the replay.
    Never,
    /// The first alone; then the server is killed at the first question for more, and comes back.
    ServerDies,
}

/// What the coordinator does.
#[derive(Debug, Clone)]
pub struct Script {
    /// How events are published.
    pub live: Live,
    /// The scenario that is refused.
    pub refuse: Option<&'static str>,
    /// Runs end only when they are cancelled.
    pub until_cancelled: bool,
    /// The bundle: path, content, and the hash that is announced when it is not the right one.
    pub bundle: Vec<(&'static str, Vec<u8>, Option<&'static str>)>,
}

impl Default for Script {
    fn default() -> Self {
        Self { live: Live::All, refuse: None, until_cancelled: false, bundle: Vec::new() }
    }
}

/// The lab.
pub struct ScriptedLab {
    _dir: TempDir,
    url: String,
    creds: String,
    lab: LabName,
    user: UserName,
    preparation: Vec<Preparation>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    _coordinator: JoinSet<()>,
    ended: Arc<AtomicUsize>,
}

impl ScriptedLab {
    pub async fn start(script: Script, ended: Arc<AtomicUsize>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (lab, user) = (LabName::new("lab").unwrap(), UserName::new("ann").unwrap());
        let issuer = Arc::new(Issuer::open(dir.path().join("issuer"), &lab).unwrap());
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let options =
            ServerOptions { dir: dir.path().join("nats"), listen, port: None, program: None, tls: None };
        let server =
            EmbeddedServer::start(options, issuer.clone(), &tracker, shutdown.clone()).await.unwrap();
        let options = BusOptions {
            url: server.url().into(),
            creds: issuer.coordinator(HOUR).unwrap().creds,
            name: "coordinator".into(),
            inbox_prefix: subject::inbox(COORDINATOR),
        };
        let bus = Bus::connect(options, Some(SOON)).await.unwrap();
        let mut requests = bus.subscribe(subject::requests(&lab)).await.unwrap();
        bus.settle().await.unwrap();
        let (url, creds) = (server.url(), issuer.user(&user, HOUR).unwrap().creds);
        let mut coordinator = JoinSet::new();
        let mut scripted =
            Coordinator { bus, lab: lab.clone(), script, server, runs: BTreeMap::new(), killed: false };
        coordinator.spawn(async move {
            while let Some(message) = requests.next().await {
                scripted.answer(message).await;
            }
        });
        let preparation = vec![Preparation { what: "nats-server".into(), took: 0.1, note: String::new() }];
        Self {
            _dir: dir,
            url,
            creds,
            lab,
            user,
            preparation,
            shutdown,
            tracker,
            _coordinator: coordinator,
            ended,
        }
    }
}

impl RunningLab for ScriptedLab {
    fn url(&self) -> &str {
        &self.url
    }

    fn creds(&self) -> &str {
        &self.creds
    }

    fn lab(&self) -> &LabName {
        &self.lab
    }

    fn user(&self) -> &UserName {
        &self.user
    }

    fn preparation(&self) -> &[Preparation] {
        &self.preparation
    }

    fn login(&self) -> Option<&Path> {
        None
    }

    fn shutdown(self: Box<Self>) -> LocalFuture<'static, Result<(), CliError>> {
        Box::pin(async move {
            self.shutdown.cancel();
            self.tracker.close();
            self.tracker.wait().await;
            self.ended.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }
}

struct Coordinator {
    bus: Bus,
    lab: LabName,
    script: Script,
    server: EmbeddedServer,
    runs: BTreeMap<RunId, Vec<RunEvent>>,
    killed: bool,
}

fn body<T: DeserializeOwned>(message: &Message) -> T {
    serde_json::from_slice(&message.payload).unwrap()
}

fn ok(body: impl Serialize) -> Bytes {
    serde_json::to_vec(&Reply::Ok { body }).unwrap().into()
}

impl Coordinator {
    async fn answer(&mut self, message: Message) {
        let (_, verb) = subject::parse_request(&message.subject).unwrap();
        let mut publish = Vec::new();
        let answer = match verb {
            request::RUN => {
                let asked: RunRequest = body(&message);
                if self.script.refuse == Some(asked.scenario.name.as_str()) {
                    let error = "it needs 2 devices, the lab has 1".to_owned();
                    serde_json::to_vec(&Reply::<()>::Refused { error, hint: None, lost: None })
                        .unwrap()
                        .into()
                } else {
                    let run = RunId::new(format!("{}-{}", asked.scenario.name, self.runs.len())).unwrap();
                    publish = self.record(&run);
                    ok(request::RunAccepted { run })
                }
            }
            request::EVENTS => {
                let asked: EventsRequest = body(&message);
                if self.script.live == Live::ServerDies && !std::mem::replace(&mut self.killed, true) {
                    self.kill_server();
                }
                let events = self.runs[&asked.run].iter().filter(|event| event.seq >= asked.from);
                ok(request::EventsPage { events: events.take(PAGE).cloned().collect() })
            }
            request::CANCEL => {
                let asked: RunRef = body(&message);
                publish = self.cancel(&asked.run);
                ok(())
            }
            request::BUNDLE => {
                let file = |(path, content, sha256): &(&str, Vec<u8>, Option<&str>)| BundleFile {
                    path: (*path).to_owned(),
                    size: content.len() as u64,
                    sha256: sha256.map_or_else(|| hex(content), str::to_owned),
                };
                let files = self.script.bundle.iter().map(file).collect();
                ok(BundleList { files, archive: None, pending: false, kept: Vec::new() })
            }
            request::BUNDLE_READ => {
                let asked: BundleRead = body(&message);
                let (_, content, _) =
                    self.script.bundle.iter().find(|(path, ..)| *path == asked.path).unwrap();
                let from = usize::try_from(asked.offset).unwrap().min(content.len());
                let to = (from + request::BUNDLE_PIECE).min(content.len());
                Bytes::copy_from_slice(&content[from..to])
            }
            other => panic!("the script knows no {other}"),
        };
        self.bus.publish(message.reply.unwrap(), answer).await.unwrap();
        self.publish(publish).await;
    }

    /// The recorded run that passed, under this run's id.
    fn record(&mut self, run: &RunId) -> Vec<RunEvent> {
        let mut events: Vec<RunEvent> = include_str!("../../fixtures/run-passed.jsonl")
            .lines()
            .map(|line| RunEvent { run: run.clone(), ..serde_json::from_str(line).unwrap() })
            .collect();
        if self.script.until_cancelled {
            events.pop();
        }
        self.runs.insert(run.clone(), events.clone());
        events
    }

    fn cancel(&mut self, run: &RunId) -> Vec<RunEvent> {
        let events = self.runs.get_mut(run).unwrap();
        let last = events.last().unwrap().clone();
        let outcome = Outcome {
            verdict: Verdict::Cancelled,
            reason: "cancelled by ann".into(),
            decisive: None,
            suspect: None,
            suspects_device: false,
            device: None,
            step: None,
        };
        let ended =
            RunEvent { seq: last.seq + 1, fact: RunFact::Ended { outcome, took: 1.0, next: None }, ..last };
        events.push(ended.clone());
        vec![ended]
    }

    async fn publish(&self, mut events: Vec<RunEvent>) {
        match self.script.live {
            Live::All => {}
            Live::Shuffled => {
                events.extend(events.clone());
                events.reverse();
            }
            Live::Never => events.clear(),
            Live::ServerDies => events.truncate(1),
        }
        for event in events {
            let payload = serde_json::to_vec(&event).unwrap();
            self.bus.publish(subject::run(&self.lab, &event.run), payload).await.unwrap();
        }
    }

    fn kill_server(&self) {
        let ServerState::Running { pid } = self.server.status().borrow().state.clone() else { return };
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
