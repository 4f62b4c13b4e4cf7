//! Starts from saved memory, through the program: what a lease finds, what a save holds, and what becomes of bad ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::pilab::{Bench, Ended, domains};
use serde_json::Value;
use std::path::{Path, PathBuf};

const PLANTED: &str = "PLANTED-BY-THE-LAST-HOLDER";
/// What begins or stands in a secret: a private key, an nkeys seed, a user JWT, a boot ticket.
const SECRETS: [&str; 5] = [
    "BEGIN OPENSSH PRIVATE KEY-----\nb3",
    "BEGIN USER NKEY SEED-----\nSU",
    "eyJ0eXAi",
    "pilab.ticket=",
    PLANTED,
];

/// The events of a run's devices.
fn events(ended: &Ended) -> Vec<Value> {
    let lines = ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line.get("event").cloned()).collect()
}

/// How the one device of a run was started: the event that says it.
fn start(ended: &Ended) -> Value {
    let events = events(ended);
    let mut starts =
        events.iter().filter(|event| ["woken", "cold_start"].contains(&event["event"].as_str().unwrap()));
    let start = starts.next().unwrap_or_else(|| panic!("no word of a start:\n{}", ended.stdout)).clone();
    assert!(starts.next().is_none(), "{}", ended.stdout);
    start
}

fn is_warm(ended: &Ended, saved: bool) {
    let start = start(ended);
    assert!(start["event"] == "woken" && start["saved"] == saved, "{start}");
}

/// What devices have said of themselves on their consoles, as `word=` and a value.
fn said(bench: &Bench, word: &str) -> Vec<String> {
    let bundles = std::fs::read_dir(bench.path("bundles")).unwrap().flatten();
    let consoles = bundles.map(|run| std::fs::read(run.path().join("console/laptop-vm-1.log")).unwrap());
    let consoles = consoles.map(|console| String::from_utf8_lossy(&console).into_owned());
    let value =
        |text: &str| text.chars().take_while(|c| c.is_ascii_hexdigit() || *c == '-').collect::<String>();
    let find = |console: String| console.split_once(&format!("{word}=")).map(|(_, after)| value(after));
    consoles.filter_map(find).filter(|value| value.len() >= 32).collect()
}

/// The saves of this place: the files of this kind.
fn saves(bench: &Bench, kind: &str) -> Vec<PathBuf> {
    let slots = std::fs::read_dir(bench.path("state/warm")).unwrap().flatten();
    let files = slots.flat_map(|slot| std::fs::read_dir(slot.path()).unwrap().flatten());
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|is| is == kind)).collect()
}

fn holds(file: &Path, what: &str) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

#[tokio::test]
async fn every_lease_starts_from_the_same_memory_and_no_save_holds_a_secret() {
    let Some(bench) = Bench::new().await else { return };
    let first = bench.run(&["tests/vm/scenarios/planted.toml", "--json"]).await.exits(0);
    is_warm(&first, true);
    let [save] = saves(&bench, "save").try_into().unwrap();
    let one = bench.run(&["tests/vm/scenarios/fresh.toml", "--json"]).await.exits(0);
    let other = bench.run(&["tests/vm/scenarios/fresh.toml", "--json"]).await.exits(0);
    for run in [&one, &other] {
        is_warm(run, false);
    }
    for word in ["told boot", " machine", " random"] {
        let said = said(&bench, word);
        assert!(said.len() == 2 && said[0] != said[1], "{word}: {said:?}");
    }
    // Named in the memory of what waits; else nothing was looked through.
    assert!(holds(&save, "what makes the device"), "the save does not hold what it must");
    for secret in SECRETS {
        assert!(!holds(&save, secret), "the save holds {secret:?}");
    }
    let cold = bench.run(&["ping", "--cold", "--json"]).await.exits(0);
    assert_eq!(start(&cold)["cause"], "a cold start was asked for");
    let cold = bench.run(&["boot", "--json"]).await.exits(0);
    assert_eq!(start(&cold)["cause"], "the image is under test");
    bench.is_clean().await;
}

