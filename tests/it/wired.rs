//! Real devices in a lab, through the program itself: a simulated switch, a pseudo terminal, a real nats-server.

use crate::agent::lab::installed;
use pilab::config::{lab, scenario};
use pilab::model::device::Backend;
use pilab::plan::place::{Placement, place};
use pilab::sim::{Plug, PlugKind, PlugOptions, PtyLine};
use pilab::support::command::Command;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(60);

/// A file beside a password file as the documents have it.
fn write(dir: &Path, text: &str) -> std::path::PathBuf {
    let (path, secret) = (dir.join("lab.toml"), dir.join("plug.password"));
    std::fs::write(&path, text).unwrap();
    std::fs::write(&secret, "joker\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn what_the_document_shows_can_be_loaded() {
    let document = std::fs::read_to_string("docs/wiring.md").unwrap();
    let blocks = document.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let lab = lab::load(&write(dir.path(), &blocks.collect::<String>()), None, None);
    let lab = lab.unwrap_or_else(|error| panic!("{error}"));
    let ids: Vec<_> = lab.wired.iter().map(|wired| wired.device.id.as_str()).collect();
    assert_eq!(ids, ["rack-pi-1", "rack-pi-2", "rack-pi-3", "rack-pi-4"]);
}

#[test]
fn no_scenario_is_run_on_what_cannot_be_booted() {
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

#[tokio::test]
async fn a_lab_of_real_devices_starts_and_says_what_it_cannot_do() {
    if !installed("nats-server", "podman") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let options = PlugOptions { kind: PlugKind::ShellyGen1, relays: 1, password: None };
    let plug = Plug::start(options, &tracker, token.clone()).await.unwrap();
    let tty = dir.path().join("usb-port0");
    let _line = PtyLine::plug(&tty).unwrap();
    let text = format!(
        "name = \"rack\"\n[[devices]]\nid = \"pi-1\"\nmodel = \"pi4b\"\nconsole = {{ tty = {tty:?} }}\n\
         power = {{ driver = \"http\", kind = \"shelly-gen1\", url = \"{}\" }}\n",
        plug.base()
    );
    let lab = write(dir.path(), &text);
    assert_eq!(lab::load(&lab, None, None).unwrap().backend(None), Some(Backend::Pi));
    let command = Command::new(env!("CARGO_BIN_EXE_pilab"))
        .env("PILAB_STATE_DIR", dir.path().join("state").to_str().unwrap())
        .args(["run", "ping", "--json", "--bundle"])
        .arg(dir.path().join("bundles"))
        .arg("--lab")
        .arg(&lab);
    let output = tokio::time::timeout(PATIENCE, command.build().output()).await.expect("it ends").unwrap();
    let said =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("rack-pi-1 (a pi) lacks: boot"), "{said}");
    // The switch was asked, and nothing was switched.
    let requests = plug.take_requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| request == "GET /relay/0"), "{requests:?}");
    let left = std::fs::read_dir(dir.path().join("state/instances")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "an instance is left");
    token.cancel();
}
