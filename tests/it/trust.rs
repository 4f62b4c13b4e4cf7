//! How far devices are trusted, over the real coordinator and nats-server; the devices are fakes whose agents answer, or not.

mod killed;

use crate::device::world::World;
use crate::ledger::host_clock;
use crate::nats::SOON;
use crate::support::fake_lab::FakeLab;
use pilab::bus::connect::{Bus, BusOptions};
use pilab::config::scenario;
use pilab::coordinator::parts::Parts;
use pilab::model::device::{Capability, Model};
use pilab::model::id::RunId;
use pilab::model::identity::file;
use pilab::model::power::PowerState;
use pilab::model::run::{RunFact, Verdict};
use pilab::wire::fleet::{FLEET_VERSION, Pong};
use pilab::wire::lending::{DEVICE, RELEASE, RESERVE};
use pilab::wire::request::{
    EVENTS, EventsPage, EventsRequest, REQUEST_VERSION, RUN, RunAccepted, RunOptions, RunRequest,
};
use pilab::wire::subject;
use pilab::wire::training::TRAIN;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const BOARD: &str = "lab-pi-1";
const LOOK: Duration = Duration::from_millis(10);
/// What ends by itself in these tests does so long after them.
const HOUR: Duration = Duration::from_secs(3600);

const CAPABILITIES: [Capability; 3] = [Capability::Boot, Capability::Image, Capability::Console];

/// A lab of one board whose agent answers for as long as it is `well`.
struct Bench {
    lab: FakeLab,
    well: Arc<AtomicBool>,
    _agent: JoinSet<()>,
}

impl Bench {
    async fn start(change: impl FnOnce(&mut Parts)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    /// The same over what another has left in a directory.
    async fn start_in(dir: TempDir, change: impl FnOnce(&mut Parts)) -> Self {
        let lab = FakeLab::start_in(dir, &[(BOARD, Model::Pi4B)], &CAPABILITIES, |parts| {
            parts.clock = host_clock();
            parts.policy.trust.boot_timeout = Duration::from_secs(1);
            parts.policy.trust.clean_boots = 3;
            change(parts);
        })
        .await;
        let well = Arc::new(AtomicBool::new(true));
        let mut agent = JoinSet::new();
        agent.spawn(answering(lab.url(), Arc::clone(&lab.devices[BOARD].world), Arc::clone(&well)));
        Self { lab, well, _agent: agent }
    }

    fn becomes(&self, well: bool) {
        self.well.store(well, Ordering::Relaxed);
    }

    async fn show(&self) -> Value {
        self.lab.ask(DEVICE, &json!({"device": BOARD})).await
    }

    /// Waits until the device is so.
    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = tokio::time::Instant::now();
        loop {
            let shown = self.show().await;
            if is_so(&shown) {
                return shown;
            }
            assert!(begun.elapsed() < 2 * SOON, "{what} was not seen: {shown:#}");
            sleep(LOOK).await;
        }
    }

    /// Runs one step to its end.
    async fn run(&self, under_test: &str, step: &str) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("try.toml");
        let text = format!(
            "summary = \"s\"\nunder_test = \"{under_test}\"\nboot_timeout = \"1s\"\n[needs.dut]\n[[steps]]\ntimeout = \"1s\"\n{step}\n"
        );
        std::fs::write(&path, text).unwrap();
        let scenario = scenario::load(&path).unwrap();
        let request = RunRequest { version: REQUEST_VERSION, scenario, options: RunOptions::default() };
        let run = self.lab.ask::<RunAccepted>(RUN, &request).await.run;
        self.ended(run).await
    }

    async fn ended(&self, run: RunId) -> Verdict {
        let ended = async {
            loop {
                let page: EventsPage =
                    self.lab.ask(EVENTS, &EventsRequest { run: run.clone(), from: 0 }).await;
                let end = page.events.iter().find_map(|event| match &event.fact {
                    RunFact::Ended { outcome, .. } => Some(outcome.verdict),
                    _ => None,
                });
                match end {
                    Some(verdict) => return verdict,
                    None => sleep(LOOK).await,
                }
            }
        };
        timeout(2 * SOON, ended).await.unwrap()
    }

    async fn train(&self, boots: Option<u32>) -> Verdict {
        let begun: Value = self.lab.ask(TRAIN, &json!({"device": BOARD, "boots": boots})).await;
        self.ended(serde_json::from_value(begun["run"].clone()).unwrap()).await
    }
}