#[tokio::test]
async fn a_bad_save_is_thrown_away_and_made_anew() {
    let Some(bench) = Bench::new().await else { return };
    is_warm(&bench.run(&["ping", "--json"]).await.exits(0), true);
    let [save] = saves(&bench, "save").try_into().unwrap();

    // Cut short: seen before it is used.
    let length = std::fs::metadata(&save).unwrap().len();
    std::fs::File::options().write(true).open(&save).unwrap().set_len(length / 2).unwrap();
    let damaged = bench.run(&["ping", "--json"]).await.exits(0).says("its file is not what was saved");
    is_warm(&damaged, true);

    // As it should be to all appearance, and of no use to QEMU: the device boots, and the run says why.
    let record = saves(&bench, "json").pop().unwrap();
    let mut known: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    std::fs::write(&save, "not memory").unwrap();
    let meta = std::fs::metadata(&save).unwrap();
    use std::os::unix::fs::MetadataExt;
    known["seen"] = serde_json::json!({ "size": meta.size(), "modified": [meta.mtime(), meta.mtime_nsec()], "inode": meta.ino() });
    std::fs::write(&record, serde_json::to_vec(&known).unwrap()).unwrap();
    let foreign = bench.run(&["ping", "--json"]).await.exits(0);
    assert!(
        start(&foreign)["cause"].as_str().unwrap().starts_with("cannot restore domain"),
        "{}",
        start(&foreign)
    );
    assert_eq!(saves(&bench, "save"), Vec::<PathBuf>::new());
    bench.is_clean().await;
}

#[tokio::test]
async fn a_save_that_is_killed_leaves_nothing_that_looks_finished() {
    let Some(bench) = Bench::new().await else { return };
    let call = bench.start(&["ping"]);
    let killed = bench.booting().await;
    call.signal("KILL").await;
    assert_eq!(call.end().await.code, None);
    assert_eq!(saves(&bench, "json"), Vec::<PathBuf>::new());
    let part = bench.path("state/warm").join(format!("pilab-{killed}-laptop-vm-1")).join("left.part");
    std::fs::write(&part, PLANTED).unwrap();
    // Sweeps the lab that was killed, under another number.
    bench.run(&["ping", "--cold"]).await.exits(0);
    assert!(!domains().await.contains(&killed), "{}", domains().await);
    is_warm(&bench.run(&["ping", "--json"]).await.exits(0), true);
    assert!(!part.exists() && saves(&bench, "json").len() == 1);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_machine_that_was_not_woken_does_not_outlive_its_coordinator() {
    let Some(bench) = Bench::new().await else { return };
    let device = "laptop-vm-1";
    let first = bench.coordinator().await;
    bench.call("reserve", &[device, "--for", "1h"]).await.exits(0);
    let on = ["on", device];
    tokio::select! {
        done = bench.call("power", &on) => panic!("it was on before it was killed: {}", done.stdout),
        () = bench.device(device, "the boot that is to be saved", |row| !row["stage"].is_null()) => {}
    }
    first.signal("KILL").await;
    first.end().await;
    assert!(domains().await.contains(&format!("-lab-laptop-{device}")), "{}", domains().await);
    let second = bench.coordinator().await;
    bench.device(device, "its power", |row| row["power"] == "off" && row["usage"]["state"] == "leased").await;
    assert!(!domains().await.contains("-lab-laptop-"), "{}", domains().await);
    second.signal("TERM").await;
    second.end().await.exits(0);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_save_that_may_take_no_room_is_not_made_and_the_device_boots() {
    let Some(bench) = Bench::new().await else { return };
    let text = std::fs::read_to_string("lab/laptop.toml").unwrap();
    let (lab, bounded) = (bench.path("bounded.toml"), format!("warm_disk_mib = 20\n{text}"));
    std::fs::write(&lab, bounded).unwrap();
    let run = bench.run(&["ping", "--json", "--lab", lab.to_str().unwrap()]).await.exits(0);
    let start = start(&run);
    assert!(start["cause"].as_str().unwrap().ends_with("MiB, and 20 MiB is the most"), "{start}");
    assert_eq!(saves(&bench, "save"), Vec::<PathBuf>::new());
    bench.is_clean().await;
}
