//! What dies in the middle of a run of containers, and what a person keeps on purpose: what is told, what is left.

use super::*;
use serde_json::Value;
use std::collections::BTreeMap;
use tokio::io::AsyncWriteExt;

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
    // The other run may have ended before.
    let shown = shows(&mut run, "\"name\":\"wait for its end\"").await;
    let pattern = format!("podman.*system service.*{}", bench.instances()[0]);
    Command::new("pkill").args(["-KILL", "-f", &pattern]).output().await.unwrap();
    let ended = end(run).await;
    let outcomes = outcomes(&(shown + &ended.stdout));
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
    // The other run may have ended before.
    let shown = shows(&mut run, "\"name\":\"wait for its end\"").await;
    let [instance] = bench.instances().try_into().unwrap();
    let agents = ["ps", "--quiet", "--filter", "label=pilab.agent-of"];
    let agents = bench.podman(&instance, &agents).await;
    let agents: Vec<&str> = ["kill"].into_iter().chain(agents.lines()).collect();
    bench.podman(&instance, &agents).await;
    let ended = end(run).await;
    let outcomes = outcomes(&(shown + &ended.stdout));
    assert!(outcomes.contains_key("used"), "{ended:?}");
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
