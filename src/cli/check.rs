//! `pilab check`: reads files and says everything that is wrong, not only the first thing.

use super::args::CheckArgs;
use super::error::CliError;
use super::exit::Exit;
use super::ui::Ui;
use crate::config;
use crate::config::lab::Lab;
use crate::config::scenario::SCENARIO_DIR;
use crate::config::wiring::WiredDevice;
use crate::model::device::Device;
use crate::model::scenario::{Need, Scenario};
use crate::model::wiring::PowerSwitch;
use crate::support::chain::Chain;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Where lab files are looked for when none is named.
const LAB_DIR: &str = "lab";

/// What became of one file, as JSON.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    file: &'a Path,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// Reads all files.
pub fn check(args: &CheckArgs, ui: Ui) -> Result<Exit, CliError> {
    let files = if args.files.is_empty() && args.lab.is_none() { shipped() } else { named(&args.files) };
    let lab = args.lab.iter().map(|path| Ok(path.clone()));
    let against = args.lab.as_ref().and_then(|path| config::lab::load(path, None, None).ok());
    let mut exit = Exit::Ok;
    for file in lab.chain(files) {
        let (path, looked) = match file {
            Ok(path) => {
                let looked = look(&path, against.as_ref());
                (path, looked)
            }
            Err((path, error)) => (path, Err(error)),
        };
        if let Err(error) = &looked {
            exit = exit.max(error.exit());
        }
        match looked {
            looked if args.json.json => ui.json(&as_json(&path, &looked))?,
            Ok(lines) => ui.data(&lines)?,
            Err(error) => ui.error(&error),
        }
    }
    Ok(exit)
}

fn as_json<'a>(file: &'a Path, looked: &'a Result<String, CliError>) -> Checked<'a> {
    let error = looked.as_ref().err();
    let config = error.and_then(|error| match error {
        CliError::Config(error) => Some(error),
        _ => None,
    });
    Checked {
        file,
        ok: error.is_none(),
        line: config.and_then(|error| error.line()),
        key: config.and_then(|error| error.key()),
        error: error.map(|error| Chain(error).to_string()),
        hint: error.and_then(CliError::hint),
    }
}

/// The file, or the name that is none and why.
type Named = Result<PathBuf, (PathBuf, CliError)>;

fn named(names: &[String]) -> Vec<Named> {
    let find =
        |name: &String| config::scenario::find(name).map_err(|error| (PathBuf::from(name), error.into()));
    names.iter().map(find).collect()
}

/// All files of the places where files are.
fn shipped() -> Vec<Named> {
    let mut all = Vec::new();
    for dir in [LAB_DIR, SCENARIO_DIR] {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        all.extend(entries.filter(|path| path.extension().is_some_and(|ext| ext == "toml")));
    }
    all.sort();
    if all.is_empty() {
        let what = format!("there is no file in {LAB_DIR} and {SCENARIO_DIR}");
        let hint = Some("name one, or work in the directory that holds lab/".to_owned());
        return vec![Err((PathBuf::from(LAB_DIR), CliError::Usage { what, hint }))];
    }
    all.into_iter().map(Ok).collect()
}

/// What there is to say of a file that is right.
fn look(path: &Path, against: Option<&Lab>) -> Result<String, CliError> {
    if is_lab(path) {
        let lab = config::lab::load(path, None, None)?;
        let devices = lab.devices.len() + lab.containers.len() + lab.wired.len();
        let head = format!("{}: lab {}, devices: {devices}\n", path.display(), lab.name);
        return Ok(lab.wired.iter().fold(head, |text, wired| text + &wiring(wired)));
    }
    let scenarios = config::scenario::load_all(path)?;
    for (scenario, lab) in scenarios.iter().zip(against.iter().cycle()) {
        if let Some(need) = scenario.needs.iter().find(|need| !devices(lab).any(|device| meets(need, device)))
        {
            let what = format!(
                "{}: needs.{}: no device of lab {} is such a device and can do what the steps on it take",
                path.display(),
                need.role,
                lab.name
            );
            let hint = Some("ask for less, add such a device to the lab, or name another lab".to_owned());
            return Err(CliError::Usage { what, hint });
        }
    }
    Ok(scenarios.iter().map(described).collect())
}

