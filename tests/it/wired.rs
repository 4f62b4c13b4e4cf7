//! Real devices in a lab, through the program itself: a simulated switch, a pseudo terminal, a real nats-server.

mod files;

use crate::agent::lab::installed;
use crate::journal::{Open, read_all, records};
use pilab::config::lab;
use pilab::journal::{Entry, Since};
use pilab::model::boot::BootAttempt;
use pilab::model::device::Backend;
use pilab::model::event::Event;
use pilab::model::power::PowerState;
use pilab::sim::{Plug, PlugFault, PlugKind, PlugOptions, PtyLine};
use pilab::support::command::Command;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::{interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(60);

/// A lab of one board behind a simulated switch and a pseudo terminal, for the program itself.
struct Rig {
    dir: TempDir,
    plug: Plug,
    tty: PathBuf,
    lab: PathBuf,
    tracker: TaskTracker,
    _stop: DropGuard,
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let options = PlugOptions { kind: PlugKind::ShellyGen1, relays: 1, password: None };
        let plug = Plug::start(options, &tracker, token.clone()).await.unwrap();
        let tty = dir.path().join("usb-port0");
        let text = format!(
            "name = \"rack\"\n[[devices]]\nid = \"pi-1\"\nmodel = \"pi4b\"\nmin_off = \"50ms\"\n\
             console = {{ tty = {tty:?} }}\n\
             rated_cycles = 1000\n\
             power = {{ driver = \"http\", kind = \"shelly-gen1\", url = \"{}\" }}\n",
            plug.base()
        );
        let lab = files::write(dir.path(), &text);
        assert_eq!(lab::load(&lab, None, None).unwrap().backend(None), Some(Backend::Pi));
        Self { dir, plug, tty, lab, tracker, _stop: token.drop_guard() }
    }

    fn pilab(&self, args: &[&str]) -> Command {
        let state = self.state();
        Command::new(env!("CARGO_BIN_EXE_pilab"))
            .env("PILAB_STATE_DIR", state.to_str().unwrap())
            .args(args.iter().copied())
    }

    fn command(&self, scenario: &str, bundle: &str) -> Command {
        let bundle = self.dir.path().join(bundle);
        self.pilab(&["run", scenario, "--json", "--bundle"]).arg(bundle).arg("--lab").arg(&self.lab)
    }

    /// Does one thing in the lab of a coordinator; answers what it printed.
    async fn done(&self, args: &[&str]) -> String {
        let output = timeout(PATIENCE, self.pilab(args).build().output()).await.expect("it ends").unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn until_power(&self, on: bool) {
        let mut contacts = self.plug.contacts();
        timeout(PATIENCE, contacts.wait_for(|closed| closed[0] == on))
            .await
            .expect("it is switched")
            .unwrap();
    }

    /// Runs a scenario; answers the exit code and all that was said.
    async fn run(&self, scenario: &str, bundle: &str) -> (Option<i32>, String) {
        let command = self.command(scenario, bundle);
        let output = timeout(PATIENCE, command.build().output()).await.expect("it ends").unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let left = std::fs::read_dir(self.state().join("instances")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "an instance is left: {stderr}");
        (output.status.code(), format!("{stdout}\n{stderr}"))
    }

    /// The journal of the board, between two runs.
    async fn journal(&self) -> Open {
        Open::at(&self.state().join("devices/rack-pi-1/journal")).await
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Writes a scenario of these steps.
    fn scenario(&self, steps: &str) -> String {
        let path = self.dir.path().join("by-itself.toml");
        let head = "summary = \"s\"\nunder_test = \"image\"\n[needs.dut]\nmodel = \"pi4b\"\n";
        std::fs::write(&path, format!("{head}{steps}")).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A file of the bundle of the only run there.
    fn bundled(&self, bundle: &str, file: &str) -> String {
        let mut runs = std::fs::read_dir(self.dir.path().join(bundle)).unwrap();
        let run = runs.next().expect("a bundle").unwrap().path();
        String::from_utf8_lossy(&std::fs::read(run.join(file)).unwrap()).into_owned()
    }
}

/// What a board says at first: noise while its supply rises, and a question to the terminal.
const NOISE: &[u8] = b"\xff\0\xff\x1b[6n\r\n";
/// What it then says again and again, for what is said while its adapter is pulled out is lost.
const KERNEL: &str = "[    0.000000] Linux version 6.1.0\r\r\n";

/// Plays a board that boots by itself: it speaks while it has power. In every second boot the adapter of its console
/// is pulled out for a moment.
async fn board(plug: Plug, tty: PathBuf) {
    let (mut contacts, mut line) = (plug.contacts(), PtyLine::plug(&tty).unwrap());
    for boot in 1_u32.. {
        let Ok(_) = contacts.wait_for(|closed| closed[0]).await else { return };
        line.write_all(NOISE).await.unwrap();
        let (mut beat, mut beats) = (interval(Duration::from_millis(20)), 0);
        while contacts.borrow_and_update()[0] {
            tokio::select! {
                changed = contacts.changed() => if changed.is_err() { return },
                _ = beat.tick() => {
                    beats += 1;
                    if boot % 2 == 0 && beats == 10 {
                        drop(line);
                        line = PtyLine::plug(&tty).unwrap();
                    }
                    let alive = if beats > 10 { "alive\r\n" } else { "" };
                    let said = format!("{KERNEL}{alive}");
                    // Nobody reads on before the console opens it again.
                    let _ = timeout(Duration::from_millis(20), line.write_all(said.as_bytes())).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn what_a_real_device_cannot_do_is_said_and_nothing_is_switched() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rig = Rig::new().await;
    let _line = PtyLine::plug(&rig.tty).unwrap();
    let (code, said) = rig.run("ping", "bundles").await;
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("rack-pi-1 (a pi) lacks: boot"), "{said}");
    let requests = rig.plug.take_requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| request == "GET /relay/0"), "{requests:?}");
}

#[tokio::test]
async fn a_board_that_boots_by_itself_is_switched_and_watched() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rig = Rig::new().await;
    rig.tracker.spawn(board(rig.plug.clone(), rig.tty.clone()));
    let steps = "[[steps]]\nconsole = { on = \"dut\", stage = \"kernel\" }\n\
                 [[steps]]\nconsole = { on = \"dut\", pattern = \"^alive$\" }\n\
                 [[steps]]\npower_cycle = { on = \"dut\" }\n\
                 [[steps]]\nconsole = { on = \"dut\", stage = \"kernel\" }\n\
                 [[steps]]\nconsole = { on = \"dut\", pattern = \"^alive$\" }\n";
    let scenario = rig.scenario(steps);
    let (code, said) = rig.run(&scenario, "first").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("boot attempt 2 of what it finds by itself"), "{said}");
    assert!(!rig.plug.relay(0), "it is off in the end");
    let console = rig.bundled("first", "console/rack-pi-1.log");
    assert!(console.matches("Linux version 6.1.0").count() > 1, "{console}");
    let journal = rig.bundled("first", "journal/rack-pi-1.jsonl");
    let count = |word: &str| journal.lines().filter(|line| line.contains(word)).count();
    assert_eq!((count("\"power_intent\""), count("\"power_done\"")), (4, 4), "on, off, on, off: {journal}");
    assert_eq!((count("\"stage\""), count("\"console_gap\"")), (2, 1), "{journal}");

    // What was done to a real device outlives the lab that did it.
    let (code, said) = rig.run(&scenario, "second").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("boot attempt 4 of what it finds by itself"), "{said}");

    // Two labs at once would fight for it.
    let held = rig.journal().await;
    let (code, said) = rig.run(&scenario, "third").await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("hint: rack-pi-1 is in use"), "{said}");
    held.close().await;
}

