//! A coordinator that is killed while runs go on, and started again: each run ends, once, and whoever follows it is told.

use crate::agent::lab::installed;
use crate::support::program::{PATIENCE, Program, end_within, finish, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::ops::Deref;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::{Instant, timeout};

/// A bound for runs of containers that die and are begun anew.
const LONG: Duration = Duration::from_secs(180);

/// A lab of one container.
struct Bench(Program);

impl Deref for Bench {
    type Target = Program;
    fn deref(&self) -> &Program {
        &self.0
    }
}

/// A run that is followed.
struct Followed {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    events: Vec<Value>,
}

impl Bench {
    fn new() -> Option<Self> {
        let tools = ["podman", "runc", "busybox", "nats-server"];
        let text = "name = \"team\"\n[[pools]]\nname = \"box\"\nbackend = \"container\"\ncount = 1\n";
        tools.iter().all(|tool| installed(tool, "podman")).then(|| Self(Program::new(text)))
    }

    /// A scenario whose last step holds so long.
    fn scenario(&self, name: &str, hold: &str) -> String {
        let path = self.path(&format!("{name}.toml"));
        let text = format!(
            "summary = \"s\"\nunder_test = \"agent\"\n[needs.dut]\n[[steps]]\nping = {{ on = \"dut\" }}\n[[steps]]\n\
             name = \"hold\"\ntimeout = \"10m\"\nabsent = {{ on = \"dut\", deployment = \"web\", hold = \"{hold}\" }}\n"
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn follow(&self, scenario: &str) -> Followed {
        let (lab, bundles) = (self.lab.to_str().unwrap(), self.path("bundles"));
        self.begin(&[
            "run",
            scenario,
            "--json",
            "--lab",
            lab,
            "--bundle",
            bundles.to_str().unwrap(),
            "--bundle-file",
        ])
    }

    /// Starts what prints JSON, a line each.
    fn begin(&self, args: &[&str]) -> Followed {
        let mut child = self.spawn(args);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Followed { child, lines, events: Vec::new() }
    }

    async fn killed(&self, mut coordinator: Child) -> Child {
        signal(&coordinator, Signal::KILL);
        coordinator.wait().await.unwrap();
        self.coordinator().await
    }

    async fn is_free(&self) {
        let free = |device: &Value| device["usage"]["state"] == "free" && device["power"] == "off";
        self.device_until("team-box-1", "its return", free).await;
        assert!(self.pilab(&["queue", "--json"]).await.done().json().is_empty());
    }
}

impl Followed {
    /// Reads on until an event is so.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LONG;
        loop {
            let line = timeout(deadline - Instant::now(), self.lines.next_line()).await;
            let Ok(Ok(Some(line))) = line else {
                panic!("{what} was not seen: {line:?} after {:#?}", self.events)
            };
            let event: Value = serde_json::from_str(&line).unwrap();
            self.events.push(event.clone());
            if is_so(&event) {
                return event;
            }
        }
    }

    /// Reads to the end; answers the exit code and, in order, what each run came to.
    async fn end(mut self) -> (Option<i32>, Vec<(String, String)>) {
        while let Ok(Ok(Some(line))) = timeout(LONG, self.lines.next_line()).await {
            self.events.push(serde_json::from_str(&line).unwrap());
        }
        let ended = end_within(self.child, LONG).await;
        let outcomes = self.events.iter().filter(|event| event["kind"] == "ended").map(|event| {
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            (word(&event["outcome"]["verdict"]), word(&event["outcome"]["reason"]))
        });
        let outcomes = outcomes.collect::<Vec<_>>();
        // Numbered without holes, each once, in every run.
        let mut runs: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
        for event in &self.events {
            let next = runs.entry(event["run"].as_str().unwrap()).or_default();
            assert_eq!(event["seq"], *next, "{event}");
            *next += 1;
        }
        (ended.code, outcomes)
    }
}

fn begins(step: &'static str) -> impl Fn(&Value) -> bool {
    move |event| event["kind"] == "step_started" && event["name"] == step
}

#[tokio::test]
async fn a_run_that_waits_goes_on_and_one_in_a_step_ends_and_is_tried_again_once() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;

    // Queued behind a person: it goes on waiting.
    let lease = bench.pilab(&["reserve", "team-box-1", "--json"]).await.done().json().remove(0);
    let mut waits = bench.follow(&bench.scenario("waits", "1s"));
    waits.until("its queue", |event| event["kind"] == "queued").await;
    let coordinator = bench.killed(coordinator).await;
    bench.pilab(&["release", lease["lease"].as_str().unwrap()]).await.done();
    let (code, outcomes) = waits.end().await;
    assert_eq!((code, outcomes.as_slice()), (Some(0), [("passed".to_owned(), String::new())].as_slice()));

    // In a step: the lab's fault, told with the step, and tried again.
    let mut holds = bench.follow(&bench.scenario("holds", "8s"));
    let first = holds.until("the step", begins("hold")).await["run"].as_str().unwrap().to_owned();
    // Who looks on meanwhile is told as well.
    let logs = bench.spawn(&["logs", &first, "--follow"]);
    let coordinator = bench.killed(coordinator).await;
    let ended = holds.until("its end", |event| event["kind"] == "ended").await;
    let second = ended["next"].as_str().unwrap_or_else(|| panic!("{ended}")).to_owned();
    let (code, outcomes) = holds.end().await;
    assert_eq!(code, Some(0));
    let reason = "the coordinator died in step 2 \"hold\"".to_owned();
    assert_eq!(outcomes, [("lab".to_owned(), reason.clone()), ("passed".to_owned(), String::new())]);
    bench.is_free().await;
    let looked_on = end_within(logs, LONG).await.done().stdout;
    assert!(
        looked_on.contains("  console  ") && looked_on.contains("the coordinator died in step 2"),
        "{looked_on}"
    );

    // Both have their evidence, and are known to who comes later.
    let shown = bench.pilab(&["bundle", "show", &first]).await.done().stdout;
    assert!(shown.contains(&reason) && shown.contains("console/team-box-1.log"), "{shown}");
    assert!(bench.pilab(&["bundle", "show", &second]).await.done().stdout.contains(": passed"));
    let logs = bench.pilab(&["logs", &first]).await.done().stdout;
    assert!(logs.contains("agent 0.") && logs.contains(&reason), "{logs}");
    let compared = bench.pilab(&["compare", &first, &second]).await;
    assert!(compared.code == Some(1) && compared.stdout.contains("lab"), "{}", compared.stdout);

    // Killed in the second attempt too: that is enough.
    let mut again = bench.follow(&bench.scenario("again", "60s"));
    again.until("the step", begins("hold")).await;
    let coordinator = bench.killed(coordinator).await;
    again.until("the step of the second attempt", begins("hold")).await;
    let coordinator = bench.killed(coordinator).await;
    let (code, outcomes) = again.end().await;
    assert_eq!(code, Some(4));
    assert_eq!(outcomes, [("lab".to_owned(), reason.clone()), ("lab".to_owned(), reason)]);
    bench.is_free().await;
    finish(coordinator).await;
}

#[tokio::test]
async fn a_run_that_dies_in_its_boot_or_just_before_its_end_is_not_lost() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    // As it gets its devices.
    let mut boots = bench.follow(&bench.scenario("boots", "1s"));
    boots.until("its start", |event| event["kind"] == "started").await;
    let coordinator = bench.killed(coordinator).await;
    let (code, outcomes) = boots.end().await;
    assert_eq!(code, Some(0), "{outcomes:?}");
    assert!(outcomes.len() == 1 || outcomes[0].1.starts_with("the coordinator died"), "{outcomes:?}");
    // After its last step: what was seen decides, and it is not run again.
    let mut done = bench.follow(&bench.scenario("done", "1s"));
    done.until("its last step", |event| event["kind"] == "step_ended" && event["name"] == "hold").await;
    let coordinator = bench.killed(coordinator).await;
    let (code, outcomes) = done.end().await;
    assert_eq!((code, outcomes.as_slice()), (Some(0), [("passed".to_owned(), String::new())].as_slice()));
    bench.is_free().await;
    let deadline = Instant::now() + PATIENCE;
    // Nothing of them is recorded any more: the next start has nothing to take over.
    let coordinator = bench.killed(coordinator).await;
    assert!(bench.pilab(&["queue", "--json"]).await.done().json().is_empty() && Instant::now() < deadline);
    finish(coordinator).await;
}

#[tokio::test]
async fn a_training_is_begun_anew_and_counts_once() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    let mut training = bench.begin(&["device", "train", "team-box-1", "--boots", "3", "--json"]);
    training.until("its first boot", |told| told["boot"] == 1).await;
    let coordinator = bench.killed(coordinator).await;
    let end = training.until("its end", |told| told["verdict"].is_string()).await;
    assert_eq!((&end["verdict"], &end["health"]), (&"passed".into(), &"good".into()), "{end}");
    assert_eq!(end_within(training.child, LONG).await.code, Some(0));
    bench.is_free().await;
    let shown = bench.pilab(&["device", "show", "team-box-1", "--json"]).await.done().json().remove(0);
    let findings = shown["findings"].as_array().unwrap().iter();
    let findings: Vec<_> = findings.map(|one| (&one["verdict"], &one["sign"], &one["boots"])).collect();
    let (lab, passed) = ((&"lab".into(), &"nothing".into()), (&"passed".into(), &"clean".into()));
    assert_eq!(findings.iter().map(|one| (one.0, one.1)).collect::<Vec<_>>(), [lab, passed], "{shown:#}");
    assert_eq!(findings[1].2, 3, "{shown:#}");
    finish(coordinator).await;
}
