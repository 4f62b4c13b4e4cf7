//! A lab that outlives a command, through the program itself: two people, containers, real NATS and podman.

use crate::agent::lab::installed;
use crate::support::program::{PATIENCE, Program, end, finish, signal};
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::error::BusError;
use pilab::bus::issuer::{COORDINATOR, Issuer};
use pilab::model::id::{DeviceId, LabName};
use pilab::model::identity::file;
use pilab::model::workload::label;
use pilab::support::command::Command;
use pilab::wire::subject;
use rustix::process::Signal;
use serde_json::Value;
use std::ops::Deref;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio::time::{Instant, timeout};

pub(crate) const DEVICE: &str = "team-box-1";

/// A lab of two containers.
pub(crate) struct Bench(Program);

impl Deref for Bench {
    type Target = Program;
    fn deref(&self) -> &Program {
        &self.0
    }
}

impl Bench {
    pub(crate) fn new() -> Option<Self> {
        Self::with("max = \"2h\"")
    }

    /// With this in its file, from its table `leases` on.
    pub(crate) fn with(leases: &str) -> Option<Self> {
        let tools = ["podman", "runc", "busybox", "nats-server"];
        let pool = "[[pools]]\nname = \"box\"\nbackend = \"container\"\ncount = 2\n";
        let text = format!("name = \"team\"\n[leases]\n{leases}\n{pool}");
        tools.iter().all(|tool| installed(tool, "podman")).then(|| Self(Program::new(&text)))
    }

    pub(crate) async fn device(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        self.device_until(DEVICE, what, is_so).await
    }

    pub(crate) async fn reserve(&self, args: &[&str]) -> String {
        let all = [&["reserve", "--json"], args].concat();
        let lease = self.pilab(&all).await.done().json().remove(0);
        assert_eq!(lease["state"], "granted", "{lease}");
        lease["lease"].as_str().unwrap().to_owned()
    }
}

/// The sockets of labs of this name, for all test benches together.
fn sockets() -> usize {
    let labs = std::fs::read_dir("/run/pilab").map_or(Vec::new(), |entries| entries.flatten().collect());
    labs.iter().filter(|entry| entry.file_name().to_string_lossy().ends_with("-lab-gone")).count()
}