#[tokio::test]
async fn a_switch_that_sticks_is_the_labs_fault() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rig = Rig::new().await;
    rig.tracker.spawn(board(rig.plug.clone(), rig.tty.clone()));
    rig.plug.set_fault(PlugFault::Sticks);
    let scenario = rig.scenario("[[steps]]\nconsole = { on = \"dut\", stage = \"kernel\" }\n");
    let (code, said) = rig.run(&scenario, "bundles").await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("power was switched on but reads back as off"), "{said}");
    let journal = rig.bundled("bundles", "journal/rack-pi-1.jsonl");
    assert!(journal.contains("\"power_failed\""), "{journal}");
}

#[tokio::test]
async fn what_a_killed_run_had_begun_is_settled_by_the_next() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rig = Rig::new().await;
    rig.plug.set_fault(PlugFault::LosesAnswer);
    let scenario = rig.scenario("[[steps]]\nconsole = { on = \"dut\", stage = \"kernel\" }\n");
    let mut run = rig.command(&scenario, "first").build().spawn().unwrap();
    rig.until_power(true).await;
    // The switch has obeyed and not answered: nobody but its contact knows.
    run.kill().await.unwrap();
    let journal = rig.journal().await;
    let begun = journal.handle.recovered().intent.clone().expect("an intent without an end");
    assert_eq!(begun.state, PowerState::On);
    journal.close().await;

    rig.tracker.spawn(board(rig.plug.clone(), rig.tty.clone()));
    let (code, said) = rig.run(&scenario, "second").await;
    assert_eq!(code, Some(0), "{said}");
    let journal = rig.journal().await;
    let told = records(read_all(&journal.handle, Since::Start).await).into_iter();
    let told = told.filter_map(|record| match record.entry {
        Entry::Event(Event::PowerIntent { state, .. }) => Some(("intent", state)),
        Entry::Event(Event::PowerDone { state, .. }) => Some(("done", state)),
        _ => None,
    });
    let (on, off) = (PowerState::On, PowerState::Off);
    let each = [on, off, on, off].into_iter().flat_map(|state| [("intent", state), ("done", state)]);
    // When it is handed over it is switched off once more.
    let told: Vec<_> = told.take(8).collect();
    assert_eq!(told, each.collect::<Vec<_>>(), "the first is done by asking the switch");
    journal.close().await;
}

