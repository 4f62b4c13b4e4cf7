//! Lab files of real devices: what the documents show, what is shipped, what `pilab check` says.

use super::PATIENCE;
use pilab::config::wiring::kernel_keeps;
use pilab::config::{lab, scenario};
use pilab::plan::place::{Placement, place};
use pilab::support::command::Command;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::time::timeout;

/// A file beside a password file as the documents have it.
pub(super) fn write(dir: &Path, text: &str) -> std::path::PathBuf {
    let (path, secret) = (dir.join("lab.toml"), dir.join("plug.password"));
    std::fs::write(&path, text).unwrap();
    std::fs::write(&secret, "joker\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn what_the_document_shows_can_be_loaded() {
    let document = std::fs::read_to_string("docs/wiring.md").unwrap();
    let (scenarios, blocks): (Vec<_>, Vec<_>) = document
        .split("```toml\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .partition(|block| block.contains("[[steps]]"));
    let dir = tempfile::tempdir().unwrap();
    let mut text = blocks.concat();
    if kernel_keeps() {
        // The document speaks of Debian's kernels.
        text = text.replace("\"releases\"", "\"holds\"");
    }
    let lab = lab::load(&write(dir.path(), &text), None, None);
    let lab = lab.unwrap_or_else(|error| panic!("{error}"));
    let ids: Vec<_> = lab.wired.iter().map(|wired| wired.device.id.as_str()).collect();
    assert_eq!(ids, ["rack-pi-1", "rack-pi-2", "rack-pi-3", "rack-pi-4", "rack-pi-5", "rack-pi-6"]);
    let path = dir.path().join("shown.toml");
    std::fs::write(&path, scenarios[0]).unwrap();
    let shown = scenario::load(&path).unwrap();
    let devices: Vec<_> = lab.wired.into_iter().map(|wired| wired.device).collect();
    let placed = place(&shown.needs, &devices, |_| true);
    assert_eq!((scenarios.len(), placed), (1, Placement::Granted(vec![devices[0].id.clone()])));
}

#[test]
fn the_example_of_a_rack_can_be_loaded() {
    let mut text = std::fs::read_to_string("lab/rack.example.toml").unwrap();
    if kernel_keeps() {
        // The example is for Debian's kernels.
        text = text.replace("\"releases\"", "\"holds\"");
    }
    let dir = tempfile::tempdir().unwrap();
    let rack = lab::load(&write(dir.path(), &text), None, None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((rack.wired.len(), rack.netbooted().count(), rack.devices.len()), (8, 7, 2));
    let settings = std::fs::read_to_string("firmware/pi/boot.conf").unwrap();
    let document = std::fs::read_to_string("docs/rack.md").unwrap();
    for line in settings.lines().filter(|line| line.contains('=') && !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap();
        let told = document.lines().any(|row| row.contains(name) && row.contains(value));
        let unexplained =
            ["NET_BOOT_MAX_RETRIES", "MAX_RESTARTS", "DISABLE_HDMI", "POWER_OFF_ON_HALT", "WAKE_ON_GPIO"];
        assert!(told || unexplained.contains(&name), "docs/rack.md says something else of {line}");
    }
}

#[tokio::test]
async fn a_lab_file_is_checked_alone() {
    let dir = tempfile::tempdir().unwrap();
    let lab = |second: &str| {
        let board = |id: &str, kind: &str, url: &str| {
            format!(
                "[[devices]]\nid = \"{id}\"\nmodel = \"pi4b\"\n\
                 power = {{ driver = \"http\", kind = \"{kind}\", url = \"{url}\" }}\n"
            )
        };
        let boards = [board("a", "tasmota", "http://10.0.0.22"), board("b", "shelly-gen1", second)];
        write(dir.path(), &format!("name = \"rack\"\n{}", boards.concat()))
    };
    let check = async |lab: &Path| {
        let command = Command::new(env!("CARGO_BIN_EXE_pilab")).args(["check", "--lab"]).arg(lab);
        let output = timeout(PATIENCE, command.build().output()).await.expect("it ends").unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).replace(dir.path().to_str().unwrap(), ""))
    };
    let shown = "/lab.toml: lab rack, devices: 2\n\
                 rack-a (pi4b): console: none, power: http://10.0.0.22 switch 1\n\
                 rack-b (pi4b): console: none, power: http://10.0.0.23 switch 0\n";
    assert_eq!(check(&lab("http://10.0.0.23")).await, (Some(0), shown.to_owned()));
    let wrong = "error: /lab.toml:9: devices[1].power: rack-b has the power of rack-a (line 5): http://10.0.0.22 switch 0\n";
    let (code, said) = check(&lab("http://10.0.0.22/")).await;
    assert_eq!(code, Some(2));
    assert!(said.starts_with(wrong), "{said}");
}

#[test]
fn no_shipped_scenario_is_run_on_what_cannot_be_booted() {
    let dir = tempfile::tempdir().unwrap();
    let text = "name = \"l\"\n[[devices]]\nid = \"pi\"\nmodel = \"pi4b\"\nconsole = { unix = \"/run/x\" }\n\
                power = { driver = \"command\", on = [\"x\"], off = [\"y\"] }\n";
    let lab = lab::load(&write(dir.path(), text), None, None).unwrap();
    let devices: Vec<_> = lab.wired.into_iter().map(|wired| wired.device).collect();
    for entry in std::fs::read_dir(scenario::SCENARIO_DIR).unwrap() {
        let scenario = scenario::load(&entry.unwrap().path()).unwrap();
        let placed = place(&scenario.needs[..1], &devices, |_| true);
        let Placement::Never { cause, .. } = placed else { panic!("{}: {placed:?}", scenario.name) };
        assert!(cause.starts_with("it takes what no device here can do; l-pi (a pi) lacks: boot"), "{cause}");
    }
}