/// Reads standard error until it holds `text`.
async fn says(child: &mut Child, text: &str) {
    let stderr = child.stderr.as_mut().unwrap();
    let mut seen = String::new();
    let reading = async {
        let mut chunk = [0; 4096];
        while !seen.contains(text) {
            let read = stderr.read(&mut chunk).await.unwrap();
            assert!(read > 0, "it ended before it said {text:?}:\n{seen}");
            seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
    };
    assert!(timeout(PATIENCE, reading).await.is_ok(), "waited for {text:?} in vain:\n{seen}");
}

fn usage(device: &Value) -> &str {
    device["usage"]["state"].as_str().unwrap()
}

#[tokio::test]
async fn two_people_share_a_lab() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    let (ann, eve) = (bench.login("ann", "user").await, bench.login("eve", "viewer").await);

    // Whoever holds it may switch it, and sit at its console; nobody else may.
    let lease = bench.reserve(&[DEVICE, "--for", "1h", "--purpose", "a panic"]).await;
    bench.as_user(&ann, &["power", "on", DEVICE]).await.refused("is local's");
    bench.pilab(&["power", "on", DEVICE]).await.done();
    bench.device("its agent", |device| device["stage"] == "agent" && device["power"] == "on").await;
    let console = bench.as_user(&eve, &["console", DEVICE, "--dump"]).await.done().stdout;
    assert!(console.contains("agent started"), "{console}");
    let before = bench.device("its power", |_| true).await["attempt"].as_u64().unwrap();
    bench.pilab(&["power", "cycle", DEVICE]).await.done();
    bench
        .device("its next boot", |device| device["attempt"] == before + 1 && device["stage"] == "agent")
        .await;

    // What it runs is the holder's too, and all three agree on it.
    let deployed = ["deploy", DEVICE, "lab/deployments/hello.toml"];
    bench.as_user(&ann, &deployed).await.refused("is local's");
    bench.pilab(&deployed).await.done();
    let verified = bench.pilab(&["verify", DEVICE, "--within", "30s"]).await.done().stdout;
    assert_eq!(verified, "1 deployments and 1 containers are as desired\n");
    let status = bench.as_user(&eve, &["status", DEVICE, "--json"]).await.done().json();
    assert_eq!(
        (&status[0]["deployment"], &status[0]["status"]["phase"]),
        (&"hello".into(), &"Running".into())
    );
    bench.as_user(&eve, &["verify", DEVICE]).await.refused("takes the role user");

    // The role decides, then the holder.
    bench.as_user(&eve, &["reserve"]).await.refused("eve is a viewer");
    bench.as_user(&ann, &["login", "x", "-o", "/dev/null"]).await.refused("takes the role admin");
    bench.as_user(&ann, &["release", &lease]).await.refused("is local's");
    bench.as_user(&ann, &["reserve", DEVICE, "--no-wait"]).await.refused("is local's");
    bench.as_user(&ann, &["reserve", "--model", "vm-aarch64"]).await.refused("can never be met");
    bench.pilab(&["extend", &lease, "--by", "3h"]).await.refused("at most 7200 s");

    // A second person waits, is told for whom, and is next.
    let login = ann.to_str().unwrap();
    let waits = bench.command(&["reserve", DEVICE, "--json", "--login", login]);
    let mut waits = waits.build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    says(&mut waits, &format!("in place 1: {DEVICE} is local's ({lease})")).await;
    bench.pilab(&["extend", &lease, "--by", "1m"]).await.refused("ann waits for");
    let queue = bench.pilab(&["queue", "--json"]).await.done().json();
    let states: Vec<_> = queue.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["granted", "waiting"], "{queue:?}");
    bench.pilab(&["release", &lease]).await.done();
    let granted = end(waits).await.done().json().remove(0);
    assert_eq!((granted["state"].as_str(), granted["holder"].as_str()), (Some("granted"), Some("ann")));
    let device = bench.device("its next holder", |device| usage(device) == "leased").await;
    assert_eq!((device["power"].as_str(), device["usage"]["holder"].as_str()), (Some("off"), Some("ann")));
    let status = bench.pilab(&["status", DEVICE, "--json"]).await.done().json();
    assert_eq!(status, Vec::<Value>::new(), "nothing of the last holder's is left");

    // An admin may all the same, and says why.
    bench.pilab(&["power", "off", DEVICE]).await.refused("is ann's");
    let forced = ["power", "off", DEVICE, "--force", "--reason", "it smokes"];
    bench.as_user(&ann, &forced).await.done();
    bench.pilab(&forced).await.done();
    let journal = bench.dir.path().join("state/labs/team/journal").join(DEVICE);
    let kept = std::fs::read_dir(journal).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let kept = kept.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect::<String>();
    assert!(kept.contains("it smokes"), "the reason is in the journal");

    // Given on, it is the next one's; whoever had it has lost it.
    let hers = granted["lease"].as_str().unwrap();
    bench.as_user(&ann, &["transfer", hers, "local"]).await.done();
    bench.as_user(&ann, &["power", "on", DEVICE]).await.refused("is now local's");

    // A login that is taken back is no login any more, whoever holds the file.
    bench.as_user(&eve, &["logout", "ann"]).await.refused("takes the role admin");
    bench.pilab(&["logout", "local"]).await.refused("is whose coordinator this is");
    let out = bench.pilab(&["logout", "ann"]).await.done();
    assert!(out.stdout.contains("ann: 1 logins were taken back"), "{}", out.stdout);
    bench.as_user(&ann, &["devices"]).await.refused("does not answer");
    bench.as_user(&eve, &["devices"]).await.done();
    finish(coordinator).await;
}