#[tokio::test]
async fn a_coordinator_lends_a_real_device() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rig = Rig::new().await;
    // Its relay has four fifths of its life behind it.
    let journal = rig.journal().await;
    for state in [PowerState::On, PowerState::Off].repeat(800) {
        let done = Event::PowerDone { state, reading: state.into() };
        journal.handle.event(BootAttempt(0), done).await.unwrap();
    }
    journal.close().await;
    rig.tracker.spawn(board(rig.plug.clone(), rig.tty.clone()));
    let coordinator = rig.pilab(&["coordinator", "--lab"]).arg(&rig.lab);
    let mut coordinator = coordinator.build().stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(coordinator.stderr.take().unwrap()).lines();
    let up = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with("login: ") {
                return;
            }
        }
        panic!("the coordinator is not up");
    };
    timeout(PATIENCE, up).await.expect("the coordinator comes up");
    // Its further words are nobody's concern, but must not fill the pipe.
    rig.tracker.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

    let lease = rig.done(&["reserve", "rack-pi-1", "--json"]).await;
    let lease: serde_json::Value = serde_json::from_str(&lease).unwrap();
    rig.done(&["power", "on", "rack-pi-1"]).await;
    assert!(rig.plug.relay(0));
    let heard =
        async { while rig.done(&["console", "rack-pi-1", "--dump"]).await.matches("alive").count() < 2 {} };
    timeout(PATIENCE, heard).await.expect("its console is heard");
    rig.plug.take_requests();
    rig.done(&["power", "cycle", "rack-pi-1"]).await;
    let requests = rig.plug.take_requests();
    let switched: Vec<_> = requests.iter().filter(|request| request.contains("turn=")).collect();
    assert_eq!(switched, ["GET /relay/0?turn=off", "GET /relay/0?turn=on"], "{requests:?}");

    // Such a relay is named, with what to do; it is no reason to stop.
    let looked = rig.pilab(&["doctor", "--json", "--lab"]).arg(&rig.lab).build().output().await.unwrap();
    let told = String::from_utf8(looked.stdout).unwrap();
    let findings = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let relays: Vec<_> = findings.filter(|finding| finding["part"] == "relay of rack-pi-1").collect();
    let [relay] = relays.as_slice() else { panic!("{told}") };
    let (seen, hint) = (relay["seen"].as_str().unwrap(), relay["hint"].as_str().unwrap());
    assert_eq!(relay["condition"], "doubtful", "{told}");
    assert!(seen.starts_with("rack-pi-1: its relay has 80 % of its life behind it: 80"), "{seen}");
    assert!(seen.ends_with(" of 1000 cycles"), "{seen}");
    assert!(hint.contains("`rated_cycles`"), "{hint}");

    rig.done(&["release", lease["lease"].as_str().unwrap()]).await;
    rig.until_power(false).await;
    let pid = coordinator.id().unwrap().to_string();
    Command::new("kill").args(["-s", "TERM", &pid]).output().await.unwrap();
    let ended = timeout(PATIENCE, coordinator.wait()).await.expect("it ends").unwrap();
    assert!(ended.success(), "{ended}");
}
