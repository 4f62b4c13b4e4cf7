//! Devices as containers, through the program itself: real podman, real nats-server, the real agent.

mod dying;

use crate::agent::lab::installed;
use crate::support::program::{Ended, end_within, signal};
use pilab::support::command::Command;
use rustix::process::Signal;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

/// A bound for a run that takes seconds on a quiet host.
const PATIENCE: Duration = Duration::from_secs(180);

/// A state directory of its own, so that sweeps and leftovers of other labs do not meet.
struct Bench(TempDir);

impl Bench {
    fn new() -> Option<Self> {
        let tools = ["podman", "runc", "busybox", "nats-server"];
        tools.iter().all(|tool| installed(tool, "podman")).then(|| Self(tempfile::tempdir().unwrap()))
    }

    fn start(&self, args: &[&str]) -> tokio::process::Child {
        Command::new(env!("CARGO_BIN_EXE_pilab"))
            .env("PILAB_STATE_DIR", self.0.path().join("state").to_str().unwrap())
            .args(["run", "--on", "container", "--json", "--bundle"])
            .arg(self.0.path().join("bundles"))
            .args(args.iter().copied())
            .build()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    async fn run(&self, args: &[&str]) -> Ended {
        end(self.start(args)).await
    }

    /// What the podman of an instance says.
    async fn podman(&self, instance: &str, args: &[&str]) -> String {
        let podman = self.0.path().join("state/instances").join(instance).join("podman");
        let file = |name| podman.join(name).to_str().unwrap().to_owned();
        let command = Command::new("podman")
            .env("CONTAINERS_CONF", file("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", file("storage.conf"))
            .arg("--remote=false")
            .args(args.iter().copied());
        String::from_utf8(command.output().await.unwrap()).unwrap()
    }

    fn instances(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.0.path().join("state/instances")) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// No directory, no process and no mount of any lab in this place.
    fn is_clean(&self) {
        assert_eq!(self.instances(), Vec::<String>::new(), "an instance is left");
        let place = self.0.path().to_str().unwrap();
        assert_eq!(processes(place), Vec::<String>::new(), "a process is left");
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(place), "a mount is left:\n{mounts}");
    }
}

async fn end(child: tokio::process::Child) -> Ended {
    end_within(child, PATIENCE).await
}

/// Reads until standard output holds `text`; what was read.
async fn shows(child: &mut tokio::process::Child, text: &str) -> String {
    let stdout = child.stdout.as_mut().unwrap();
    let stderr = child.stderr.as_mut().unwrap();
    let mut seen = String::new();
    let reading = async {
        let mut chunk = [0; 4096];
        while !seen.contains(text) {
            let read = stdout.read(&mut chunk).await.unwrap();
            if read == 0 {
                let mut told = String::new();
                stderr.read_to_string(&mut told).await.unwrap();
                panic!("it ended before it said {text:?}:\n{seen}\n{told}");
            }
            seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
    };
    assert!(timeout(PATIENCE, reading).await.is_ok(), "waited for {text:?} in vain:\n{seen}");
    seen
}

fn processes(place: &str) -> Vec<String> {
    let lines = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(place)).collect()
}

/// A scenario that leaves time to be stopped: the last step holds for long.
const LONG: &str = r#"
summary = "A deployment that is looked at for long"
under_test = "agent"
[needs.mine]
[needs.other]
[[steps]]
[steps.deploy]
on = "mine"
deployment = "web"
score.type = "PodmanV0"
score.data.services = [{ name = "hello", image = "localhost/pilab/hello:1" }]
[[steps]]
wait_phase = { on = "mine", deployment = "web", phase = "Running" }
[[steps]]
name = "hold"
absent = { on = "other", deployment = "web", hold = "5m" }
timeout = "10m"
"#;

fn long(bench: &Bench) -> String {
    let path = bench.0.path().join("long.toml");
    std::fs::write(&path, LONG).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Where the lab in this place keeps its sockets.
fn run_dir(instance: &str) -> bool {
    Path::new("/run/pilab").join(instance).exists()
}

#[tokio::test]
async fn the_shipped_scenarios_pass_and_leave_nothing() {
    let Some(bench) = Bench::new() else { return };
    let began = Instant::now();
    let scenarios =
        ["ping", "isolation", "deploy-lifecycle", "init-containers", "rollback", "nats-loss", "operator"];
    let ended = bench.run(&scenarios).await;
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    let passed = ended.stdout.matches("\"outcome\":{\"verdict\":\"passed\"").count();
    assert_eq!(passed, scenarios.len(), "{}", ended.stdout);
    assert!(ended.stdout.contains("\"backend\":\"container\""), "{}", ended.stdout);
    eprintln!("{:.1} s", began.elapsed().as_secs_f64());
    bench.is_clean();
}

#[tokio::test]
async fn more_devices_than_the_lab_has_are_told_at_once() {
    let Some(bench) = Bench::new() else { return };
    let path = bench.0.path().join("three.toml");
    let text = "summary = \"s\"\nunder_test = \"agent\"\n[needs.a]\n[needs.b]\n[needs.c]\n[[steps]]\nping = { on = \"a\" }\n";
    std::fs::write(&path, text).unwrap();
    let ended = bench.run(&[path.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(6), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("3 devices are needed and 2 are there that fit"), "{}", ended.stdout);
    bench.is_clean();
}

#[tokio::test]
async fn what_takes_power_is_skipped_with_that_reason() {
    let Some(bench) = Bench::new() else { return };
    let path = bench.0.path().join("power.toml");
    let text =
        "summary = \"s\"\nunder_test = \"agent\"\n[needs.dut]\n[[steps]]\npower_cycle = { on = \"dut\" }\n";
    std::fs::write(&path, text).unwrap();
    let ended = bench.run(&[path.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(6), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("\"verdict\":\"skipped\""), "{}", ended.stdout);
    assert!(ended.stdout.contains("(a container) lacks: power"), "{}", ended.stdout);
    bench.is_clean();
}

#[tokio::test]
async fn a_killed_lab_is_swept_by_the_next_and_a_living_one_is_left_alone() {
    let Some(bench) = Bench::new() else { return };
    let scenario = long(&bench);
    let mut killed = bench.start(&[&scenario]);
    shows(&mut killed, "\"name\":\"hold\"").await;
    let [first] = bench.instances().try_into().unwrap();
    signal(&killed, Signal::KILL);
    killed.wait().await.unwrap();
    assert!(run_dir(&first) && !processes(&first).is_empty(), "nothing was left to sweep");

    let mut living = bench.start(&[&scenario]);
    shows(&mut living, "\"name\":\"hold\"").await;
    let [second] = bench.instances().try_into().unwrap();
    let ended = bench.run(&["ping"]).await;
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert_eq!(bench.instances(), std::slice::from_ref(&second), "the living lab alone is there");
    assert!(!processes(&second).is_empty());

    signal(&living, Signal::INT);
    let ended = end(living).await;
    assert_eq!(ended.code, Some(130), "{}\n{}", ended.stdout, ended.stderr);
    bench.is_clean();
    assert!(!run_dir(&first) && !run_dir(&second));
}

/// Two deployments; then nobody on the device acts any more.
const FROZEN: &str = r#"
summary = "What nobody put right is named"
under_test = "agent"
[needs.dut]
[needs.other]
[[steps]]
[steps.deploy]
on = "dut"
deployment = "web"
score.type = "PodmanV0"
score.data.services = [{ name = "hello", image = "localhost/pilab/hello:1" }]
[[steps]]
[steps.deploy]
on = "dut"
deployment = "db"
score.type = "PodmanV0"
score.data.services = [{ name = "store", image = "localhost/pilab/hello:1" }]
[[steps]]
verify = { on = "dut" }
[[steps]]
name = "hold"
absent = { on = "other", deployment = "web", hold = "8s" }
[[steps]]
[steps.upgrade]
on = "dut"
deployment = "web"
score.type = "PodmanV0"
score.data.services = [{ name = "hello", image = "localhost/pilab/hello:2" }]
[[steps]]
verify = { on = "dut" }
timeout = "1s"
"#;

#[tokio::test]
async fn a_mismatch_is_named_with_device_deployment_container_and_what_was_found() {
    let Some(bench) = Bench::new() else { return };
    let path = bench.0.path().join("frozen.toml");
    std::fs::write(&path, FROZEN).unwrap();
    let mut run = bench.start(&[path.to_str().unwrap()]);
    shows(&mut run, "\"name\":\"hold\"").await;
    let [instance] = bench.instances().try_into().unwrap();
    let podman = async |args: &[&str]| bench.podman(&instance, args).await;
    // The agents as well: a container that is removed under a living one is made anew.
    podman(&["kill", "--all", "--signal", "STOP"]).await;
    let mine = podman(&["ps", "--quiet", "--filter", "label=pilab.deployment=db"]).await;
    podman(&["rm", "--force", "--time", "0", mine.trim()]).await;
    let ended = end(run).await;
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.stdout, ended.stderr);
    let told = ended.stdout.lines().find(|line| line.contains("\"kind\":\"ended\"")).unwrap_or_default();
    for mismatch in [
        "db: container store: expected one, running, with the desired spec hash",
        "found none",
        "web: receipt: expected revision",
        "web: status: expected Running at generation 2, revision",
        "found Running at generation 1, revision",
        "web: container hello: expected one, running, with the desired spec hash",
        "found running with another spec hash",
    ] {
        assert!(told.contains(mismatch), "{mismatch:?} is not in:\n{told}\n{}", ended.stdout);
    }
    bench.is_clean();
}

/// A container with a secret in its environment, and a step that cannot come true.
const SECRETIVE: &str = r#"
summary = "A secret in an environment"
under_test = "agent"
[needs.dut]
[[steps]]
[steps.deploy]
on = "dut"
deployment = "web"
score.type = "PodmanV0"
score.data.init_containers = [{ name = "first", image = "localhost/pilab/hello:1", args = ["true"], env = { TOKEN = "pl4nted-in-an-init" } }]
score.data.services = [{ name = "hello", image = "localhost/pilab/hello:1", env = { TOKEN = "pl4nted-in-a-service" } }]
[[steps]]
wait_phase = { on = "dut", deployment = "web", phase = "Running" }
[[steps]]
wait_phase = { on = "dut", deployment = "web", phase = "Failed" }
timeout = "1s"
"#;

/// Every file below a directory, with its path.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.flat_map(|path| {
        if path.is_dir() {
            return contents(&path);
        }
        vec![(path.display().to_string(), std::fs::read(&path).unwrap())]
    });
    files.collect()
}