#[tokio::test]
async fn runs_wait_for_devices_like_everybody() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    let lease = bench.reserve(&["--count", "2"]).await;
    let bundles = bench.dir.path().join("bundles");
    let args = [
        "run",
        "ping",
        "isolation",
        "--lab",
        bench.lab.to_str().unwrap(),
        "--bundle",
        bundles.to_str().unwrap(),
    ];
    let mut run = bench.command(&args).build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    says(&mut run, "in lab team, which has a coordinator on this machine").await;
    bench.device("the runs in the queue", |_| true).await;
    let deadline = Instant::now() + PATIENCE;
    while bench.pilab(&["queue", "--json"]).await.done().json().len() < 3 {
        assert!(Instant::now() < deadline, "the runs do not wait");
    }
    bench.pilab(&["release", &lease]).await.done();
    let ended = end(run).await.done();
    assert!(ended.stdout.contains("2 runs: 2 passed"), "{}", ended.stdout);
    bench.device("the run's device back", |device| usage(device) == "free" && device["power"] == "off").await;
    finish(coordinator).await;
}

/// Holds for longer than any test.
const LONG: &str = "summary = \"s\"\nunder_test = \"agent\"\n[needs.dut]\n[[steps]]\nname = \"hold\"\ntimeout = \"10m\"\n\
                    absent = { on = \"dut\", deployment = \"web\", hold = \"5m\" }\n";

#[tokio::test]
async fn a_run_whose_lease_is_taken_away_ends_as_the_labs() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    let (path, bundles) = (bench.dir.path().join("long.toml"), bench.dir.path().join("bundles"));
    std::fs::write(&path, LONG).unwrap();
    let args = [
        "run",
        path.to_str().unwrap(),
        "--lab",
        bench.lab.to_str().unwrap(),
        "--bundle",
        bundles.to_str().unwrap(),
    ];
    let mut run = bench.command(&args).build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    says(&mut run, "step 1/1").await;
    let lease = bench.pilab(&["queue", "--json"]).await.done().json().remove(0);
    bench.pilab(&["release", lease["lease"].as_str().unwrap()]).await.done();
    let ended = end(run).await;
    assert_eq!(ended.code, Some(4), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("the run's lease has ended"), "{}", ended.stdout);
    bench.device("its return", |device| usage(device) == "free" && device["power"] == "off").await;
    finish(coordinator).await;
}

#[tokio::test]
async fn leases_and_queue_outlive_a_coordinator_that_is_killed() {
    let Some(bench) = Bench::new() else { return };
    let mut coordinator = bench.coordinator().await;
    let second = bench.pilab(&["coordinator", "--lab", bench.lab.to_str().unwrap()]).await;
    second.refused("has a coordinator on this machine");
    let ann = bench.login("ann", "user").await;
    let lease = bench.reserve(&[DEVICE]).await;
    let login = ann.to_str().unwrap();
    let waits = bench.command(&["reserve", DEVICE, "--json", "--login", login]);
    let mut waits = waits.build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    says(&mut waits, "in place 1").await;

    signal(&coordinator, Signal::KILL);
    coordinator.wait().await.unwrap();
    bench.pilab(&["devices"]).await.refused("lab team does not answer");
    let coordinator = bench.coordinator().await;
    let device = bench.device("its holder", |_| true).await;
    assert_eq!(device["usage"]["lease"], *lease, "{device}");
    bench.pilab(&["power", "on", DEVICE]).await.done();
    bench.pilab(&["release", &lease]).await.done();
    let granted = end(waits).await.done().json().remove(0);
    assert_eq!((granted["state"].as_str(), granted["holder"].as_str()), (Some("granted"), Some("ann")));
    finish(coordinator).await;
}

