//! Real processes that are stopped with SIGSTOP, past a lease or past the right to act, and go on.

use crate::agent::lab::installed;
use futures_util::future::join_all;
use pilab::support::command::Command;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);
const DEVICE: &str = "rack-pi-1";
/// Stops of a holder, and of the coordinator.
const STOPS: usize = 10;

/// A lab of one board behind a switch that is a program: it writes down what it is told.
pub(super) struct Rack {
    dir: TempDir,
    lab: PathBuf,
}

#[derive(Debug)]
pub(super) struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Rack {
    pub(super) fn new() -> Self {
        Self::of(1)
    }

    /// With so many boards.
    pub(super) fn of(boards: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (switch, lab) = (dir.path().join("switch"), dir.path().join("rack.toml"));
        let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\n[ ! -e broken ] && echo \"$1 $2\" >> switched\n";
        std::fs::write(&switch, script).unwrap();
        std::fs::set_permissions(&switch, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut text = "name = \"rack\"\n[leases]\ndevices_per_user = 1000\n".to_owned();
        for board in 1..=boards {
            text += &format!("[[devices]]\nid = \"pi-{board}\"\nmodel = \"pi4b\"\nmin_off = \"1ms\"\n");
            // Two boards are not to hang on one switch.
            let on = format!("[{switch:?}, \"on\", \"{board}\"]");
            text += &format!(
                "power = {{ driver = \"command\", on = {on}, off = [{switch:?}, \"off\", \"{board}\"] }}\n"
            );
        }
        std::fs::write(&lab, text).unwrap();
        Self { dir, lab }
    }

    pub(super) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// From now on the switch fails, or works again.
    pub(super) fn break_switch(&self, broken: bool) {
        let path = self.dir.path().join("broken");
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
        let told = std::fs::read_to_string(self.dir.path().join("switched")).unwrap_or_default();
        let told = told.lines().filter_map(|line| line.split_once(' '));
        told.filter(|(_, of)| *of == board.to_string()).map(|(act, _)| act.to_owned()).collect()
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        Command::new(env!("CARGO_BIN_EXE_pilab"))
            .env("PILAB_STATE_DIR", self.state().to_str().unwrap())
            .env("USER", "local")
            .args(args.iter().copied())
    }

    pub(super) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts the coordinator, and waits until it is up.
    pub(super) async fn coordinator(&self) -> Child {
        let command = self.command(&["coordinator", "--lab", self.lab.to_str().unwrap()]);
        let mut child = command.build().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut told = String::new();
        let up = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                told.push_str(&line);
                told.push('\n');
                if line.starts_with("login: ") {
                    return true;
                }
            }
            false
        };
        let up = timeout(PATIENCE, up).await;
        assert!(matches!(up, Ok(true)), "the coordinator is not up:\n{told}");
        // Its further words are nobody's concern, but must not fill the pipe.
        let mut rest = JoinSet::new();
        rest.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        rest.detach_all();
        child
    }

    pub(super) async fn pilab(&self, args: &[&str]) -> Ended {
        end(self.spawn(args)).await
    }

    pub(super) async fn login(&self, user: &str) -> String {
        let path = self.dir.path().join(format!("{user}.json"));
        let path = path.to_str().unwrap().to_owned();
        self.pilab(&["login", user, "-o", &path]).await.done();
        path
    }

    pub(super) async fn device(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let device = self.pilab(&["devices", "--json"]).await.done().json().remove(0);
            if is_so(&device) {
                return device;
            }
            assert!(Instant::now() < deadline, "waited for {what}: {device}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Ended {
    pub(super) fn is_done(&self) -> bool {
        self.code == Some(0)
    }

    #[track_caller]
    pub(super) fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(super) fn refused(&self, words: &str) {
        assert_ne!(self.code, Some(0), "{}", self.stdout);
        assert!(self.stderr.contains(words), "{words:?} is not in:\n{}", self.stderr);
    }

    pub(super) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(super) async fn end(child: Child) -> Ended {
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("pilab did not end").unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(super) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn stop(child: &Child) {
    signal(child.id().unwrap(), rustix::process::Signal::STOP);
}

fn go_on(child: &Child) {
    signal(child.id().unwrap(), rustix::process::Signal::CONT);
}

pub(super) async fn finish(coordinator: Child) {
    signal(coordinator.id().unwrap(), rustix::process::Signal::TERM);
    end(coordinator).await.done();
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
    stop(&act);
    stop(&held);
    // Waits for the deadline, and for the handover.
    let granted = rack.pilab(&["reserve", device, "--json", "--login", bob]).await.done().json().remove(0);
    assert_eq!(granted["holder"], "bob", "{granted}");
    let before = rack.switched_of(board);
    go_on(&act);
    go_on(&held);
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
    let (ann, bob) = (rack.login("ann").await, rack.login("bob").await);
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
    let ann = rack.login("ann").await;
    for number in 0..STOPS {
        let lease = rack.pilab(&["reserve", DEVICE, "--for", "1s", "--json", "--login", &ann]).await.done();
        let lease = lease.json().remove(0);
        let (id, until) = (lease["lease"].as_str().unwrap(), lease["until_ms"].as_u64().unwrap());
        let act = rack.spawn(&["power", "on", DEVICE, "--login", &ann]);
        sleep(Duration::from_millis(5 * number as u64)).await;
        stop(&coordinator);
        let before = rack.switched();
        until_ms(until + 20).await;
        go_on(&coordinator);
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