fn checked_at_once(parts: &mut Parts) {
    parts.policy.care.recheck = Some(Duration::from_millis(100));
    parts.policy.care.recheck_max = Duration::from_millis(200);
}

/// The agent of the board: with the credentials that its last boot gave it, while it is on and well.
async fn answering(url: String, world: Arc<World>, well: Arc<AtomicBool>) {
    let mut last = Vec::new();
    loop {
        sleep(LOOK).await;
        let creds = {
            let state = world.lock();
            let creds = state.files.iter().find(|(name, _)| name == file::NATS_CREDS);
            creds.filter(|_| state.power == Some(PowerState::On)).map(|(_, creds)| creds.clone())
        };
        let Some(creds) = creds.filter(|creds| *creds != last && well.load(Ordering::Relaxed)) else {
            continue;
        };
        last.clone_from(&creds);
        let options = BusOptions {
            url: url.as_str().into(),
            creds: String::from_utf8(creds).unwrap(),
            name: BOARD.to_owned(),
            inbox_prefix: subject::inbox(BOARD),
        };
        // One whose boot is over already is refused.
        let Ok(bus) = Bus::connect(options, Some(SOON)).await else { continue };
        serve(&bus, &world, &well).await;
    }
}

async fn serve(bus: &Bus, world: &World, well: &AtomicBool) {
    let mut pings = bus.subscribe(format!("fleet.{BOARD}.ping")).await.unwrap();
    // A cycle is shorter than a look: other credentials tell of it too.
    let creds = || world.lock().files.iter().find(|(name, _)| name == file::NATS_CREDS).cloned();
    let own = creds();
    while world.lock().power == Some(PowerState::On) && creds() == own {
        let Ok(Some(ping)) = timeout(LOOK, pings.next()).await else { continue };
        let pong = Pong {
            version: FLEET_VERSION,
            device: BOARD.to_owned(),
            agent_version: "1".to_owned(),
            agent_sha256: String::new(),
            boot_id: String::new(),
            uptime_ms: 1,
        };
        if well.load(Ordering::Relaxed) {
            // Switched off meanwhile, it is heard by nobody.
            let _ = bus.publish(ping.reply.unwrap(), serde_json::to_vec(&pong).unwrap()).await;
        }
    }
}