#[tokio::test]
async fn a_nats_server_that_dies_under_a_coordinator_costs_no_lease() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    let lease = bench.reserve(&[DEVICE]).await;
    let pattern = format!("nats-server.*{}", bench.dir.path().display());
    Command::new("pkill").args(["-KILL", "-f", &pattern]).output().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let second = loop {
        // Not before it is back; then at once.
        let asked = bench.pilab(&["reserve", "team-box-2", "--json"]).await;
        if asked.code == Some(0) {
            break asked.json().remove(0);
        }
        assert!(Instant::now() < deadline, "nothing is lent any more: {}", asked.stderr);
    };
    assert_eq!(second["state"], "granted", "{second}");
    let device = bench.device("its holder", |_| true).await;
    assert_eq!(device["usage"]["lease"], *lease, "{device}");
    bench.pilab(&["power", "on", DEVICE]).await.done();
    finish(coordinator).await;
}

#[tokio::test]
async fn a_lab_that_ends_leaves_what_it_knows_and_no_sockets() {
    let Some(mut bench) = Bench::new() else { return };
    let path = bench.dir.path().join("gone.toml");
    let text = std::fs::read_to_string(&bench.lab).unwrap().replace("\"team\"", "\"gone\"");
    std::fs::write(&path, text).unwrap();
    bench.0.lab = path;
    let coordinator = bench.coordinator().await;
    assert_eq!(sockets(), 1);
    finish(coordinator).await;
    assert_eq!(sockets(), 0);
    assert!(bench.dir.path().join("state/labs/gone/keys/keys.json").is_file());
}

#[tokio::test]
async fn a_lease_ends_at_its_deadline_and_with_its_process() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    bench.reserve(&[DEVICE, "--for", "1s"]).await;
    bench.pilab(&["power", "on", DEVICE]).await;
    let device = bench.device("the deadline", |device| usage(device) == "free").await;
    assert_eq!(device["power"], "off");

    let held = bench.command(&["reserve", DEVICE, "--hold-by-process"]);
    let mut held = held.build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    says(&mut held, "held until this command ends").await;
    bench.device("the process's lease", |device| usage(device) == "leased").await;
    signal(&held, Signal::INT);
    end(held).await.done();
    bench.device("its return", |device| usage(device) == "free").await;

    // One that is killed is not heard any more.
    let held = bench.command(&["reserve", DEVICE, "--hold-by-process"]);
    let mut held = held.build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    says(&mut held, "held until this command ends").await;
    signal(&held, Signal::KILL);
    held.wait().await.unwrap();
    bench.device("the dead holder's end", |device| usage(device) == "free").await;
    finish(coordinator).await;
}

/// The lab's NATS, with the coordinator's own rights.
async fn bus(bench: &Bench, creds: &str, name: &str) -> Result<Bus, BusError> {
    let login = std::fs::read(bench.dir.path().join("state/labs/team/login.json")).unwrap();
    let login: Value = serde_json::from_slice(&login).unwrap();
    let options = BusOptions {
        url: login["url"].as_str().unwrap().into(),
        creds: creds.to_owned(),
        name: name.to_owned(),
        inbox_prefix: subject::inbox(name),
    };
    Bus::connect(options, Some(Duration::from_secs(3))).await
}

