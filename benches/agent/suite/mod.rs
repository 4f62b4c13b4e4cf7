//! What is measured, and how: also run by a test with few samples, so that it goes on working.

pub(crate) mod proc;
pub(crate) mod table;

use crate::agent::lab::Lab;
use crate::podman_host::{Podman, V1};
use pilab::bus::connect::Subscription;
use pilab::model::workload::{Phase, Status};
use pilab::support::command::Command;
use proc::Usage;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Longest wait for one thing to happen.
const DEADLINE: Duration = Duration::from_secs(300);

/// How much is measured.
pub(crate) struct Plan {
    /// The agent's program.
    program: PathBuf,
    /// Starts and ends that are timed.
    samples: usize,
    /// How long the idle agent is watched.
    idle: Duration,
    /// Numbers of deployments, growing.
    steps: Vec<usize>,
    /// How long the agent is watched at each of them.
    watch: Duration,
}

impl Plan {
    /// What the document shows; or, when it shall be quick, enough to see that all of it works.
    pub(crate) fn new(program: PathBuf, quick: bool) -> Self {
        let time = Duration::from_secs(if quick { 1 } else { 60 });
        let (samples, steps) = if quick { (2, vec![1, 3]) } else { (25, vec![1, 10, 100]) };
        Self { program, samples, idle: time, steps, watch: time }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) program_bytes: u64,
    /// KV put → the container's `StartedAt`; call of `podman run` → the same; and until that call returned.
    pub(crate) agent_start: Vec<Duration>,
    pub(crate) bare_start: Vec<Duration>,
    pub(crate) bare_return: Vec<Duration>,
    /// Death of a service's process → a changed status on its key.
    pub(crate) exit: Vec<Duration>,
    /// Death of a service's conmon → `RuntimeLost` on its key.
    pub(crate) lost: Vec<Duration>,
    pub(crate) idle: Usage,
    /// What to be woken as often, and to do nothing, took meanwhile.
    pub(crate) woken: Duration,
    pub(crate) steps: Vec<Step>,
}

/// The agent with a number of deployments.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) deployments: usize,
    /// From the first put to the last `Running`, and of how many deployments.
    pub(crate) converged: Duration,
    pub(crate) added: usize,
    pub(crate) usage: Usage,
    /// podman's own service, meanwhile.
    pub(crate) podman: Usage,
}

/// A lab, a podman and the agent's process.
struct Bed {
    agent: tokio::process::Child,
    lab: Lab,
    podman: Podman,
}

