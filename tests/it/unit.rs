//! The systemd units, judged by systemd itself, and what a device of the lab adds to the agent's.

use pilab::support::command::Command;
use std::path::Path;

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/pilab-agent.service");
const LAB: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/firmware/layer/etc/systemd/system/pilab-agent.service.d/lab.conf");
const COORDINATOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/pilab-coordinator.service");
const NIGHTLY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/pilab-nightly.service");
const TIMER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/pilab-nightly.timer");
/// systemd's own scale of 0 to 10; what it calls OK ends at 5.0.
const MOST: f64 = 4.0;
const COORDINATOR_MOST: f64 = 6.0;

/// systemd's exposure level of a unit file.
async fn exposure(unit: &Path) -> Option<f64> {
    if !crate::agent::lab::installed("systemd-analyze", "vm") {
        return None;
    }
    let judge = Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(unit);
    let said = String::from_utf8(judge.build().output().await.unwrap().stdout).unwrap();
    let line = said.lines().find(|line| line.contains("Overall exposure level")).expect(&said);
    let words = line.split_once(": ").unwrap().1;
    Some(words.split_whitespace().next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn it_is_little_exposed_by_hand_and_in_the_lab() {
    let dir = tempfile::tempdir().unwrap();
    let merged = dir.path().join("pilab-agent.service");
    // The lab's lines after the unit's, as systemd reads a drop-in.
    let both = [UNIT, LAB].map(|path| std::fs::read_to_string(path).unwrap()).join("\n");
    std::fs::write(&merged, both).unwrap();
    // What makes containers and talks to libvirt needs more than the agent, which only asks podman to.
    let (coordinator, nightly) = (Path::new(COORDINATOR), Path::new(NIGHTLY));
    for (unit, most) in [
        (Path::new(UNIT), MOST),
        (&merged, MOST),
        (coordinator, COORDINATOR_MOST),
        (nightly, COORDINATOR_MOST),
    ] {
        let Some(level) = exposure(unit).await else { return };
        assert!(level <= most, "{}: {level} is more than {most}", unit.display());
    }
}

#[tokio::test]
async fn the_timer_begins_a_night_at_its_time_and_makes_up_for_one_that_was_missed() {
    let timer = std::fs::read_to_string(TIMER).unwrap();
    let value = |key: &str| timer.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    assert_eq!(value("Persistent="), "true");
    if !crate::agent::lab::installed("systemd-analyze", "vm") {
        return;
    }
    let mut read = Command::new("systemd-analyze").args(["calendar", value("OnCalendar=")]).build();
    let read = read.output().await.unwrap();
    let said = String::from_utf8_lossy(&read.stdout).into_owned();
    assert!(read.status.success() && said.contains("*-*-* 22:30:00 UTC"), "{said}");
}
