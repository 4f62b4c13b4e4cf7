//! Two coordinators of one lab: the one has it, the other stands by.

use super::load::{Asker, Tally};
use super::{Site, lab};
use crate::support::program::{PATIENCE, Program, finish, signal};
use pilab::model::id::LeaseId;
use pilab::wire::lending::{LEASE, LeaseAsked, LeaseState, POWER, Power, PowerAct};
use rustix::process::Signal;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr};
use tokio::time::{Instant, sleep, timeout};

/// Longer than all that follows.
const LONG: Duration = Duration::from_secs(600);

/// A coordinator with `--standby`, on a disk of its own.
struct Second {
    program: Program,
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Second {
    fn start(lab: &Path) -> Self {
        let program = Program::new(&std::fs::read_to_string(lab).unwrap());
        let command = program.command(&["coordinator", "--standby", "--lab", program.lab.to_str().unwrap()]);
        let mut child = command.build().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { program, child, lines }
    }

    async fn says(&mut self, words: &str) {
        let mut told = String::new();
        let said = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.starts_with(words) {
                    return true;
                }
                told.push_str(&line);
                told.push('\n');
            }
            false
        };
        assert_eq!(timeout(PATIENCE, said).await, Ok(true), "{words:?} is not in:\n{told}");
    }
}

fn switched(first: &Program) -> Vec<String> {
    let told = std::fs::read_to_string(first.path("switched")).unwrap_or_default();
    told.lines().map(str::to_owned).collect()
}

async fn stands(ann: &Asker, id: &LeaseId) -> LeaseState {
    ann.ask(LEASE, &LeaseAsked { lease: id.clone(), wait: Duration::ZERO }).await.unwrap()
}

/// The first one stops, by this signal, and the second one has the lab. Answers after how long that has it, and acts.
async fn taken_over(stop: Signal) -> Option<(Duration, Duration)> {
    let site = Site::start().await?;
    let place = lab(&site, "east", 2).await;
    let mut first = Second::start(&place.lab);
    first.says("login: ").await;
    let mut second = Second::start(&place.lab);
    second.says("standing by").await;
    let tally = Arc::new(Tally::default());
    let ann = Asker::login(&first.program.login("ann", "user").await, &tally).await;
    let bob = Asker::login(&first.program.login("bob", "user").await, &tally).await;
    let (held, waits) = (LeaseId::new("held").unwrap(), LeaseId::new("waits").unwrap());
    let (other, behind) = (LeaseId::new("other").unwrap(), LeaseId::new("behind").unwrap());
    let device = ann.reserve(&held, LONG).await.unwrap().remove(0);
    ann.reserve(&other, LONG).await.unwrap();
    let LeaseState::Granted(before) = stands(&ann, &held).await else { panic!("it is held") };
    bob.queue(&waits, LONG).await;
    ann.queue(&behind, LONG).await;

    let eve = first.program.login("eve", "user").await;
    first.program.as_user(&eve, &["devices"]).await.done();
    first.program.pilab(&["logout", "eve"]).await.done();

    // Ann is at work when it happens.
    let cycle = Power { device: device.clone(), act: PowerAct::On, force: None };
    let _: serde_json::Value = ann.ask(POWER, &cycle).await.unwrap();
    let off = Power { device: device.clone(), act: PowerAct::Off, force: None };
    let began = Instant::now();
    let asked = ann.send(POWER, &off);
    signal(&first.child, stop);
    asked.await;
    second.says("login: ").await;
    let taken = began.elapsed();

    let LeaseState::Granted(after) = stands(&ann, &held).await else { panic!("it is lost") };
    assert_eq!((before.until_ms, &before.devices), (after.until_ms, &after.devices));
    assert!(after.left.unwrap() <= before.left.unwrap());
    for (id, place) in [(&waits, 1), (&behind, 2)] {
        let LeaseState::Waiting(row) = stands(&ann, id).await else { panic!("{id} is lost") };
        assert_eq!(row.position, Some(place));
    }
    // Whom the first one has cut off the second one does not let in.
    second.program.as_user(&eve, &["devices"]).await.refused("does not answer");
    // It acts, once the first one cannot any more.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ann.ask::<serde_json::Value>(POWER, &cycle).await {
        assert!(error.contains("right to act") && Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    let acts_after = began.elapsed();
    let acts = switched(&place);
    assert_eq!(
        acts.last().map(String::as_str),
        Some(&*format!("on {}", device.as_str().rsplit('-').next().unwrap()))
    );
    if stop == Signal::STOP {
        signal(&first.child, Signal::CONT);
        let ended = timeout(PATIENCE, first.child.wait()).await.expect("it ends").unwrap();
        assert_eq!(ended.code(), Some(4));
    }
    // Nothing of what was asked of the first one, or begun by it, happens any more.
    assert_eq!(switched(&place), acts);
    ann.release(&held).await.unwrap();
    let granted = bob.reserve(&waits, LONG).await.unwrap();
    assert_eq!(granted, [device]);
    finish(second.child).await;
    Some((taken, acts_after))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_goes_on_when_the_first_is_killed() {
    println!("taken over, and acting: {:?}", taken_over(Signal::KILL).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_goes_on_when_the_first_stands_still_which_then_acts_no_more() {
    println!("taken over, and acting: {:?}", taken_over(Signal::STOP).await);
}

#[tokio::test]
async fn nobody_stands_by_where_only_one_machine_reaches_the_devices() {
    let program = Program::new("name = \"l\"\n[[devices]]\nid = \"a\"\nmodel = \"pi4b\"\n");
    let lab = program.lab.to_str().unwrap();
    let refused = program.pilab(&["coordinator", "--standby", "--lab", lab]).await;
    refused.refused("lab l has a NATS server of its coordinator's own");
    refused.refused("hint: give the lab the site's servers");
}
