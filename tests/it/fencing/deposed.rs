//! A real coordinator's process that is stopped with SIGSTOP, while another takes its ledger, and goes on.

use super::fake::{Act, Bench};
use crate::ledger::{options, term};
use crate::nats::{Lab, SOON};
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::issuer::COORDINATOR;
use pilab::coordinator::ledger::{self, LedgerHandle, LedgerOptions};
use pilab::model::id::LabName;
use pilab::model::lease::FencingToken;
use pilab::support::command::Command;
use pilab::support::term::Term;
use pilab::wire::subject;
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DIR: &str = "PILAB_TEST_STOPPED_DIR";
/// Labs side by side, and stops in each: 20 in all.
const LABS: u64 = 4;
const STOPS: u64 = 5;
/// For how long a coordinator of this test may act after its last write.
const TENURE: Duration = Duration::from_secs(1);
/// What each act may take.
const LONGEST_ACT: Duration = Duration::from_millis(200);

async fn connect(url: &str, creds: &str) -> Bus {
    let bus = BusOptions {
        url: url.into(),
        creds: creds.to_owned(),
        name: COORDINATOR.to_owned(),
        inbox_prefix: subject::inbox(COORDINATOR),
    };
    Bus::connect(bus, Some(SOON)).await.unwrap()
}

struct Leader {
    term: Term,
    /// Without it the ledger's task ends.
    _handle: LedgerHandle,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

impl Leader {
    /// Takes the ledger of a lab, with a disk of its own.
    async fn take(bus: &Bus, dir: &Path, lab: &LabName) -> Self {
        let term = term(crate::ledger::host_clock());
        let options = LedgerOptions {
            lab: lab.clone(),
            term: term.clone(),
            tenure: TENURE,
            longest_act: LONGEST_ACT,
            ..options(bus, dir, None)
        };
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let handle = ledger::start(options, &tracker, shutdown.clone()).await.unwrap();
        Self { term, _handle: handle, shutdown, tracker }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.close();
        timeout(SOON, self.tracker.wait()).await.unwrap();
    }
}

fn effects(dir: &Path) -> PathBuf {
    dir.join("effects")
}

/// Not a test of its own: the coordinator that the next test stops. It acts until another has its lab.
#[tokio::test(flavor = "multi_thread")]
async fn helper_coordinator_that_is_stopped() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let file = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let bus = connect(&file("url"), &file("creds")).await;
    let leader = Leader::take(&bus, &dir, &LabName::new(file("lab")).unwrap()).await;
    let bench = Bench::new(leader.term.clone(), None).await;
    bench.fake.effects.log_to(&effects(&dir));
    let token = FencingToken { epoch: 1, sequence: 1 };
    for act in [Act::On, Act::Type, Act::Cycle, Act::Boot, Act::Break].into_iter().cycle() {
        if leader.term.has_ended() {
            break;
        }
        act.perform(&bench.device, token).await;
        // Between two acts there is time, as there is between those of people.
        sleep(Duration::from_millis(20)).await;
    }
    bench.stop().await;
    leader.stop().await;
}

fn lines(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(effects(dir)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// One stop of the lab's coordinator; answers what it still did after the next one had begun to act.
async fn stopped(url: &str, creds: &str, lab: &LabName, stop_after: Duration) -> Vec<String> {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, text) in [("url", url), ("creds", creds), ("lab", lab.as_str())] {
        std::fs::write(here.path().join(name), text).unwrap();
    }
    let mut helper = Command::new(std::env::current_exe().unwrap().to_string_lossy().into_owned())
        .args(["--exact", "fencing::deposed::helper_coordinator_that_is_stopped", "--nocapture"])
        .env(DIR, here.path().to_string_lossy())
        .build()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    crate::nats::until("it acts", || lines(here.path()).len() >= 10).await;
    sleep(stop_after).await;
    let pid = Pid::from_raw(helper.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();

    let bus = connect(url, creds).await;
    let next = Leader::take(&bus, there.path(), lab).await;
    assert!(next.term.check().is_err(), "whoever was before may still act");
    timeout(SOON, next.term.held()).await.unwrap();
    let mut file = std::fs::File::options().append(true).open(effects(here.path())).unwrap();
    writeln!(file, "the next one").unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    let ended = timeout(SOON, helper.wait()).await.expect("it learns that it has lost the lab").unwrap();
    assert!(ended.success(), "{ended}");
    next.stop().await;
    let after = lines(here.path()).into_iter().skip_while(|line| line != "the next one").skip(1);
    after.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_stopped_while_another_takes_its_lab_does_nothing_more() {
    let lab = Lab::start().await;
    drop(lab.coordinator().await);
    let (url, creds) = (lab.server.url(), lab.issuer.coordinator(crate::nats::HOUR).unwrap().creds);
    let mut labs = JoinSet::new();
    for number in 0..LABS {
        let (url, creds) = (url.clone(), creds.clone());
        labs.spawn(async move {
            let lab = LabName::new(format!("lab{number}")).unwrap();
            for stop in 0..STOPS {
                let stop_after = Duration::from_millis(7 * stop + 2 * number);
                let late = stopped(&url, &creds, &lab, stop_after).await;
                assert_eq!(late, [""; 0], "stop {stop} of {lab}");
            }
        });
    }
    while let Some(done) = labs.join_next().await {
        done.unwrap();
    }
    lab.stop().await;
}
