//! Each shipped scenario runs on each backend of the default lab, or is skipped there with a declared reason.
//! A scenario that is added must be added here.

use pilab::config::{lab, scenario};
use pilab::model::device::{Arch, Device};
use pilab::plan::place::{Placement, place};
use std::collections::BTreeMap;
use std::path::Path;

/// What containers cannot do for a scenario; empty where they run it. Virtual machines run all.
const ON_CONTAINERS: &[(&str, &str)] = &[
    ("agent-crash", "ssh"),
    ("boot", ""),
    ("deploy-lifecycle", ""),
    ("init-containers", ""),
    ("isolation", ""),
    ("nats-loss", ""),
    ("offline-boot", "ssh, reboot, persistent-state"),
    ("operator", ""),
    ("ping", ""),
    ("power-loss", "power, ssh"),
    ("rollback", ""),
    ("services", "ssh, network"),
];

fn placed(needs: &[pilab::model::scenario::Need], devices: &[Device]) -> String {
    match place(needs, devices, |_| true) {
        Placement::Granted(_) => String::new(),
        Placement::Wait => "it waits for ever".to_owned(),
        Placement::Never { cause, .. } => {
            cause.split_once(" lacks: ").map_or(cause.clone(), |(_, what)| what.to_owned())
        }
    }
}

#[test]
fn each_scenario_runs_on_each_backend_or_says_why_not() {
    let lab = lab::load(Path::new("lab/laptop.toml"), Some(Arch::Aarch64), None).unwrap();
    let machines: Vec<Device> = lab.devices.iter().map(|machine| machine.device.clone()).collect();
    let mut seen = BTreeMap::new();
    for entry in std::fs::read_dir(scenario::SCENARIO_DIR).unwrap() {
        let scenario = scenario::load(&entry.unwrap().path()).unwrap();
        let name = scenario.name.to_string();
        assert_eq!(placed(&scenario.needs, &machines), "", "{name} on virtual machines");
        seen.insert(name, placed(&scenario.needs, &lab.containers));
    }
    let declared = ON_CONTAINERS.iter().map(|(name, lacks)| ((*name).to_owned(), (*lacks).to_owned()));
    assert_eq!(seen, declared.collect());
}
