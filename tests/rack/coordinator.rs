//! Simulated boards in the lab of a real coordinator, through the program itself: from the relay to the agent's answer, what
//! faults look like in a run's record, and what a coordinator that is killed leaves.

use crate::program::{Program, end, end_within, finish, signal};
use crate::{net, turn};
use pilab::support::command::Command;
use rustix::process::Signal;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A bound for runs: a boot takes some 20 s on a quiet host.
const PATIENCE: Duration = Duration::from_secs(400);

/// A lab of these boards: name, model, and the faults of each.
fn lab(boards: &[(&str, &str, &str)]) -> Program {
    let net = net();
    let mut text =
        format!("name = \"rack{net}\"\nstagger = \"1ms\"\n[netboot]\naddress = \"10.79.{net}.1\"\n");
    for (number, (name, model, faults)) in (11_u8..).zip(boards) {
        text += &format!(
            "[[devices]]\nid = \"{name}\"\nmodel = \"{model}\"\nboot = \"netboot\"\nmin_off = \"100ms\"\n\
             mac = \"dc:a6:32:79:{net:02x}:{number:02x}\"\nserial = \"790000{number:02x}\"\naddress = \"10.79.{net}.{number}\"\n\
             [devices.simulate]\nmemory_mib = 768\nfaults = [{faults}]\n"
        );
    }
    Program::new(&text)
}

fn device(name: &str) -> String {
    format!("rack{}-{name}", net())
}

/// The kernels of this lab's boards that run: by the boards' MAC addresses, which nobody else's have.
fn kernels() -> Vec<PathBuf> {
    let mac = format!("mac=dc:a6:32:79:{:02x}:", net());
    let runs = |process: &PathBuf| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&mac)
    };
    std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).filter(runs).collect()
}

