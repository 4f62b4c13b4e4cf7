//! Nights through the program itself, on agents in containers: planted faults, a night that is killed, one that was
//! missed. Needs podman and nats-server.

use crate::agent::lab::installed;
use pilab::model::night::Record;
use pilab::model::run::Verdict;
use pilab::support::command::Command;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(240);

/// A scenario whose product is at fault.
const BROKEN: &str = r#"
summary = "It wants another image than it deploys"
under_test = "workload"
[needs.dut]
[[steps]]
name = "deploy"
[steps.deploy]
on = "dut"
deployment = "web"
score.type = "PodmanV0"
score.data.services = [{ name = "hello", image = "localhost/pilab/hello:1" }]
[[steps]]
name = "another version runs"
timeout = "3s"
containers = { on = "dut", deployment = "web", running = { hello = "localhost/pilab/hello:2" } }
"#;

/// One that no container can run.
const POWER: &str =
    "summary = \"s\"\nunder_test = \"agent\"\n[needs.dut]\n[[steps]]\npower_cycle = { on = \"dut\" }\n";

/// One that takes longer than an attempt may.
const SLOW: &str = r#"
summary = "It waits"
under_test = "agent"
[needs.dut]
[[steps]]
name = "nothing comes"
timeout = "120s"
absent = { on = "dut", deployment = "web", hold = "100s" }
"#;

struct World {
    dir: TempDir,
}