/// Measures; none where a program is missing.
pub(crate) async fn run(plan: &Plan) -> Option<Figures> {
    let podman = Podman::start().await?;
    let lab = Lab::start().await?;
    let bed = Bed { agent: start(plan, &lab, &podman), lab, podman };
    bed.lab.ping().await;
    let (mut agent_start, mut exit, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bare_start, mut bare_return) = (Vec::new(), Vec::new());
    // The first of each is not counted: caches are cold.
    for n in 0..=plan.samples {
        let (started, ended) = bed.deploy_and_kill(&format!("one-{n}")).await;
        let told = bed.deploy_and_lose(&format!("lost-{n}")).await;
        let (bare, returned) = bed.bare(&format!("bare-{n}")).await;
        if n > 0 {
            agent_start.push(started);
            exit.push(ended);
            lost.push(told);
            bare_start.push(bare);
            bare_return.push(returned);
        }
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut idle = None;
    for count in &plan.steps {
        let from = steps.last().map_or(0, |step| step.deployments);
        let converged = bed.grow(from, *count).await;
        bed.settle().await;
        let (before, podman) = (bed.usage(), proc::Snapshot::of(bed.podman.service_pid()));
        tokio::time::sleep(plan.watch).await;
        let usage = before.until_now();
        steps.push(Step {
            deployments: *count,
            converged,
            added: count - from,
            usage,
            podman: podman.until_now(),
        });
        if idle.is_none() {
            let (before, bare) = (bed.usage(), proc::woken(usage.wakeups.max(1), plan.idle));
            tokio::time::sleep(plan.idle).await;
            idle = Some((before.until_now(), bare.join().unwrap()));
        }
    }
    let program_bytes = std::fs::metadata(&plan.program).unwrap().len();
    let (idle, woken) = idle?;
    Some(Figures { program_bytes, agent_start, bare_start, bare_return, exit, lost, idle, woken, steps })
}

fn start(plan: &Plan, lab: &Lab, podman: &Podman) -> tokio::process::Child {
    let program = Command::new(plan.program.to_str().unwrap()).args(podman.agent_args(lab));
    let log = std::fs::File::create(podman.dir.path().join("agent.log")).unwrap();
    program.build().stderr(log).spawn().unwrap()
}

/// A service that ends at once when asked to, and is not started again.
fn score() -> Value {
    let script = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
    json!({ "services": [{ "name": "web", "image": V1, "args": ["sh", "-c", script], "restart": "no" }] })
}

impl Bed {
    fn usage(&self) -> proc::Snapshot {
        proc::Snapshot::of(self.agent.id().unwrap())
    }

    /// Lets what the last changes set off come to rest: two of the agent's looks at podman (15 s each)
    /// would do, the heartbeat comes every 10 s; here the processor must have been left alone for a second.
    async fn settle(&self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let before = self.usage();
            tokio::time::sleep(Duration::from_secs(1)).await;
            if before.until_now().cpu <= Duration::from_millis(10) {
                return;
            }
            assert!(Instant::now() < deadline, "the agent does not come to rest");
        }
    }

    /// A time that podman tells of a container, as the time since `from`.
    async fn since(&self, from: SystemTime, container: &str) -> Duration {
        let format = "{{.State.StartedAt.Unix}} {{.State.StartedAt.Nanosecond}}";
        let text = self.podman.run(&["inspect", "--format", format, container]).await;
        let (seconds, nanos) = text.trim().split_once(' ').unwrap();
        let at = Duration::new(seconds.parse().unwrap(), nanos.parse().unwrap());
        (SystemTime::UNIX_EPOCH + at).duration_since(from).unwrap()
    }

    /// Puts a deployment, then kills its process: how long until it was started, and until its status said
    /// that it is not running.
    async fn deploy_and_kill(&self, name: &str) -> (Duration, Duration) {
        let mut told = self.statuses().await;
        // The index first, so that one put is what starts the container.
        self.lab.put_index(&[(name, 1)]).await;
        let value = crate::agent::lab::desired(1, score());
        let from = SystemTime::now();
        self.lab.put(name, &value).await;
        until(&mut told, name, |status| status.phase == Phase::Running).await;
        let container = format!("{}.{name}.web", self.lab.device);
        let started = self.since(from, &container).await;
        let killed = self.kill(&container, "{{.State.Pid}}").await;
        until(&mut told, name, |status| status.phase != Phase::Running).await;
        let ended = killed.elapsed();
        self.lab.delete(name).await;
        self.lab.gone(name).await;
        (started, ended)
    }

    /// Kills a process of a container; answers when.
    async fn kill(&self, container: &str, which: &str) -> Instant {
        let pid = self.podman.run(&["inspect", "--format", which, container]).await;
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        let killed = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        killed
    }

    /// Puts a deployment, then kills its service's monitor: how long until its status said so.
    async fn deploy_and_lose(&self, name: &str) -> Duration {
        let mut told = self.statuses().await;
        self.lab.put_index(&[(name, 1)]).await;
        self.lab.put(name, &crate::agent::lab::desired(1, score())).await;
        until(&mut told, name, |status| status.phase == Phase::Running).await;
        let container = format!("{}.{name}.web", self.lab.device);
        let killed = self.kill(&container, "{{.State.ConmonPid}}").await;
        until(&mut told, name, |status| status.reason == "RuntimeLost").await;
        let lost = killed.elapsed();
        until(&mut told, name, |status| status.phase == Phase::Running).await;
        self.lab.delete(name).await;
        self.lab.gone(name).await;
        lost
    }

    /// The same container by the command line: how long until it was started, and until that returned.
    async fn bare(&self, name: &str) -> (Duration, Duration) {
        let script = score()["services"][0]["args"][2].as_str().unwrap().to_owned();
        let (from, began) = (SystemTime::now(), Instant::now());
        self.podman.run(&["run", "-d", "--name", name, V1, "sh", "-c", &script]).await;
        let returned = began.elapsed();
        let started = self.since(from, name).await;
        self.podman.run(&["rm", "-f", "-t", "0", name]).await;
        (started, returned)
    }

    /// Adds deployments until there are `count`; answers how long until the last one ran.
    async fn grow(&self, from: usize, count: usize) -> Duration {
        let mut told = self.statuses().await;
        let names: Vec<String> = (0..count).map(|n| format!("many-{n}")).collect();
        let index: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        self.lab.put_index(&index).await;
        let began = Instant::now();
        let value = crate::agent::lab::desired(1, score());
        for name in &names[from..] {
            self.lab.put(name, &value).await;
        }
        let mut left: std::collections::BTreeSet<&str> = names[from..].iter().map(String::as_str).collect();
        while !left.is_empty() {
            let (name, status) = next(&mut told).await;
            assert_ne!(status.phase, Phase::Failed, "{name}: {}", status.message);
            if status.phase == Phase::Running {
                left.remove(name.as_str());
            }
        }
        began.elapsed()
    }

    async fn statuses(&self) -> Subscription {
        let told = self.lab.bus().subscribe(format!("$KV.status.{}.>", self.lab.device)).await.unwrap();
        self.lab.bus().flush().await.unwrap();
        told
    }
}

/// The next status that is written, and of which deployment.
async fn next(told: &mut Subscription) -> (String, Status) {
    let wait = async {
        loop {
            let message = told.next().await.unwrap();
            // A deletion has no body.
            if let Ok(status) = serde_json::from_slice(&message.payload) {
                return (message.subject.rsplit('.').next().unwrap().to_owned(), status);
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("no status is told any more")
}

async fn until(told: &mut Subscription, name: &str, wanted: impl Fn(&Status) -> bool) {
    loop {
        let (of, status) = next(told).await;
        if of == name && wanted(&status) {
            return;
        }
    }
}