/// A lab file says which devices there are; a scenario has none of its keys.
fn is_lab(path: &Path) -> bool {
    let keys = ["pools", "devices", "nightly", "leases"];
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.parse::<toml::Table>().is_ok_and(|table| keys.iter().any(|key| table.contains_key(*key)))
}

fn devices(lab: &Lab) -> impl Iterator<Item = &Device> {
    let machines = lab.devices.iter().map(|machine| &machine.device);
    machines.chain(&lab.containers).chain(lab.wired.iter().map(|wired| &wired.device))
}

fn meets(need: &Need, device: &Device) -> bool {
    need.device.as_ref().is_none_or(|id| *id == device.id)
        && device.is_kind(need.model, &need.labels)
        && need.capabilities.is_subset(&device.capabilities)
}

/// A real device and where its wires lead, to be compared with the rack.
fn wiring(wired: &WiredDevice) -> String {
    let WiredDevice { device, console, power, simulation, .. } = wired;
    if simulation.is_some() {
        return format!("{} ({}): simulated\n", device.id, device.model);
    }
    let console = console.as_ref().map_or("none".to_owned(), ToString::to_string);
    let released = match power {
        PowerSwitch::Gpio(gpio) => format!(", when nobody drives the pin: {}", gpio.released()),
        _ => String::new(),
    };
    format!("{} ({}): console: {console}, power: {power}{released}\n", device.id, device.model)
}

fn described(scenario: &Scenario) -> String {
    let Scenario { name, summary, needs, steps, .. } = scenario;
    format!("{name}: {summary} (devices: {}, steps: {})\n", needs.len(), steps.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, against: Option<&Lab>) -> serde_json::Value {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("try.toml");
        std::fs::write(&path, text).unwrap();
        serde_json::to_value(as_json(&path, &look(&path, against))).unwrap()
    }

    #[test]
    fn each_mistake_is_told_with_line_key_and_what_to_do() {
        let head = "summary = \"s\"\nunder_test = \"agent\"\n[needs.dut]\n[[steps]]\n";
        let ping = "ping = { on = \"dut\" }\n";
        let table = [
            (format!("{head}pnig = 1\n"), 5, None, "correct the word"),
            (format!("{head}{ping}timeout = \"0s\"\n"), 4, Some("steps[0].timeout"), "such as \"30s\""),
            (
                format!("{head}console = {{ on = \"dut\", pattern = \"(\" }}\n"),
                4,
                Some("steps[0].console.pattern"),
                "regular expression",
            ),
            (format!("{head}ping = {{ on = \"x\" }}\n"), 4, Some("steps[0].on"), "name one of the [needs]"),
            ("name = \"L\"\npools = []\n".to_owned(), 1, Some("name"), "TOML"),
        ];
        for (text, line, key, fix) in table {
            let told = told(&text, None);
            assert_eq!((told["ok"].as_bool(), told["line"].as_u64()), (Some(false), Some(line)), "{told}");
            assert_eq!(told["key"].as_str(), key, "{told}");
            assert!(told["hint"].as_str().unwrap().contains(fix), "{told}");
        }
        assert_eq!(told(&format!("{head}{ping}"), None)["ok"], true);
    }

    #[test]
    fn a_need_that_no_device_of_the_lab_meets_is_wrong() {
        let lab = config::lab::load(Path::new("lab/laptop.toml"), None, None).unwrap();
        let text = "summary = \"s\"\nunder_test = \"agent\"\n[needs.dut]\nmodel = \"pi5\"\n[[steps]]\n\
                    ping = { on = \"dut\" }\n";
        let told = told(text, Some(&lab));
        assert!(told["error"].as_str().unwrap().contains("needs.dut: no device of lab laptop"), "{told}");
    }
}