#[tokio::test]
async fn whatever_the_last_holder_left_is_gone_before_the_next_has_the_device() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    let lease = bench.reserve(&[DEVICE]).await;
    bench.pilab(&["power", "on", DEVICE]).await.done();
    bench.device("its agent", |device| device["stage"] == "agent").await;
    bench.pilab(&["deploy", DEVICE, "lab/deployments/hello.toml"]).await.done();
    bench.pilab(&["verify", DEVICE, "--within", "30s"]).await.done();

    // Beside what was deployed: a container, keys, and a copy of the device's credentials.
    let lab = bench.dir.path().join("state/labs/team");
    let podman = async |args: &[&str]| {
        let conf = |name: &str| lab.join("podman").join(name).to_str().unwrap().to_owned();
        let command = Command::new("podman")
            .env("CONTAINERS_CONF", conf("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", conf("storage.conf"));
        String::from_utf8(command.args(args.iter().copied()).output().await.unwrap()).unwrap()
    };
    let label = format!("{}={DEVICE}", label::DEVICE);
    podman(&["create", "--label", &label, "--name", "planted", "localhost/pilab/hello:1", "true"]).await;
    let agent = format!("pilab-agent.{DEVICE}");
    let mounts = podman(&["inspect", &agent, "--format", "{{range .Mounts}}{{.Source}}\n{{end}}"]).await;
    let creds = mounts.lines().map(|dir| Path::new(dir).join(file::NATS_CREDS)).find(|path| path.is_file());
    let creds = std::fs::read_to_string(creds.expect("the device's credentials")).unwrap();
    let issuer = Issuer::open(lab.join("keys"), &LabName::new("team").unwrap()).unwrap();
    let rights = issuer.coordinator(PATIENCE).unwrap().creds;
    let lab_bus = bus(&bench, &rights, COORDINATOR).await.unwrap();
    for bucket in [subject::DESIRED, subject::STATUS] {
        lab_bus.kv_put(bucket, &format!("{DEVICE}.planted"), "{}").await.unwrap();
    }
    bus(&bench, &creds, DEVICE).await.expect("good as long as the lease").close().await.unwrap();

    bench.pilab(&["release", &lease]).await.done();
    bench.device("its return", |device| usage(device) == "free" && device["health"] == "good").await;
    let left =
        podman(&["ps", "--all", "--filter", &format!("label={label}"), "--format", "{{.Names}}"]).await;
    assert_eq!(left, "");
    let index = subject::index_key(&DeviceId::new(DEVICE).unwrap());
    let filter = format!("{DEVICE}.>");
    assert_eq!(lab_bus.kv_keys(subject::DESIRED, &filter).await.unwrap(), [index]);
    assert_eq!(lab_bus.kv_keys(subject::STATUS, &filter).await.unwrap(), [""; 0]);
    assert!(bus(&bench, &creds, DEVICE).await.is_err(), "its credentials are revoked");
    let _ = lab_bus.close().await;
    finish(coordinator).await;
}

#[tokio::test]
async fn more_runs_than_may_wait_at_a_time_take_their_turns() {
    let Some(bench) = Bench::with("requests_per_user = 1") else { return };
    let coordinator = bench.coordinator().await;
    let scenario = bench.path("many.toml");
    let text = "summary = \"s\"\nunder_test = \"agent\"\n[matrix]\nn = [\"1\", \"2\", \"3\", \"4\", \"5\"]\n\
                [needs.dut]\n[[steps]]\nname = \"${n}\"\nping = { on = \"dut\" }\n";
    std::fs::write(&scenario, text).unwrap();
    let (lab, bundles) = (bench.lab.to_str().unwrap(), bench.path("bundles"));
    let args = ["run", scenario.to_str().unwrap(), "--lab", lab, "--bundle", bundles.to_str().unwrap()];
    let told = bench.pilab(&args).await.done().stdout;
    assert!(told.contains("5 runs: 5 passed"), "{told}");
    finish(coordinator).await;
}

#[tokio::test]
async fn a_login_of_the_environment_gives_way_to_options_that_ask_for_a_lab_of_ones_own() {
    let run = |args: &'static [&str]| {
        let command = Command::new(env!("CARGO_BIN_EXE_pilab")).env("PILAB_LOGIN", "/nonexistent/ann.json");
        end(command.arg("run").args(args.iter().copied()).build().stderr(Stdio::piped()).spawn().unwrap())
    };
    run(&["ping"]).await.refused("/nonexistent/ann.json");
    let own = run(&["no-such", "--on", "container"]).await;
    assert!(own.stderr.contains("no-such") && !own.stderr.contains("--login"), "{}", own.stderr);
}