const PING: &str = "ping = { on = \"dut\" }";

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_device_is_quarantined_by_what_it_does_and_comes_back_by_what_it_does() {
    let bench = Bench::start(checked_at_once).await;
    assert_eq!(bench.run("workload", PING).await, Verdict::Passed);
    assert_eq!(bench.show().await["health"], "good");

    // One fault is luck; the checks that follow it are more.
    bench.becomes(false);
    assert_eq!(bench.run("workload", PING).await, Verdict::Timeout);
    let shown = bench.until("its quarantine", |shown| shown["health"] == "quarantined").await;
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.contains("faults in") && reason.contains("with 95 % confidence"), "{reason}");
    assert!(shown["flakiness"]["bad"].as_u64() >= Some(3), "{shown:#}");

    bench.becomes(true);
    let shown = bench.until("its return", |shown| shown["health"] == "good").await;
    let history: Vec<_> = shown["checkups"].as_array().unwrap().iter().map(|one| &one["health"]).collect();
    assert_eq!(history, ["good", "suspect", "quarantined", "suspect", "good"], "{shown:#}");
    let findings = shown["findings"].as_array().unwrap();
    assert!(findings.iter().any(|one| one["past"] == true && one["origin"] == "check"), "{findings:#?}");
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_the_product_harms_no_device() {
    let bench = Bench::start(checked_at_once).await;
    let mut line = bench.lab.devices[BOARD].rig.plug().await;
    // A console that says nothing at all would be the lab's.
    let mut speaks = JoinSet::new();
    speaks.spawn(async move {
        while line.write_all(b"at work\n").await.is_ok() {
            sleep(LOOK).await;
        }
    });
    for _ in 0..3 {
        let verdict = bench.run("workload", "console = { on = \"dut\", pattern = \"never\" }").await;
        assert_eq!(verdict, Verdict::Failed);
    }
    // A time-out behind which what is under test may be neither.
    bench.becomes(false);
    assert_eq!(bench.run("image", PING).await, Verdict::Timeout);
    let shown = bench.show().await;
    assert_eq!((&shown["health"], &shown["flakiness"]["bad"]), (&json!("good"), &json!(0)), "{shown:#}");
    assert!(shown["findings"].as_array().unwrap().iter().all(|one| one["origin"] == "run"));
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_gives_way_to_whoever_waits() {
    let bench = Bench::start(|parts| {
        checked_at_once(parts);
        parts.policy.trust.boot_timeout = HOUR;
        parts.policy.quota.requests = 4;
    })
    .await;
    bench.becomes(false);
    assert_eq!(bench.run("workload", PING).await, Verdict::Timeout);
    let is_checked = |shown: &Value| shown["usage"]["holder"] == "health-check";
    bench.until("its check", is_checked).await;
    let need = json!({"role": "device", "device": BOARD, "model": null, "labels": {}, "capabilities": []});
    let body = json!({
        "version": 1, "id": "l1", "purpose": "", "needs": [need], "duration": null, "priority": "low",
        "hold_by_process": null, "start_ms": null, "no_wait": false,
    });
    let _: Value = bench.lab.ask(RESERVE, &body).await;
    let shown = bench.until("the lease", |shown| shown["usage"]["lease"] == "l1").await;
    let findings = shown["findings"].as_array().unwrap();
    assert!(findings.iter().all(|one| one["origin"] == "run"), "it says nothing: {findings:#?}");
    let _: Value = bench.lab.ask(RELEASE, &json!({"lease": "l1"})).await;
    bench.until("its next check", is_checked).await;
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn training_makes_a_device_good_and_tells_what_broke() {
    let bench = Bench::start(|_| ()).await;
    let said = json!({"device": BOARD, "health": "maintenance", "reason": "a new fan"});
    let _: Value = bench.lab.ask("health", &said).await;
    assert_eq!(bench.train(Some(2)).await, Verdict::Passed);
    assert_eq!(bench.show().await["health"], "maintenance", "the rule asks for three");
    assert_eq!(bench.train(None).await, Verdict::Passed);
    let shown = bench.until("its health", |shown| shown["health"] != "maintenance").await;
    assert_eq!(
        (&shown["health"], &shown["reason"]),
        (&json!("good"), &json!("trained: 3 clean boots in a row"))
    );

    bench.becomes(false);
    assert_eq!(bench.train(None).await, Verdict::Timeout);
    let returned = |shown: &Value| shown["usage"]["state"] == "free" && shown["health"] != "good";
    let shown = bench.until("its return", returned).await;
    assert_eq!((&shown["health"], &shown["power"]), (&json!("suspect"), &json!("off")));
    let last = shown["findings"].as_array().unwrap().last().unwrap();
    assert!(last["cause"].as_str().unwrap().contains("the agent did not answer within 1 s"), "{last}");
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_switched_on_beside_the_lab_goes_off() {
    let bench = Bench::start(|parts| {
        parts.policy.care.idle_off = Some(Duration::from_millis(100));
        parts.policy.care.always_on = ["lab-pi-2".parse().unwrap()].into();
    })
    .await;
    bench.until("its first handover", |shown| shown["usage"]["state"] == "free").await;
    let said = |health| json!({"device": BOARD, "health": health, "reason": "a new fan"});
    let _: Value = bench.lab.ask("health", &said("maintenance")).await;
    let world = &bench.lab.devices[BOARD].world;
    world.lock().power = Some(PowerState::On);
    // Whoever works on it leaves it on: its switch is not even asked.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.lock().power, Some(PowerState::On));
    let _: Value = bench.lab.ask("health", &said("good")).await;
    let off = async {
        while world.lock().power == Some(PowerState::On) {
            sleep(LOOK).await;
        }
    };
    timeout(SOON, off).await.unwrap();
    let shown = bench.until("its return", |shown| shown["usage"]["state"] == "free").await;
    assert_eq!((&shown["health"], &shown["power"]), (&json!("good"), &json!("off")));
    bench.lab.stop().await;
}
