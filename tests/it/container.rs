//! Devices as containers, through the program itself: real podman, real nats-server, the real agent.

use crate::agent::lab::installed;
use pilab::support::command::Command;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

/// A bound for a run that takes seconds on a quiet host.
const PATIENCE: Duration = Duration::from_secs(180);

/// A state directory of its own, so that sweeps and leftovers of other labs do not meet.
struct Bench(TempDir);

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

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
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("pilab did not end").unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Reads until standard output holds `text`.
async fn shows(child: &mut tokio::process::Child, text: &str) {
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
}

fn processes(place: &str) -> Vec<String> {
    let lines = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(place)).collect()
}

async fn signal(child: &tokio::process::Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    Command::new("kill").args(["-s", name, &pid]).output().await.unwrap();
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
    signal(&killed, "KILL").await;
    killed.wait().await.unwrap();
    assert!(run_dir(&first) && !processes(&first).is_empty(), "nothing was left to sweep");

    let mut living = bench.start(&[&scenario]);
    shows(&mut living, "\"name\":\"hold\"").await;
    let [second] = bench.instances().try_into().unwrap();
    let ended = bench.run(&["ping"]).await;
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert_eq!(bench.instances(), std::slice::from_ref(&second), "the living lab alone is there");
    assert!(!processes(&second).is_empty());

    signal(&living, "INT").await;
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
        "db: container store: expected one, running, with spec hash",
        "found none",
        "web: receipt: expected revision",
        "web: status: expected Running at generation 2, revision",
        "found Running at generation 1, revision",
        "web: container hello: expected one, running, with spec hash",
        "found running with spec hash",
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

#[tokio::test]
async fn a_nats_server_that_is_killed_in_the_middle_of_a_run_costs_nothing() {
    let Some(bench) = Bench::new() else { return };
    let path = bench.0.path().join("short.toml");
    std::fs::write(&path, LONG.replace("5m", "12s") + "[[steps]]\nverify = { on = \"mine\" }\n").unwrap();
    let mut run = bench.start(&[path.to_str().unwrap()]);
    shows(&mut run, "\"name\":\"hold\"").await;
    let servers = processes(bench.0.path().to_str().unwrap());
    assert_eq!(servers.iter().filter(|line| line.contains("nats-server")).count(), 1, "{servers:?}");
    let pattern = format!("nats-server.*{}", bench.0.path().display());
    Command::new("pkill").args(["-KILL", "-f", &pattern]).output().await.unwrap();
    let ended = end(run).await;
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    bench.is_clean();
}

/// A device that is used up to a step that holds for long.
fn used(bench: &Bench) -> String {
    let path = bench.0.path().join("used.toml");
    let step = "[[steps]]\nname = \"wait for its end\"\nwait_phase = { on = \"mine\", deployment = \"web\", phase = \"Failed\" }\ntimeout = \"10m\"\n";
    std::fs::write(&path, format!("{}{step}", LONG.split("[[steps]]\nname").next().unwrap())).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The outcome of each run, by its scenario's name.
fn outcomes(stdout: &str) -> BTreeMap<String, Value> {
    let events = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ended = events.filter(|event| event["kind"] == "ended");
    let name = |event: &Value| event["run"].as_str().unwrap().split('-').next().unwrap().to_owned();
    ended.map(|event| (name(&event), event["outcome"].clone())).collect()
}

#[tokio::test]
async fn a_podman_service_that_is_killed_in_the_middle_of_a_run_is_the_labs_fault_and_the_next_run_has_another()
 {
    let Some(bench) = Bench::new() else { return };
    let mut run = bench.start(&[&used(&bench), "deploy-lifecycle"]);
    shows(&mut run, "\"name\":\"wait for its end\"").await;
    let pattern = format!("podman.*system service.*{}", bench.instances()[0]);
    Command::new("pkill").args(["-KILL", "-f", &pattern]).output().await.unwrap();
    let ended = end(run).await;
    let outcomes = outcomes(&ended.stdout);
    let told = outcomes["used"]["reason"].as_str().unwrap();
    assert_eq!(outcomes["used"]["verdict"], "lab", "{told}");
    let why = "podman's service, which all devices share, ended in mid-run: signal: 9 (SIGKILL)";
    assert!(told.starts_with(why) && !told.contains('\n'), "{told}");
    assert_eq!(outcomes["deploy"]["verdict"], "passed", "{}\n{}", ended.stdout, ended.stderr);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    bench.is_clean();
}

#[tokio::test]
async fn an_agents_container_that_is_killed_in_the_middle_of_a_run_is_a_device_that_went_away() {
    let Some(bench) = Bench::new() else { return };
    let mut run = bench.start(&[&used(&bench), "ping"]);
    shows(&mut run, "\"name\":\"wait for its end\"").await;
    let [instance] = bench.instances().try_into().unwrap();
    let agents = ["ps", "--quiet", "--filter", "label=pilab.agent-of"];
    let agents = bench.podman(&instance, &agents).await;
    let agents: Vec<&str> = ["kill"].into_iter().chain(agents.lines()).collect();
    bench.podman(&instance, &agents).await;
    let ended = end(run).await;
    let outcomes = outcomes(&ended.stdout);
    let told = outcomes["used"]["reason"].as_str().unwrap();
    assert_eq!(outcomes["used"]["verdict"], "lab", "{told}");
    let why = "the device went away (console closed: the agent's container ended with exit code 137) at stage agent";
    assert!(told.contains(why), "{told}");
    assert!(outcomes["used"]["device"].as_str().unwrap().contains("container"), "{:?}", outcomes["used"]);
    assert_eq!(outcomes["ping"]["verdict"], "passed", "{}", ended.stderr);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    bench.is_clean();
}

#[tokio::test]
async fn a_kept_device_can_be_entered_and_removed_as_is_told_and_is_then_swept() {
    let Some(bench) = Bench::new() else { return };
    let ended = bench.run(&["ping", "--keep"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let told = |what: &str| {
        let line = ended.stderr.lines().find_map(|line| line.split_once(what));
        line.unwrap_or_else(|| panic!("no {what:?} in\n{}", ended.stderr)).1.trim().to_owned()
    };
    let (enter, remove) = (told("shell: "), told("remove: "));
    let [kept] = bench.instances().try_into().unwrap();

    // `-t` wants a terminal: script(1) gives it one.
    let mut shell = Command::new("script").args(["-qec", &enter, "/dev/null"]).build();
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let typed = b"cat /run/pilab/identity.json; echo $((6 * 7)) is inside; exit\n";
    shell.stdin.as_mut().unwrap().write_all(typed).await.unwrap();
    let shown = timeout(PATIENCE, shell.wait_with_output()).await.expect("the shell did not end").unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("42 is inside") && shown.contains("\"nats_url\""), "{shown}");

    let other = bench.run(&["ping"]).await;
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    assert_eq!(bench.instances(), std::slice::from_ref(&kept), "the next lab leaves it alone");
    let names = ["ps", "--all", "--format", "{{.Names}}"];
    assert!(bench.podman(&kept, &names).await.starts_with("pilab-agent."));

    Command::new("sh").args(["-c", &remove]).output().await.unwrap();
    assert_eq!(bench.podman(&kept, &names).await, "");
    let other = bench.run(&["ping"]).await;
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    bench.is_clean();
    assert!(!run_dir(&kept));
}