impl World {
    fn new(nightly: &str) -> Option<Self> {
        let tools = ["podman", "runc", "busybox", "nats-server"];
        tools.iter().all(|tool| installed(tool, "podman")).then_some(())?;
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("broken", BROKEN), ("power", POWER), ("slow", SLOW)] {
            std::fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
        }
        let at = dir.path().to_str().unwrap();
        let lab = format!(
            "name = \"l\"\n[[pools]]\nname = \"c\"\nbackend = \"container\"\ncount = 2\n[[nightly]]\nstart = \"00:00\"\n{}",
            nightly.replace("DIR", at)
        );
        std::fs::write(dir.path().join("lab.toml"), lab).unwrap();
        Some(Self { dir })
    }

    fn command(&self, verb: &str) -> tokio::process::Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilab"))
            .env("PILAB_STATE_DIR", self.dir.path().join("state").to_str().unwrap())
            .args(["nightly", verb, "--json", "--lab"])
            .arg(self.dir.path().join("lab.toml"))
            .build();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The exit code and standard output of `pilab nightly VERB`.
    async fn nightly(&self, verb: &str) -> (Option<i32>, String) {
        let output = timeout(PATIENCE, self.command(verb).output()).await.expect("it did not end").unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        (output.status.code(), format!("{}\n{stderr}", String::from_utf8(output.stdout).unwrap()))
    }

    fn night(&self) -> PathBuf {
        let plan = self.dir.path().join("state/nights/l/nightly");
        let nights = std::fs::read_dir(plan).into_iter().flatten().flatten().map(|entry| entry.path());
        nights.filter(|path| path.is_dir()).max().unwrap_or_default()
    }

    fn record(&self) -> Option<Record> {
        let text = std::fs::read(self.night().join("night.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[tokio::test]
async fn a_night_tells_what_was_planted() {
    let nightly = "scenarios = [\"ping\", \"DIR/broken.toml\", \"DIR/power.toml\", \"DIR/slow.toml\"]\nattempt = \"12s\"\n\
                   notify = { command = [\"/bin/cp\", \"--target-directory=DIR\"] }\n";
    let Some(world) = World::new(nightly) else { return };
    let (code, said) = world.nightly("run").await;
    assert_eq!(code, Some(1), "{said}");
    let record = world.record().unwrap();
    let verdict =
        |name: &str| record.runs.iter().find(|run| run.cell.scenario.as_str() == name).unwrap().verdict;
    let wanted = [
        ("ping", Verdict::Passed),
        ("broken", Verdict::Failed),
        ("power", Verdict::Skipped),
        ("slow", Verdict::Timeout),
    ];
    for (name, wanted) in wanted {
        assert_eq!(verdict(name), Some(wanted), "{name}: {said}");
    }
    for run in record.runs.iter().filter(|run| !run.attempts.is_empty()) {
        assert_eq!(run.tried.len(), run.attempts.len());
        let last: Vec<_> = run.devices.iter().map(|used| used.device.clone()).collect();
        assert_eq!(run.tried.last(), Some(&last));
    }
    assert!(record.ended_ms.is_some() && !record.is_green());
    let page = read(&world.night().join("index.html"));
    for words in
        ["4 runs: 1 passed, 1 failed, 1 timeout, 1 skipped", "hello:2) is not running", "lacks: power"]
    {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    let junit = read(&world.night().join("junit.xml"));
    assert!(junit.contains("tests=\"4\" skipped=\"1\" failures=\"1\" errors=\"1\""), "{junit}");
    assert_eq!(read(&world.dir.path().join("index.html")), page, "the program was told of the page");
    let (code, said) = world.nightly("last").await;
    assert!(code == Some(1) && said.contains("\"died\":false"), "{said}");
    let (code, said) = world.nightly("plan").await;
    assert!(code == Some(0) && said.contains("lacks: power"), "{said}");
    let left = std::fs::read_dir(world.dir.path().join("state/instances")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "a lab is left");
}

#[tokio::test]
async fn a_bundle_that_cannot_be_had_is_lost_evidence() {
    let Some(world) = World::new("scenarios = [\"ping\"]\n") else { return };
    let night = world.command("run").spawn().unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.record().is_none() {
        assert!(tokio::time::Instant::now() < deadline, "the night has not begun");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::write(world.night().join("bundles"), "in the way").unwrap();
    let ended = timeout(PATIENCE, night.wait_with_output()).await.expect("it did not end").unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    let record = world.record().unwrap();
    assert_eq!(record.runs[0].verdict, Some(Verdict::Passed), "evidence changes no verdict: {said}");
    assert!(record.runs[0].lost.is_some(), "{record:?}");
    let page = read(&world.night().join("index.html"));
    assert!(page.contains("the evidence of ping is lost: "), "{page}");
    assert_eq!((ended.status.code(), world.nightly("last").await.0), (Some(4), Some(4)), "{said}");
}

#[tokio::test]
async fn a_night_that_was_killed_is_told_and_the_next_one_tells_that_nights_were_missed() {
    let Some(world) = World::new("scenarios = [\"ping\", \"DIR/slow.toml\"]\n") else { return };
    let mut killed = world.command("run").spawn().unwrap();
    let done = async {
        while !world.record().is_some_and(|night| night.runs.iter().any(|run| run.verdict.is_some())) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, done).await.unwrap();
    killed.kill().await.unwrap();
    let (code, said) = world.nightly("last").await;
    assert!(code == Some(4) && said.contains("\"died\":true"), "{code:?}: {said}");
    let page = read(&world.night().join("index.html"));
    assert!(page.contains("not ended"), "{page}");
    // Four days later, as far as the record tells.
    let mut record = world.record().unwrap();
    record.began_ms -= 4 * 24 * 3600 * 1000;
    std::fs::write(world.night().join("night.json"), serde_json::to_vec(&record).unwrap()).unwrap();
    let (code, said) = world.nightly("last").await;
    assert_eq!(code, Some(4), "{said}");
    let last: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(last["missed_since"].as_array().unwrap().len(), 3, "{said}");
    let lab = world.dir.path().join("lab.toml");
    std::fs::write(&lab, read(&lab).replace(&format!(", \"{}/slow.toml\"", world.dir.path().display()), ""))
        .unwrap();
    let (code, said) = world.nightly("run").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ALARM: missed before it: "), "{said}");
    assert_eq!(world.record().unwrap().missed.len(), 3);
    let (code, said) = world.nightly("compare").await;
    assert!(code == Some(0) && said.contains("\"state\":\"green\""), "{said}");
}