#[tokio::test]
async fn what_is_told_of_a_run_holds_no_planted_secret_and_its_report_is_read_back() {
    let Some(bench) = Bench::new() else { return };
    let (path, junit) = (bench.0.path().join("secretive.toml"), bench.0.path().join("report.xml"));
    std::fs::write(&path, SECRETIVE).unwrap();
    let args = [path.to_str().unwrap(), "ping", "--verbose", "--verbose", "--junit", junit.to_str().unwrap()];
    let ended = bench.run(&args).await;
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.stdout, ended.stderr);
    bench.is_clean();

    let mut told = contents(&bench.0.path().join("bundles"));
    assert!(
        told.len() >= 6,
        "two runs' evidence: {:?}",
        told.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    let report = std::fs::read_to_string(&junit).unwrap();
    let output = [("stdout", &ended.stdout), ("stderr", &ended.stderr), ("report", &report)];
    told.extend(output.map(|(name, text)| (name.to_owned(), text.clone().into_bytes())));
    for (name, bytes) in told {
        assert!(!String::from_utf8_lossy(&bytes).contains("pl4nted"), "{name} holds a planted secret");
    }

    let report = quick_junit::Report::deserialize_from_str(&report).unwrap();
    let [suite] = report.test_suites.as_slice() else { panic!("one suite: {report:?}") };
    assert_eq!((suite.tests, suite.failures, suite.errors), (2, 1, 0));
    let failure = suite.test_cases.iter().find(|case| case.name.as_str() == "secretive").unwrap();
    let quick_junit::TestCaseStatus::NonSuccess { kind, message, ty, .. } = &failure.status else {
        panic!("{failure:?}")
    };
    assert_eq!((*kind, ty.as_deref()), (quick_junit::NonSuccessKind::Failure, Some("failed")));
    assert!(message.as_deref().unwrap_or_default().contains("web"), "{failure:?}");
    assert!(failure.properties.iter().any(|property| property.name.as_str() == "backend"), "{failure:?}");
}
