//! The command line against a real nats-server and a scripted coordinator. Needs `nats-server`.

use crate::support::machine::ScriptedMachine;
use crate::support::scripted::{Live, SOON, Script};
use pilab::cli::client::Client;
use pilab::cli::error::CliError;
use pilab::cli::local::{Local, RunningLab};
use pilab::cli::view::RunView;
use pilab::cli::watch::{Observer, watch};
use pilab::config;
use pilab::model::run::{RunEvent, RunFact, Verdict};
use pilab::model::scenario::Scenario;
use pilab::wire::request::RunOptions;
use std::path::Path;
use std::process::ExitCode;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// The exit code of `pilab ARGS`; bundles and the JUnit report go to `dir`.
async fn pilab(machine: &ScriptedMachine, args: &[&str]) -> String {
    let args = std::iter::once("pilab").chain(args.iter().copied()).map(Into::into);
    let local: &dyn Local = machine;
    let exit = tokio::time::timeout(SOON * 3, pilab::cli::main(local, args)).await.unwrap();
    format!("{exit:?}")
}

async fn run_ping(machine: &ScriptedMachine, dir: &TempDir) -> String {
    let (junit, bundle) = (dir.path().join("report.xml"), dir.path().join("bundles"));
    pilab(machine, &["run", "ping", "--junit", text(&junit), "--bundle", text(&bundle)]).await
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn code(code: u8) -> String {
    format!("{:?}", ExitCode::from(code))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_whether_its_events_come_live_twice_late_or_only_by_replay() {
    for live in [Live::All, Live::Shuffled, Live::Never, Live::ServerDies] {
        let machine = ScriptedMachine::new(Script { live, ..Script::default() });
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(run_ping(&machine, &dir).await, code(0), "{live:?}");
        let report = std::fs::read_to_string(dir.path().join("report.xml")).unwrap();
        assert!(report.contains("<testsuite name=\"pilab\" tests=\"1\""), "{live:?}: {report}");
        assert_eq!(machine.labs_ended(), 1, "{live:?}");
    }
}

#[tokio::test]
async fn a_bundle_arrives_whole() {
    let console: Vec<u8> = (0..1_500_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let bundle =
        vec![("run.jsonl", b"{}\n".to_vec(), None), ("devices/a/console.log", console.clone(), None)];
    let machine = ScriptedMachine::new(Script { bundle, ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run_ping(&machine, &dir).await, code(0));
    let bundle = dir.path().join("bundles/ping-0");
    assert_eq!(std::fs::read(bundle.join("devices/a/console.log")).unwrap(), console);
    assert_eq!(std::fs::read(bundle.join("run.jsonl")).unwrap(), b"{}\n");
}

#[tokio::test]
async fn a_bundle_that_lies_is_a_lab_fault_and_leaves_nothing_that_looks_whole() {
    for lie in [("../escaped", None), ("console.log", Some("00"))] {
        let (path, sha256) = lie;
        let bundle = vec![(path, b"x".to_vec(), sha256)];
        let machine = ScriptedMachine::new(Script { bundle, ..Script::default() });
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(run_ping(&machine, &dir).await, code(4), "{path}");
        assert!(!dir.path().join("bundles/ping-0").exists(), "{path}");
        assert!(!dir.path().join("bundles/escaped").exists(), "{path}");
        assert_eq!(machine.labs_ended(), 1);
    }
}

#[tokio::test]
async fn a_scenario_the_lab_cannot_run_is_bad_input() {
    let machine = ScriptedMachine::new(Script {
        refuse: Some("isolation"),
        until_cancelled: true,
        ..Script::default()
    });
    assert_eq!(pilab(&machine, &["run", "ping", "isolation"]).await, code(2));
    assert_eq!(machine.labs_ended(), 1);
}

#[tokio::test]
async fn wrong_input_starts_no_lab() {
    let machine = ScriptedMachine::new(Script::default());
    for args in [
        &["run", "no-such-scenario"][..],
        &["run", "ping", "--lab", "no/such/lab.toml"],
        &["run", "ping", "--arch", "sparc"],
        &["run"],
        &["frobnicate"],
    ] {
        assert_eq!(pilab(&machine, args).await, code(2), "{args:?}");
    }
    assert_eq!(machine.labs_ended(), 0);
}

#[tokio::test]
async fn what_is_shipped_is_read_without_complaint() {
    let machine = ScriptedMachine::new(Script::default());
    let names = ["check", "--lab", "lab/laptop.toml", "ping", "isolation", "deploy-lifecycle"];
    assert_eq!(pilab(&machine, &names).await, code(0));
    assert_eq!(pilab(&machine, &["completion", "bash"]).await, code(0));
    assert_eq!(pilab(&machine, &["image", "ls"]).await, code(0));
    assert_eq!(pilab(&machine, &["--version"]).await, code(0));
}

/// Cancels `stop` at the first step, as a person at the keyboard would.
struct StopsAtTheFirstStep {
    stop: CancellationToken,
    ended: usize,
}

impl Observer for StopsAtTheFirstStep {
    fn event(&mut self, _: &RunView, event: &RunEvent) -> Result<(), CliError> {
        match event.fact {
            RunFact::StepStarted { .. } => self.stop.cancel(),
            RunFact::Ended { .. } => self.ended += 1,
            _ => {}
        }
        Ok(())
    }

    fn stopping(&mut self) {}
}

fn scenario(name: &str) -> Scenario {
    config::scenario::load(&config::scenario::find(name).unwrap()).unwrap()
}

#[tokio::test]
async fn stopping_cancels_every_run_and_waits_for_their_ends() {
    let machine = ScriptedMachine::new(Script { until_cancelled: true, ..Script::default() });
    let lab: Box<dyn RunningLab> = Box::new(machine.lab().await);
    let client =
        Client::connect(lab.url(), lab.creds(), lab.lab(), lab.user(), std::time::Duration::from_secs(10))
            .await
            .unwrap();
    let stop = CancellationToken::new();
    let mut observer = StopsAtTheFirstStep { stop: stop.clone(), ended: 0 };
    let scenarios = vec![scenario("ping"), scenario("isolation")];
    let runs =
        tokio::time::timeout(SOON, watch(&client, scenarios, RunOptions::default(), &mut observer, &stop))
            .await;
    let verdicts: Vec<Verdict> = runs.unwrap().unwrap().iter().map(RunView::verdict).collect();
    assert_eq!(verdicts, [Verdict::Cancelled, Verdict::Cancelled]);
    assert_eq!(observer.ended, 2);
    lab.shutdown().await.unwrap();
}
