//! The agent's own process is killed at every step of a deployment with init containers, on real podman and a
//! real NATS server with the device's rights.
//!
//! A step is whatever can be seen from outside: an event of podman's, a change of the agent's ledger on disk, a
//! line that a container writes. Each step of an undisturbed deployment gets a deployment of its own, in which
//! the agent gets SIGKILL as soon as that step is seen, and is then started again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use crate::agent::lab::{Lab, skip};
use crate::podman_host::{Podman, V1, kill};
use pilab::model::workload::Phase;
use pilab::support::command::Command;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// Between two looks at a file or at podman.
const LOOK: Duration = Duration::from_millis(2);
const INITS: [&str; 3] = ["fetch", "migrate", "seed"];
/// What an undisturbed deployment writes.
const UNDISTURBED: [&str; 7] =
    ["begin fetch", "end fetch", "begin migrate", "end migrate", "begin seed", "end seed", "begin web"];
/// How often a step is tried to be met: a look at the ledger can miss a state that the next one replaces.
const TRIES: usize = 5;

/// One lab and one podman, for any number of deployments and agents.
struct Bed {
    lab: Lab,
    podman: Podman,
    /// podman's events, one a line: what happened, and to which container.
    events: Lines<BufReader<ChildStdout>>,
    _events: Child,
    /// How many deployments there have been.
    deployments: usize,
}

/// A deployment.
struct Shop {
    name: String,
    /// What the names of its containers begin with.
    prefix: String,
    /// What its containers write to.
    file: PathBuf,
    ledger: PathBuf,
    /// The last steps that were told.
    told_ledger: String,
    told_lines: usize,
}

impl Bed {
    async fn start() -> Option<Self> {
        let podman = Podman::start().await?;
        let lab = Lab::start().await?;
        let mut watcher = podman.events();
        let events = BufReader::new(watcher.stdout.take().unwrap()).lines();
        let mut bed = Self { lab, podman, events, _events: watcher, deployments: 0 };
        // The watch is open when it tells of something.
        let deadline = Instant::now() + MINUTE;
        loop {
            bed.podman.run(&["create", "--name", "first", V1, "true"]).await;
            bed.podman.run(&["rm", "first"]).await;
            let line = tokio::time::timeout(Duration::from_secs(1), bed.events.next_line());
            if line.await.is_ok() {
                return Some(bed);
            }
            assert!(Instant::now() < deadline, "podman tells no events");
        }
    }

    fn agent(&self) -> Child {
        self.podman.agent(&self.lab)
    }

    /// An agent that finds another boot id in place of the kernel's, in a mount namespace of its own.
    fn agent_in_boot(&self, boot: &str) -> Child {
        let file = self.podman.dir.path().join(boot);
        std::fs::write(&file, format!("{boot}\n")).unwrap();
        let script = "mount --bind \"$1\" /proc/sys/kernel/random/boot_id && shift && exec \"$@\"";
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(file)
            .arg(env!("CARGO_BIN_EXE_pilab-agent"))
            .args(self.podman.agent_args(&self.lab))
            .build()
            .spawn()
            .unwrap()
    }

    /// Three init containers that each write when they begin and end, and a service that writes when it begins.
    async fn deploy(&mut self) -> Shop {
        self.deployments += 1;
        let name = format!("shop-{}", self.deployments);
        let dir = self.podman.dir.path().join("volumes").join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let volume = format!("{}:/shared", dir.display());
        let container = |container: &str, script: &str| json!({ "name": container, "image": V1, "args": ["sh", "-c", script], "volumes": [volume] });
        let init = |name: &str| {
            let script =
                format!("echo begin {name} >> /shared/file; sleep 0.2; echo end {name} >> /shared/file");
            container(name, &script)
        };
        let script =
            "trap 'exit 0' TERM; echo begin web >> /shared/file; while :; do sleep 1000 & wait; done";
        let score = json!({ "init_containers": INITS.map(init), "services": [container("web", script)] });
        self.lab.deploy_score(&name, 1, score).await;
        let ledger = self.podman.dir.path().join(format!("state/ledger/{name}.json"));
        let (prefix, file) = (format!("{}.{name}.", self.lab.device), dir.join("file"));
        Shop { name, prefix, file, ledger, told_ledger: String::new(), told_lines: 0 }
    }

