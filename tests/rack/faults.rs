//! Planted faults through a real coordinator and `pilab run`: what is wrong with a board, its wires, its software, its product
//! or the lab, and what the run then says of it. Stub boards: no kernel runs, all else is as in any lab.

mod boards;
mod lab;

use crate::program::end_within;
use crate::stub::{Came, Rig, came};
use crate::turn;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(150);
/// Enough for a board that has nothing.
const BOOT: &str = "60s";

const PING: &str = "[[steps]]\nping = { on = \"dut\" }\n";
/// The kernel that is to be shown is there, and was shown long ago.
const SHOWS: &str = "[[steps]]\ntimeout = \"4s\"\nconsole = { on = \"dut\", stage = \"systemd\" }\n";
const CYCLE: &str = "[[steps]]\nname = \"cut\"\ntimeout = \"30s\"\npower_cycle = { on = \"dut\" }\n[[steps]]\nping = { on = \"dut\" }\n";
/// What the agent must refuse, and the scenario says that it runs.
const WRONG: &str = "[[steps]]\nput_raw = { on = \"dut\", deployment = \"web\", payload = \"{}\" }\n\
    [[steps]]\nname = \"it runs\"\ntimeout = \"20s\"\nwait_phase = { on = \"dut\", deployment = \"web\", phase = \"Running\" }\n";
/// What its board's software says when it is about to do something.
const AFTER: &str = "[[steps]]\nput_raw = { on = \"dut\", deployment = \"web\", payload = \"{}\" }\n\
    [[steps]]\ntimeout = \"8s\"\nconsole = { on = \"dut\", pattern = \"stub: now\" }\n";

/// Software that does something once the board has got a deployment, so that its agent has answered before.
fn once_deployed(then: &str) -> String {
    format!(
        "services() {{ agent; ( until grep -rq MalformedDesired state; do sleep 0.1; done; {then} ) & }}\n"
    )
}

/// Whose fault is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Product,
    Device,
    Lab,
    Nobody,
}

/// A planted fault, and what is to be said of it.
struct Case {
    name: &'static str,
    whose: Whose,
    what: &'static str,
    verdict: &'static str,
    /// A part of the reason or, for what has passed, of any event of its run.
    decided_by: &'static str,
}

/// A run that is followed.
struct Followed {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    events: Vec<Value>,
}

impl Followed {
    fn new(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, events: Vec::new() }
    }

    /// Reads on until an event is so; none when the run ends before.
    async fn until(&mut self, is_so: impl Fn(&Value) -> bool) -> Option<Value> {
        let read = async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                let event: Value = serde_json::from_str(&line).unwrap();
                self.events.push(event.clone());
                if is_so(&event) {
                    return Some(event);
                }
            }
            None
        };
        timeout(PATIENCE, read).await.expect("a run does not go on")
    }

    async fn end(mut self) -> Vec<Value> {
        self.until(|_| false).await;
        end_within(self.child, PATIENCE).await;
        self.events
    }
}

fn begins(step: &'static str) -> impl Fn(&Value) -> bool {
    move |event| event["kind"] == "step_started" && event["name"] == step
}

/// A case, what came of it, and all events of its runs as they stand in the stream.
struct Done {
    case: Case,
    came: Came,
    events: String,
}

impl Done {
    fn new(case: Case, events: &[Value]) -> Self {
        let came = came(events, case.name);
        let its = |event: &&Value| {
            event["run"].as_str().is_some_and(|run| run.starts_with(&format!("{}-", case.name)))
        };
        let events =
            events.iter().filter(its).fold(String::new(), |all, event| all + &event.to_string() + "\n");
        Self { case, came, events }
    }

    fn is_expected(&self) -> bool {
        let Came { verdict, reason, decisive, suspect, .. } = &self.came;
        let told = if verdict == "passed" { &self.events } else { &format!("{reason}{decisive}") };
        *verdict == self.case.verdict
            && told.contains(self.case.decided_by)
            && (verdict == "passed" || !decisive.is_empty() || verdict == "cancelled" || verdict == "skipped")
            && (verdict == "timeout") != suspect.is_empty()
    }
}

/// Nothing of a rack whose coordinator has ended is left.
async fn is_gone(rig: &Rig) {
    assert_eq!((rig.namespaces().await, rig.processes()), (Vec::<String>::new(), Vec::<String>::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_faults_are_told_as_what_they_are() {
    let Some(_turn) = turn().await else { return };
    let (boards, lab, disk) = tokio::join!(boards::all(), lab::as_a_whole(), lab::disk());
    let all: Vec<Done> = boards.into_iter().chain(lab).chain(disk).collect();
    let mut table = String::from(
        "case        planted                                                     whose    expected  got        decided by\n",
    );
    for done in &all {
        let Done { case: Case { name, what, whose, verdict, .. }, came, .. } = done;
        let reason: String = came.reason.chars().take(160).collect();
        writeln!(
            table,
            "{name:<12}{what:<60}{:<9}{verdict:<10}{:<11}{reason}",
            format!("{whose:?}"),
            came.verdict
        )
        .unwrap();
    }
    println!("{table}");
    let wrong: Vec<&Done> = all.iter().filter(|done| !done.is_expected()).collect();
    for done in &wrong {
        println!("{}: {:?}\n{}", done.case.name, done.came, done.events);
    }
    let product = all.iter().filter(|done| done.case.whose == Whose::Product);
    for done in product {
        let blamed = ["lab", "device", "passed"].contains(&done.came.verdict.as_str());
        assert!(!blamed && done.came.attempts == 1, "{}: {:?}", done.case.name, done.came);
    }
    let names: Vec<&str> = wrong.iter().map(|done| done.case.name).collect();
    assert!(names.is_empty(), "{} of {} are told as something else: {names:?}", names.len(), all.len());
}