/// The namespaces of this lab's boards.
async fn wires() -> Vec<String> {
    let mac = format!("dc:a6:32:79:{:02x}:", net());
    let namespaces = Command::new("ip").args(["netns", "list"]).output().await.unwrap();
    let mut ours = Vec::new();
    for name in String::from_utf8_lossy(&namespaces).lines().filter_map(|line| line.split_whitespace().next())
    {
        // Another's may be gone by now.
        let links = Command::new("ip").args(["-n", name, "-o", "link"]).output().await.unwrap_or_default();
        if String::from_utf8_lossy(&links).contains(&mac) {
            ours.push(name.to_owned());
        }
    }
    ours
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited for {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A scenario that asks one device for nothing but its agent.
fn ping(program: &Program, name: &str, boot_timeout: &str) -> String {
    let path = program.path(&format!("{name}.toml"));
    let text = format!(
        "summary = \"x\"\nunder_test = \"agent\"\nboot_timeout = \"{boot_timeout}\"\n\
         [needs.dut]\ndevice = \"{}\"\n[[steps]]\nping = {{ on = \"dut\" }}\n",
        device(name)
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_comes_from_its_relay_to_its_agent_and_from_a_power_cut_and_nothing_is_left() {
    let Some(_turn) = turn().await else { return };
    let program = lab(&[("four", "pi4b", ""), ("five", "pi5", "")]);
    let first = program.coordinator_with(&["--simulate"]).await;
    let login = program.state().join(format!("labs/rack{}/login.json", net()));
    let login = login.to_str().unwrap();
    let run = program.spawn(&["run", "power-loss", "--json", "--login", login]);
    let run = end_within(run, PATIENCE).await.done();
    let events = run.json();
    let facts = |what: &str| events.iter().filter(|event| event["event"]["what"] == what).count();
    assert!(facts("discovered") >= 2 && facts("file_done") >= 8 && facts("layer") >= 4, "{}", run.stdout);

    let five = device("five");
    program.pilab(&["reserve", &five, "--for", "1h"]).await.done();
    program.pilab(&["power", "on", &five]).await.done();
    program
        .device_until(&five, "its kernel", |row| row["stage"] == "kernel" || row["stage"] == "initramfs")
        .await;
    assert_eq!((kernels().len(), wires().await.len()), (1, 2));
    signal(&first, Signal::KILL);
    end(first).await;
    assert_eq!((kernels().len(), wires().await.len()), (1, 2), "nobody was there to remove them");

    let second = program.coordinator_with(&["--simulate"]).await;
    until("the end of what was left", async || kernels().is_empty()).await;
    // The relay of a rack that is gone has let go.
    program
        .device_until(&five, "no power", |row| row["power"] == "off" && row["usage"]["state"] == "leased")
        .await;
    program.pilab(&["power", "on", &five]).await.done();
    program
        .device_until(&five, "its kernel", |row| row["stage"] == "kernel" || row["stage"] == "initramfs")
        .await;
    program.pilab(&["power", "off", &five]).await.done();
    until("no kernel", async || kernels().is_empty()).await;
    finish(second).await;
    until("no wires", async || wires().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_board_is_in_the_record_of_its_run() {
    let Some(_turn) = turn().await else { return };
    let program = lab(&[
        ("panics", "pi4b", "{ kind = \"kernel-panic\" }"),
        ("browns", "pi5", "{ kind = \"brown-out\", at = \"firmware\", boots = 1 }"),
        ("silent", "pi4b", "{ kind = \"no-link\" }"),
        ("stalls", "pi4b", "{ kind = \"rom-stall\", at = \"vmlinuz\" }"),
        ("heals", "pi5", "{ kind = \"rom-stall\", at = \"vmlinuz\", boots = 1 }"),
    ]);
    let coordinator = program.coordinator_with(&["--simulate"]).await;
    let login = program.state().join(format!("labs/rack{}/login.json", net()));
    let login = login.to_str().unwrap();
    let files =
        [("panics", "120s"), ("browns", "180s"), ("silent", "45s"), ("stalls", "60s"), ("heals", "180s")]
            .map(|(name, timeout)| ping(&program, name, timeout));
    let mut args = vec!["run"];
    args.extend(files.iter().map(String::as_str));
    args.extend(["--json", "--login", login]);
    let run = end_within(program.spawn(&args), PATIENCE).await;
    let events = run.json();
    let of = |name: &str| {
        let device = device(name);
        events.iter().filter(move |event| event["device"] == device.as_str()).collect::<Vec<&Value>>()
    };
    let verdict = |name: &str| {
        let is_its = |event: &&Value| {
            event["kind"] == "ended" && event["run"].as_str().is_some_and(|run| run.starts_with(name))
        };
        let ended =
            events.iter().find(is_its).unwrap_or_else(|| panic!("{name} has no end:\n{}", run.stdout));
        ended["outcome"]["verdict"].as_str().unwrap().to_owned()
    };
    let has = |name: &str, key: &str, value: &str| {
        of(name).iter().any(|event| event[key] == value || event["event"][key] == value)
    };
    assert_eq!(verdict("panics"), "lab", "the kernel is ours");
    assert!(has("panics", "stage", "panic"));
    assert_eq!(verdict("browns"), "passed");
    let boots = of("browns").iter().filter_map(|event| event["boot"].as_u64()).max();
    assert_eq!(boots, Some(2), "it began anew by itself");
    let stalled = |name: &str, words: &str| {
        of(name).iter().any(|event| {
            event["event"]["event"] == "boot_stalled"
                && event["event"]["at"].as_str().is_some_and(|at| at.contains(words))
        })
    };
    assert_ne!(verdict("silent"), "passed");
    assert!(has("silent", "stage", "bootloader") && !has("silent", "what", "discovered"));
    assert!(stalled("silent", "DISCOVER"), "{:?}", of("silent"));
    assert_ne!(verdict("stalls"), "passed");
    assert!(stalled("stalls", "vmlinuz") && !has("stalls", "stage", "kernel"), "{:?}", of("stalls"));
    // What stands still once is cured by cutting its power.
    assert_eq!(verdict("heals"), "passed");
    assert!(stalled("heals", "vmlinuz"), "{:?}", of("heals"));
    let attempts = of("heals").iter().filter_map(|event| event["attempt"].as_u64()).max();
    assert_eq!(attempts, Some(2));
    finish(coordinator).await;
}