    /// Waits for a step; whether it was seen before all was done.
    async fn meets(&mut self, at: &str, shop: &mut Shop) -> bool {
        let name = shop.name.clone();
        let step = async { while step(&mut self.events, shop).await != at {} };
        let missed = self.lab.phase(&name, Phase::Running);
        tokio::select! {
            () = step => true,
            // Only a state of the ledger can be missed. All else is told in the end.
            _ = missed, if at.starts_with("ledger") => false,
        }
    }

    /// Waits until podman, too, knows of the end of the first `ended` init containers, which wrote that they end.
    async fn known(&self, ended: usize, shop: &Shop) {
        let Some(last) = ended.checked_sub(1) else { return };
        let last = format!("{}{}", shop.prefix, INITS[last]);
        let deadline = Instant::now() + MINUTE;
        let args = ["ps", "--filter", "status=running", "--format", "{{.Names}}"];
        while self.podman.run(&args).await.lines().any(|line| line == last) {
            assert!(Instant::now() < deadline, "{last} wrote its last line and runs on");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Only the service is there, and the status counts both kinds.
    async fn is_whole(&self, shop: &Shop, at: &str) {
        let status = self.lab.phase(&shop.name, Phase::Running).await;
        assert_eq!(status.message, "3 init containers completed, 1 service running", "{at}");
        let ends = status.init_containers.iter().map(|init| (init.name.as_str(), init.exit_code));
        assert_eq!(ends.collect::<Vec<_>>(), INITS.map(|init| (init, Some(0))), "{at}");
        let names = self.podman.names().await;
        let names: Vec<_> = names.iter().filter_map(|name| name.strip_prefix(&shop.prefix)).collect();
        assert_eq!(names, ["web"], "{at}");
    }
}

/// The next step of a deployment.
async fn step(events: &mut Lines<BufReader<ChildStdout>>, shop: &mut Shop) -> String {
    loop {
        tokio::select! {
            biased;
            line = events.next_line() => {
                let line = line.unwrap().unwrap();
                if let Some((what, container)) = line.split_once(&format!(" {}", shop.prefix)) {
                    return format!("podman: {what} {container}");
                }
            }
            () = tokio::time::sleep(LOOK) => {
                if let Some(line) = shop.lines().get(shop.told_lines) {
                    shop.told_lines += 1;
                    return format!("file: {line}");
                }
                let ledger = shop.ledger();
                if ledger != shop.told_ledger {
                    shop.told_ledger.clone_from(&ledger);
                    return format!("ledger: {ledger}");
                }
            }
        }
    }
}

impl Shop {
    /// What the agent's ledger says of the init containers; empty while there is none.
    fn ledger(&self) -> String {
        let bytes = std::fs::read(&self.ledger).unwrap_or_default();
        // A line of header, then JSON.
        let json = bytes.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
        let Ok(ledger) = serde_json::from_slice::<Value>(json) else { return String::new() };
        format!("running {}, done {}", ledger["inits"]["running"], ledger["inits"]["done"])
    }

    fn lines(&self) -> Vec<String> {
        // A line that is being written is not there yet.
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.split_inclusive('\n').filter_map(|line| Some(line.strip_suffix('\n')?.to_owned())).collect()
    }

    /// How many init containers have written that they end.
    fn ended(&self) -> usize {
        let lines = self.lines();
        INITS.iter().filter(|init| lines.iter().any(|line| *line == format!("end {init}"))).count()
    }
}

/// Checks what was written, when the agent was killed before the end of those in `broken_off`: each may have been
/// begun once more for it. Nothing else was run twice, and nothing was out of order.
fn check(lines: &[String], broken_off: &[&str], at: &str) {
    let mut once = lines.to_vec();
    for name in INITS {
        let begin = format!("begin {name}");
        let allowed = broken_off.iter().filter(|broken| **broken == name).count();
        let tries = lines.iter().filter(|line| **line == begin).count();
        assert!((1..=1 + allowed).contains(&tries), "{at}: {tries} tries of {name}: {lines:?}");
        let (first, last) = (once.iter().position(|l| *l == begin), once.iter().rposition(|l| *l == begin));
        let before: Vec<_> = once.drain(first.unwrap()..last.unwrap()).collect();
        assert!(before.iter().all(|line| line.ends_with(name)), "{at}: {lines:?}");
    }
    assert_eq!(once, UNDISTURBED, "{at}: {lines:?}");
}

/// The steps of a deployment by the container that they are about: the first of each, the second of each, and so on.
fn columns(steps: &[String]) -> Vec<Vec<String>> {
    let about = |name: &str| {
        let ledger = format!("ledger: running \"{name}\"");
        let is_about = move |step: &&String| step.ends_with(&format!(" {name}")) || step.starts_with(&ledger);
        steps.iter().filter(is_about).cloned().collect::<Vec<_>>()
    };
    let mut of_each: Vec<_> = INITS.into_iter().chain(["web"]).map(about).collect();
    let last = steps.iter().filter(|step| step.starts_with("ledger: running null"));
    of_each[INITS.len()].splice(0..0, last.cloned());
    assert_eq!(of_each.iter().map(Vec::len).sum::<usize>(), steps.len(), "{steps:?}");
    let longest = of_each.iter().map(Vec::len).max().unwrap();
    (0..longest).map(|n| of_each.iter().filter_map(|steps| steps.get(n).cloned()).collect()).collect()
}

#[tokio::test]
async fn an_agent_killed_at_any_step_ends_where_it_would_have() {
    let Some(mut bed) = Bed::start().await else { return };
    let began = Instant::now();
    let mut agent = bed.agent();
    let mut shop = bed.deploy().await;
    let mut steps: Vec<String> = Vec::new();
    while !["podman: start web", "file: begin web"].iter().all(|last| steps.iter().any(|step| step == last)) {
        steps.push(step(&mut bed.events, &mut shop).await);
    }
    bed.is_whole(&shop, "undisturbed").await;
    assert_eq!(shop.lines(), UNDISTURBED);
    bed.lab.delete(&shop.name).await;
    let mut again = 0;
    for mut column in columns(&steps) {
        for _ in 0..TRIES {
            let at = column.join(", ");
            let mut shop = bed.deploy().await;
            let (mut missed, mut broken_off) = (Vec::new(), Vec::new());
            for at in column {
                if !bed.meets(&at, &mut shop).await {
                    missed.push(at);
                    continue;
                }
                kill(agent).await;
                let ended = shop.ended();
                bed.known(ended, &shop).await;
                broken_off.extend(INITS.get(ended));
                agent = bed.agent();
            }
            bed.is_whole(&shop, &at).await;
            let lines = shop.lines();
            check(&lines, &broken_off, &at);
            again += lines.iter().filter(|line| line.starts_with("begin")).count() - 4;
            bed.lab.delete(&shop.name).await;
            column = missed;
            if column.is_empty() {
                break;
            }
        }
        assert!(column.is_empty(), "not met in {TRIES} deployments: {column:?}");
    }
    for number in 1..=bed.deployments {
        bed.lab.gone(&format!("shop-{number}")).await;
    }
    assert_eq!(bed.podman.names().await, Vec::<String>::new());
    let (count, took) = (bed.deployments, began.elapsed());
    eprintln!("{} kills in {count} deployments, {again} second tries, {took:?}: {steps:#?}", steps.len());
    kill(agent).await;
}

/// What a reboot of the device is to the agent: another boot id, and containers that have ended.
#[tokio::test]
async fn init_containers_run_again_after_a_reboot_and_not_after_a_mere_restart() {
    if !rustix::process::geteuid().is_root() {
        return skip("podman", "another boot id is mounted over the host's: that takes root");
    }
    let Some(mut bed) = Bed::start().await else { return };
    let mut agent = bed.agent_in_boot("first");
    let mut shop = bed.deploy().await;
    bed.is_whole(&shop, "deployed").await;
    bed.lab.wait_presence(|presence| presence.boot_id == "first").await;
    let mut expected = UNDISTURBED.to_vec();
    for (boot, runs_again) in [("first", &["begin web"][..]), ("second", &UNDISTURBED[..])] {
        kill(agent).await;
        // Not `kill`: podman itself would start it again.
        bed.podman.run(&["stop", "--time", "0", &format!("{}web", shop.prefix)]).await;
        agent = bed.agent_in_boot(boot);
        expected.extend(runs_again);
        while shop.told_lines < expected.len() {
            step(&mut bed.events, &mut shop).await;
        }
        bed.is_whole(&shop, boot).await;
        bed.lab.wait_presence(|presence| presence.boot_id == boot).await;
        // An agent that has brought up another deployment has looked at this one too.
        bed.lab.deploy(&format!("other-{boot}"), 1, &[]).await;
        bed.lab.phase(&format!("other-{boot}"), Phase::Running).await;
        assert_eq!(shop.lines(), expected, "{boot}");
    }
    kill(agent).await;
}
