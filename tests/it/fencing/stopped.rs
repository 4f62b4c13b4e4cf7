//! Real processes that are stopped with SIGSTOP, past a lease or past the right to act, and go on.

use crate::agent::lab::installed;
use crate::support::program::{PATIENCE, Program, end, finish, signal};
use crate::support::script;
use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::Value;
use std::ops::Deref;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{sleep, timeout};

const DEVICE: &str = "rack-pi-1";
/// Stops of a holder, and of the coordinator.
const STOPS: usize = 10;

/// A lab of boards behind a switch that is a program: it writes down what it is told.
pub(super) struct Rack(Program);

impl Deref for Rack {
    type Target = Program;
    fn deref(&self) -> &Program {
        &self.0
    }
}

impl Rack {
    pub(super) fn new() -> Self {
        Self::of(1)
    }

    /// With so many boards.
    pub(super) fn of(boards: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("switch");
        let text = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\n[ ! -e broken ] && echo \"$1 $2\" >> switched\n";
        script::write(&switch, text);
        let mut text = "name = \"rack\"\n[leases]\ndevices_per_user = 1000\n".to_owned();
        for board in 1..=boards {
            text += &format!("[[devices]]\nid = \"pi-{board}\"\nmodel = \"pi4b\"\nmin_off = \"1ms\"\n");
            // Two boards are not to hang on one switch.
            let on = format!("[{switch:?}, \"on\", \"{board}\"]");
            text += &format!(
                "power = {{ driver = \"command\", on = {on}, off = [{switch:?}, \"off\", \"{board}\"] }}\n"
            );
        }
        Self(Program::within(dir, &text))
    }

    /// From now on the switch fails, or works again.
    pub(super) fn break_switch(&self, broken: bool) {
        let path = self.path("broken");
        if broken {
            std::fs::write(path, "").unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }

    /// What the switch of the first board was told, in order.
    pub(super) fn switched(&self) -> Vec<String> {
        self.switched_of(1)
    }

    fn switched_of(&self, board: usize) -> Vec<String> {
        let told = std::fs::read_to_string(self.path("switched")).unwrap_or_default();
        let told = told.lines().filter_map(|line| line.split_once(' '));
        told.filter(|(_, of)| *of == board.to_string()).map(|(act, _)| act.to_owned()).collect()
    }

    pub(super) async fn user(&self, name: &str) -> String {
        self.login(name, "user").await.to_str().unwrap().to_owned()
    }

    pub(super) async fn device(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        self.device_until(DEVICE, what, is_so).await
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

async fn until_ms(wall_ms: u64) {
    while now_ms() <= wall_ms {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Ann's processes are stopped past her lease of a board, until bob has it, and go on.
async fn stop_a_holder(rack: &Rack, board: usize, ann: &str, bob: &str) {
    let device = &format!("rack-pi-{board}");
    let mut held = rack.spawn(&["reserve", device, "--for", "1s", "--hold-by-process", "--login", ann]);
    let mut lines = BufReader::new(held.stderr.as_mut().unwrap()).lines();
    let told = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("held until this command ends") {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, told).await.unwrap(), "it holds");
    // Somewhere between its start and its request.
    let act = rack.spawn(&["power", "on", device, "--login", ann]);
    sleep(Duration::from_millis(5 * board as u64)).await;
    signal(&act, Signal::STOP);
    signal(&held, Signal::STOP);
    // Waits for the deadline, and for the handover.
    let granted = rack.pilab(&["reserve", device, "--json", "--login", bob]).await.done().json().remove(0);
    assert_eq!(granted["holder"], "bob", "{granted}");
    let before = rack.switched_of(board);
    signal(&act, Signal::CONT);
    signal(&held, Signal::CONT);
    let (act, held) = (end(act).await, end(held).await);
    held.refused("is now bob's");
    // What was asked in time was done, and undone before bob had the device.
    if act.code != Some(0) {
        act.refused("is now bob's");
    }
    assert_eq!(rack.switched_of(board), before, "nothing happened to bob's device");
}

#[tokio::test]
async fn a_holder_that_is_stopped_past_its_lease_and_goes_on_has_lost_it() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rack = Rack::of(STOPS);
    let coordinator = rack.coordinator().await;
    let (ann, bob) = (rack.user("ann").await, rack.user("bob").await);
    join_all((1..=STOPS).map(|board| stop_a_holder(&rack, board, &ann, &bob))).await;
    finish(coordinator).await;
}

#[tokio::test]
async fn a_coordinator_that_is_stopped_past_a_lease_does_nothing_more_under_it() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rack = Rack::new();
    let coordinator = rack.coordinator().await;
    let ann = rack.user("ann").await;
    for number in 0..STOPS {
        let lease = rack.pilab(&["reserve", DEVICE, "--for", "1s", "--json", "--login", &ann]).await.done();
        let lease = lease.json().remove(0);
        let (id, until) = (lease["lease"].as_str().unwrap(), lease["until_ms"].as_u64().unwrap());
        let act = rack.spawn(&["power", "on", DEVICE, "--login", &ann]);
        sleep(Duration::from_millis(5 * number as u64)).await;
        signal(&coordinator, Signal::STOP);
        let before = rack.switched();
        until_ms(until + 20).await;
        signal(&coordinator, Signal::CONT);
        let (act, beat) = (end(act).await, rack.pilab(&["extend", id, "--by", "1s", "--login", &ann]).await);
        beat.refused("the lease has ended");
        rack.device("its return", |device| device["usage"]["state"] == "free").await;
        let after = rack.switched().split_off(before.len());
        // What was begun before the stop may end; from then on it is only switched off for the next.
        let on = after.iter().filter(|told| *told == "on").count();
        assert!(on == 0 || act.code == Some(0), "stop {number}: {after:?} {}", act.stderr);
        assert_eq!(after.last().map(String::as_str), Some("off"));
    }
    finish(coordinator).await;
}
