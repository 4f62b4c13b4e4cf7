//! A whole night, unattended, over the virtual rack and a virtual machine, with planted faults: it ends, its page and its JUnit say
//! what was planted, and nothing is left running.

use crate::program::{Program, end_within, finish};
use crate::{net, turn};
use pilab::support::command::Command;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// A bound for a night of some 40 s on a quiet host.
const PATIENCE: Duration = Duration::from_secs(400);

/// What is planted: the scenario's name, whether a virtual machine runs it, its device, what it tests and does, and what is told.
struct Planted {
    name: &'static str,
    on: &'static str,
    under_test: &'static str,
    boot_timeout: &'static str,
    steps: &'static str,
    verdict: &'static str,
    page: &'static str,
}

const PING: &str = "[[steps]]\nping = { on = \"dut\" }\n";
const WRONG: &str = "[[steps]]\nput_raw = { on = \"dut\", deployment = \"web\", payload = \"{}\" }\n\
    [[steps]]\ntimeout = \"60s\"\nwait_phase = { on = \"dut\", deployment = \"web\", phase = \"Running\" }\n";

fn planted(on: &'static str, verdict: &'static str, page: &'static str) -> Planted {
    Planted { name: on, on, under_test: "agent", boot_timeout: "180s", steps: PING, verdict, page }
}

/// Whether virtual machines are to be had.
fn has_machines() -> bool {
    std::env::var_os("PILAB_VM_E2E").is_some_and(|asked| !asked.is_empty())
}

/// All processes whose command line says this.
fn processes(word: &str) -> Vec<PathBuf> {
    let says = |process: &PathBuf| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    };
    std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).filter(says).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_night_over_rack_and_machine_tells_what_was_planted_and_leaves_nothing() {
    let Some(_turn) = turn().await else { return };
    let net = net();
    let machines = has_machines();
    let mut runs = vec![
        planted("good", "passed", "good"),
        Planted { name: "wrong", on: "good", steps: WRONG, ..planted("good", "failed", "MalformedDesired") },
        Planted { boot_timeout: "90s", ..planted("panics", "lab", "Kernel panic") },
        Planted { boot_timeout: "45s", ..planted("unplugged", "timeout", "no DISCOVER") },
        planted("absent", "skipped", "cm4"),
    ];
    if machines {
        runs.push(planted("machine", "passed", "machine"));
    }
    let mut lab = format!("name = \"night{net}\"\nstagger = \"1ms\"\n");
    let boards = [
        ("good", "pi4b", ""),
        ("panics", "pi5", "{ kind = \"kernel-panic\" }"),
        ("unplugged", "pi4b", "{ kind = \"no-link\" }"),
    ];
    let names: Vec<String> = runs.iter().map(|run| format!("\"DIR/{}.toml\"", run.name)).collect();
    lab += &format!(
        "[[nightly]]\nscenarios = [{}]\nstart = \"00:00\"\nretries = {{ device = 1, lab = 1 }}\n",
        names.join(", ")
    );
    if machines {
        lab += "[[pools]]\nname = \"vm\"\nbackend = \"vm\"\ncount = 1\n";
    }
    lab += &format!("[netboot]\naddress = \"10.85.{net}.1\"\n");
    for (number, (name, model, faults)) in (11_u8..).zip(boards) {
        lab += &format!(
            "[[devices]]\nid = \"{name}\"\nmodel = \"{model}\"\nboot = \"netboot\"\nmin_off = \"100ms\"\n\
             mac = \"dc:a6:32:85:{net:02x}:{number:02x}\"\nserial = \"850000{number:02x}\"\naddress = \"10.85.{net}.{number}\"\n\
             [devices.simulate]\nmemory_mib = 768\nfaults = [{faults}]\n"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap().to_owned();
    let program = Program::within(dir, &lab.replace("DIR", &place));
    for Planted { name, on, under_test, boot_timeout, steps, .. } in &runs {
        let need = match *on {
            "machine" => "model = \"vm-aarch64\"".to_owned(),
            "absent" => "model = \"cm4\"".to_owned(),
            board => format!("device = \"night{net}-{board}\""),
        };
        let text = format!(
            "summary = \"x\"\nunder_test = \"{under_test}\"\nboot_timeout = \"{boot_timeout}\"\n[needs.dut]\n{need}\n{steps}"
        );
        std::fs::write(program.path(&format!("{name}.toml")), text).unwrap();
    }

    let coordinator = program.coordinator_with(&["--simulate"]).await;
    let lab = program.lab.to_str().unwrap();
    let night = end_within(program.spawn(&["nightly", "run", "--json", "--lab", lab]), PATIENCE).await;
    assert_eq!(night.code, Some(1), "{}\n{}", night.stdout, night.stderr);
    let kept = program.state().join(format!("nights/night{net}/nightly"));
    let kept = std::fs::read_dir(kept).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir());
    let kept = kept.expect("no night is kept");
    let read = |name: &str| std::fs::read_to_string(kept.join(name)).unwrap();
    let (page, junit) = (read("index.html"), read("junit.xml"));
    let record: Value = serde_json::from_str(&read("night.json")).unwrap();
    let of = |name: &str| {
        let all = record["runs"].as_array().unwrap();
        all.iter().find(|run| run["scenario"] == name).unwrap_or_else(|| panic!("no {name}: {record:#}"))
    };
    for Planted { name, verdict, page: words, .. } in &runs {
        let run = of(name);
        assert_eq!(run["verdict"], *verdict, "{name}: {run:#}");
        assert!(page.contains(words), "{words} is not on the page of {name}: {run:#}");
        assert!(junit.contains(name), "{name} is not in\n{junit}");
    }
    // What is wrong with the product is not tried until it passes.
    assert_eq!(of("wrong")["attempts"], serde_json::json!(["failed"]));
    assert_eq!(of("panics")["attempts"], serde_json::json!(["lab", "lab"]));
    assert!(record["ended_ms"].is_number());

    finish(coordinator).await;
    let cards = format!("dc:a6:32:85:{net:02x}:");
    assert_eq!((processes(&place), processes(&cards)), (Vec::<PathBuf>::new(), Vec::<PathBuf>::new()));
    let namespaces = Command::new("ip").args(["netns", "list"]).output().await.unwrap();
    for name in String::from_utf8_lossy(&namespaces).lines().filter_map(|line| line.split_whitespace().next())
    {
        let links = Command::new("ip").args(["-n", name, "-o", "link"]).output().await.unwrap_or_default();
        assert!(!String::from_utf8_lossy(&links).contains(&cards), "{name} is left");
    }
    if machines {
        let domains = Command::new("virsh").args(["list", "--all", "--name"]).output().await.unwrap();
        let domains = String::from_utf8_lossy(&domains).into_owned();
        assert!(!domains.contains(&format!("night{net}-")), "{domains}");
    }
    let left = std::fs::read_dir(program.state().join("instances")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the lab has left something");
}
