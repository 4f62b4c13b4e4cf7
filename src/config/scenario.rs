//! Scenario files: what devices are needed, what is done, what is expected.

use super::error::ConfigError;
use super::matrix;
use super::raw::{RawDuration, Source};
use super::steps::{RawStep, checked_step};
use crate::model::device::{Backend, Capability, Model};
use crate::model::id::{DeviceId, ScenarioName};
use crate::model::scenario::{Action, Fallback, Need, Scenario, Step, UnderTest};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// Where scenarios named on the command line are looked for.
pub const SCENARIO_DIR: &str = "lab/scenarios";
/// Bound of a boot when the scenario does not state one: ten times what an emulated device needs on a
/// busy host.
const DEFAULT_BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a scenario waits for a board before it turns to its fallback, when it does not say: a few short runs of others.
const DEFAULT_FALLBACK_AFTER: Duration = Duration::from_secs(600);
/// No step or boot may be given longer than a night.
const MAX_TIMEOUT: Duration = Duration::from_secs(12 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    summary: String,
    under_test: UnderTest,
    boot_timeout: Option<Spanned<RawDuration>>,
    needs: BTreeMap<String, Spanned<RawNeed>>,
    steps: Vec<Spanned<RawStep>>,
    #[serde(default)]
    cleanup: Vec<Spanned<RawStep>>,
    // Read before: `matrix`.
    #[serde(default, rename = "variables")]
    _variables: IgnoredAny,
    #[serde(default, rename = "matrix")]
    _matrix: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNeed {
    device: Option<DeviceId>,
    model: Option<Model>,
    requires: Option<Backend>,
    fallback: Option<Backend>,
    fallback_after: Option<RawDuration>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    capabilities: BTreeSet<Capability>,
}

/// Finds a scenario by its name, below [`SCENARIO_DIR`], or by its path.
pub fn find(name: &str) -> Result<PathBuf, ConfigError> {
    let given = PathBuf::from(name);
    let named = Path::new(SCENARIO_DIR).join(format!("{name}.toml"));
    let looked = if name.contains('/') || name.ends_with(".toml") { vec![given] } else { vec![named] };
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(ConfigError::NoSuchScenario { name: name.to_owned(), looked }),
    }
}

/// Reads and checks a scenario file that stands for one scenario. Its name is that of the file.
pub fn load(path: &Path) -> Result<Scenario, ConfigError> {
    let source = Source::read(path)?;
    let mut all = expanded(path, &source)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(source.value(
            &(0..0),
            "matrix",
            "one scenario is wanted here, and the file stands for several",
        )),
    }
}

/// Reads and checks a scenario file: one scenario, or one for each combination of its matrix, their values in its name.
pub fn load_all(path: &Path) -> Result<Vec<Scenario>, ConfigError> {
    expanded(path, &Source::read(path)?)
}

fn expanded(path: &Path, source: &Source) -> Result<Vec<Scenario>, ConfigError> {
    matrix::expand(source)?.into_iter().map(|(values, source)| checked(path, &values, &source)).collect()
}

/// A scenario's name: the file's, then its values of the matrix, as far as names can hold them.
fn name(path: &Path, values: &[String], source: &Source) -> Result<ScenarioName, ConfigError> {
    let mut name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    for value in values {
        let word = value.to_ascii_lowercase();
        let word = word.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
        name = format!("{name}-{}", word.collect::<Vec<_>>().join("-"));
    }
    ScenarioName::new(name).map_err(|e| source.value(&(0..0), "file name", e.to_string()))
}

fn checked(path: &Path, values: &[String], source: &Source) -> Result<Scenario, ConfigError> {
    let raw: RawScenario = source.parse()?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let name = name(path, values, source)?;
    if raw.needs.is_empty() {
        return Err(source.value(&(0..0), "needs", "a scenario needs at least one device"));
    }
    if raw.steps.is_empty() {
        return Err(source.value(&(0..0), "steps", "a scenario has at least one step"));
    }
    let boot_timeout = match &raw.boot_timeout {
        Some(timeout) => bounded(timeout.get_ref().0)
            .map_err(|cause| source.value(&timeout.span(), "boot_timeout", cause))?,
        None => DEFAULT_BOOT_TIMEOUT,
    };
    let roles: BTreeSet<&str> = raw.needs.keys().map(String::as_str).collect();
    let check = |list: &[Spanned<RawStep>], key: &str| -> Result<Vec<Step>, ConfigError> {
        list.iter()
            .enumerate()
            .map(|(index, step)| {
                checked_step(step.get_ref(), &roles, dir).map_err(|(field, cause)| {
                    let span: Range<usize> = step.span();
                    source.value(&span, format!("{key}[{index}]{field}"), cause)
                })
            })
            .collect()
    };
    let steps = check(&raw.steps, "steps")?;
    let cleanup = check(&raw.cleanup, "cleanup")?;
    in_order(source, &raw.steps, &steps)?;
    let mut spans = Vec::new();
    let needs: Vec<Need> = raw
        .needs
        .into_iter()
        .map(|(role, need)| {
            let span = need.span();
            let RawNeed { device, model, labels, mut capabilities, requires, fallback, fallback_after } =
                need.into_inner();
            let (backend, fallback) = kind(model, requires, fallback, fallback_after)
                .map_err(|(key, cause)| source.value(&span, format!("needs.{role}.{key}"), cause))?;
            spans.push(span);
            let acts = steps.iter().chain(&cleanup).map(|step| &step.action);
            let acts: Vec<_> = acts.filter(|act| act.roles().contains(&role.as_str())).collect();
            // A run boots its devices first of all. Where no step asks more of one than its power and its
            // console, what it finds by itself will do.
            let by_itself = !acts.is_empty() && acts.iter().all(|act| act.is_outside());
            capabilities.insert(if by_itself { Capability::Power } else { Capability::Boot });
            capabilities.extend(acts.into_iter().filter_map(Action::capability));
            // Elsewhere what is under test would not run.
            let lab_s = matches!(raw.under_test, UnderTest::Image | UnderTest::Kernel) && !by_itself;
            capabilities.extend(lab_s.then_some(Capability::Image));
            Ok(Need { role, device, model, backend, labels, capabilities, fallback, instead: None })
        })
        .collect::<Result<_, ConfigError>>()?;
    for (index, (need, span)) in needs.iter().zip(&spans).enumerate() {
        possible(need, needs.get(..index).unwrap_or_default())
            .map_err(|cause| source.value(span, format!("needs.{}", need.role), cause))?;
    }
    Ok(Scenario {
        name,
        summary: raw.summary,
        under_test: raw.under_test,
        boot_timeout,
        needs,
        steps,
        cleanup,
    })
}

/// How a device must exist, and what does as well.
type Kind = (Option<Backend>, Option<Fallback>);

fn kind(
    model: Option<Model>,
    requires: Option<Backend>,
    fallback: Option<Backend>,
    after: Option<RawDuration>,
) -> Result<Kind, (&'static str, String)> {
    if let (Some(model), Some(backend)) = (model, requires)
        && model.backend() != backend
    {
        return Err(("requires", format!("is {backend}, and {model} is a {}", model.backend())));
    }
    let Some(fallback) = fallback else {
        return match after {
            Some(_) => Err(("fallback_after", "there is no `fallback`".to_owned())),
            None => Ok((requires, None)),
        };
    };
    if requires.is_some() {
        let cause = "a need that requires a kind of device has no fallback: leave one of the two out";
        return Err(("fallback", cause.to_owned()));
    }
    if fallback != Backend::Vm {
        return Err(("fallback", format!("is {fallback}: the only fallback is \"vm\"")));
    }
    if let Some(model) = model.filter(|model| model.backend() != Backend::Pi) {
        return Err(("fallback", format!("is for boards, and {model} is none")));
    }
    let after = after.map_or(DEFAULT_FALLBACK_AFTER, |after| after.0);
    if after > MAX_TIMEOUT {
        return Err(("fallback_after", format!("{after:?} is more than 12 h")));
    }
    // A model says enough, and a simulated board is of the same.
    let backend = model.is_none().then_some(Backend::Pi);
    Ok((backend, Some(Fallback { backend: fallback, after })))
}

/// Whether any lab could have such a device, beside those that are needed already.
fn possible(need: &Need, others: &[Need]) -> Result<(), String> {
    if need.model == Some(Model::Container) {
        let lacks =
            need.capabilities.iter().filter(|wanted| ![Capability::Boot, Capability::Image].contains(wanted));
        let lacks = lacks.map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !lacks.is_empty() {
            return Err(format!("no container has {lacks}, which the steps take: ask for another model"));
        }
    }
    let same = others.iter().find(|other| need.device.is_some() && other.device == need.device);
    if let (Some(device), Some(other)) = (&need.device, same) {
        return Err(format!("{device} is {:?} already: one device cannot have two roles", other.role));
    }
    Ok(())
}

/// No network is restored that was not cut.
fn in_order(source: &Source, raw: &[Spanned<RawStep>], steps: &[Step]) -> Result<(), ConfigError> {
    let mut cut = BTreeSet::new();
    for (index, (step, raw)) in steps.iter().zip(raw).enumerate() {
        match &step.action {
            Action::CutNetwork { on } => {
                cut.insert(on.as_str());
            }
            Action::RestoreNetwork { on } if !cut.remove(on.as_str()) => {
                let cause =
                    format!("the network of {on:?} is not cut before: add cut_network, or leave it out");
                return Err(source.value(&raw.span(), format!("steps[{index}].restore_network"), cause));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A length of time that a step or boot may be given.
pub(super) fn bounded(timeout: Duration) -> Result<Duration, String> {
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err(format!("{timeout:?} is not between 1 ms and 12 h"));
    }
    Ok(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Scenario, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("try.toml");
        std::fs::write(&path, text).unwrap();
        load(&path).map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), ""))
    }

    const HEAD: &str = "summary = \"s\"\nunder_test = \"agent\"\n[needs.dut]\n";

    #[test]
    fn a_step_has_a_name_a_bound_and_one_action() {
        let text = format!("{HEAD}[[steps]]\nping = {{ on = \"dut\" }}\ntimeout = \"5s\"\n");
        let scenario = load_text(&text).unwrap();
        assert_eq!(scenario.name.as_str(), "try");
        assert_eq!(scenario.steps.len(), 1);
        assert_eq!(scenario.steps[0].name, "ping dut");
        assert_eq!(scenario.steps[0].timeout, Duration::from_secs(5));
    }

    #[test]
    fn a_need_holds_what_its_steps_take_and_what_the_file_says() {
        let text = "summary = \"s\"\nunder_test = \"agent\"\n[needs.a]\ncapabilities = [\"reboot\"]\n[needs.b]\n\
                    [[steps]]\nconsole = { on = \"a\", stage = \"agent\" }\n[[steps]]\nping = { on = \"b\" }\n\
                    [[cleanup]]\npower_cycle = { on = \"a\" }\n";
        let needs = load_text(text).unwrap().needs;
        let wanted = [Capability::Boot, Capability::Power, Capability::Console, Capability::Reboot].into();
        assert_eq!((&needs[0].capabilities, &needs[1].capabilities), (&wanted, &[Capability::Boot].into()));
        let outside = |first: &str, last: &str| {
            let text = format!(
                "{HEAD}[[steps]]\nconsole = {{ on = \"dut\", {first} }}\n[[steps]]\n{last} = {{ on = \"dut\" }}\n"
            );
            load_text(&text).unwrap().needs.remove(0).capabilities
        };
        let by_itself = [Capability::Power, Capability::Console].into();
        assert_eq!(outside("stage = \"login\"", "power_cycle"), by_itself, "whatever has booted");
        assert!(outside("stage = \"ticket\"", "power_cycle").contains(&Capability::Boot), "the image's own");
        assert!(outside("pattern = \"ready\"", "ping").contains(&Capability::Boot));
        let error =
            load_text(&format!("{HEAD}capabilities = [\"wings\"]\n[[steps]]\nping = {{ on = \"dut\" }}\n"));
        assert!(
            error
                .unwrap_err()
                .starts_with("/try.toml:4:17: needs.dut.capabilities[0]: unknown variant `wings`")
        );
    }

    #[test]
    fn a_need_says_what_must_be_a_board_and_what_may_stand_in_for_one() {
        let step = "[[steps]]\nping = { on = \"dut\" }\n";
        let need = |text: &str| load_text(&format!("{HEAD}{text}\n{step}")).map(|mut it| it.needs.remove(0));
        let plain = need("").unwrap();
        assert_eq!((plain.backend, plain.fallback), (None, None));
        assert_eq!(need("requires = \"pi\"").unwrap().backend, Some(Backend::Pi));
        let fallback = need("model = \"pi5\"\nfallback = \"vm\"").unwrap();
        let after = DEFAULT_FALLBACK_AFTER;
        assert_eq!(
            (fallback.backend, fallback.fallback),
            (None, Some(Fallback { backend: Backend::Vm, after }))
        );
        assert_eq!(need("fallback = \"vm\"").unwrap().backend, Some(Backend::Pi));
        for (text, wrong) in [
            ("requires = \"vm\"\nmodel = \"pi5\"", "requires: is vm, and pi5 is a pi"),
            ("fallback = \"container\"", "fallback: is container: the only fallback is \"vm\""),
            ("fallback = \"vm\"\nmodel = \"vm-aarch64\"", "fallback: is for boards, and vm-aarch64 is none"),
            ("fallback = \"vm\"\nrequires = \"pi\"", "fallback: a need that requires a kind of device"),
            ("fallback_after = \"1m\"", "fallback_after: there is no `fallback`"),
            ("fallback = \"vm\"\nfallback_after = \"13h\"", "fallback_after: 46800s is more than 12 h"),
        ] {
            let error = need(text).unwrap_err();
            assert!(error.starts_with(&format!("/try.toml:3: needs.dut.{wrong}")), "{error}");
        }
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let table = [
            ("[[steps]]\npnig = { on = \"dut\" }\n", "/try.toml:5:1: unknown field `pnig`"),
            (
                "[[steps]]\nping = { on = \"duT\" }\n",
                "/try.toml:4: steps[0].on: \"duT\" is not one of the needs (dut)",
            ),
            ("[[steps]]\nname = \"x\"\n", "/try.toml:4: steps[0]: has no action"),
            (
                "[[steps]]\nping = { on = \"dut\" }\npower_cycle = { on = \"dut\" }\n",
                "/try.toml:4: steps[0]: has more than one action: ping and power_cycle",
            ),
            (
                "[[steps]]\nping = { on = \"dut\" }\ntimeout = \"0s\"\n",
                "/try.toml:4: steps[0].timeout: 0ns is not between",
            ),
            (
                "[[steps]]\nping = { on = \"dut\" }\ntimeout = \"soon\"\n",
                "/try.toml:6:11: steps[0].timeout: \"soon\" is not a length of time",
            ),
            (
                "[[steps]]\nconsole = { on = \"dut\", pattern = \"(\" }\n",
                "/try.toml:4: steps[0].console.pattern: regex parse error",
            ),
            (
                "[[steps]]\nkill_agent = { on = \"dut\", signal = \"-1 1\" }\n",
                "/try.toml:4: steps[0].kill_agent.signal: \"-1 1\" is no signal's name",
            ),
            (
                "[[steps]]\nexpect_denied = { on = \"dut\" }\n",
                "/try.toml:4: steps[0].expect_denied: names no subject",
            ),
            (
                "[[steps]]\nexpect_denied = { on = \"dut\", publish = [\"fleet.{duT}.x\"] }\n",
                "/try.toml:4: steps[0].expect_denied: \"fleet.{duT}.x\": what stands in braces",
            ),
            (
                "[[steps]]\nwait_phase = { on = \"dut\", deployment = \"web\", phase = \"gone\", reason = \"x\" }\n",
                "/try.toml:4: steps[0].wait_phase: a status that is gone says nothing",
            ),
            (
                "[[steps]]\nabsent = { on = \"dut\", deployment = \"web\", hold = \"90s\" }\n",
                "/try.toml:4: steps[0].hold: 90s does not fit",
            ),
        ];
        for (text, expected) in table {
            let error = load_text(&format!("{HEAD}{text}")).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}, not {expected:?}");
        }
    }

    #[test]
    fn a_matrix_makes_a_scenario_of_each_combination() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("try.toml");
        let text = "summary = \"s\"\nunder_test = \"agent\"\n[variables]\nwhat = \"web\"\n\
                    [matrix]\nmodel = [\"pi4b\", \"vm-aarch64\"]\nimage = [\"i:1\", \"i:2\"]\n\
                    [needs.dut]\nmodel = \"${model}\"\n\
                    [[steps]]\nname = \"deploy ${image}, $${HOME}\"\n\
                    delete = { on = \"dut\", deployment = \"${what}\" }\n";
        std::fs::write(&path, text).unwrap();
        let all = load_all(&path).unwrap();
        let told = |s: &Scenario| format!("{} {:?} {}", s.name, s.needs[0].model.unwrap(), s.steps[0].name);
        assert_eq!(
            all.iter().map(told).collect::<Vec<_>>(),
            [
                "try-i-1-pi4b Pi4B deploy i:1, ${HOME}",
                "try-i-1-vm-aarch64 VmAarch64 deploy i:1, ${HOME}",
                "try-i-2-pi4b Pi4B deploy i:2, ${HOME}",
                "try-i-2-vm-aarch64 VmAarch64 deploy i:2, ${HOME}",
            ]
        );
        assert!(load(&path).unwrap_err().to_string().contains("stands for several"));
    }

    #[test]
    fn a_matrix_that_makes_no_sense_is_refused_with_its_place() {
        let step = "[[steps]]\nping = { on = \"dut\" }\n";
        let table = [
            (
                format!("{step}name = \"${{x}}\"\n"),
                "/try.toml:6: ${x}: is neither in [variables] nor in [matrix] (there is none)",
            ),
            (format!("{step}[matrix]\nx = []\n"), "/try.toml:7: matrix.x: is empty"),
            (
                format!("{step}[matrix]\nx = [\"a\\\"b\"]\n"),
                "/try.toml:7: matrix.x: \"a\\\"b\" is not 1 to 128 bytes",
            ),
            (
                format!("{step}[variables]\nx = \"1\"\n[matrix]\nx = [\"1\"]\n"),
                "/try.toml:7: variables.x: \"x\" is in [matrix] as well",
            ),
            (
                format!("{step}[matrix]\nx = {:?}\n", vec!["v"; 65]),
                "/try.toml:7: matrix.x: makes more than 64",
            ),
            (format!("{step}name = \"${{x\"\n[variables]\nx = \"1\"\n"), "/try.toml:6: ${x\"}: is neither"),
        ];
        for (text, expected) in table {
            let error = load_text(&format!("{HEAD}{text}")).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}, not {expected:?}");
        }
    }

    #[test]
    fn what_no_lab_could_do_is_refused() {
        let table = [
            (
                "model = \"container\"\n[[steps]]\npower_cycle = { on = \"dut\" }\n",
                "/try.toml:3: needs.dut: no container has power",
            ),
            (
                "device = \"lab-1\"\n[needs.two]\ndevice = \"lab-1\"\n[[steps]]\nping = { on = \"dut\" }\n",
                "/try.toml:5: needs.two: lab-1 is \"dut\" already",
            ),
            (
                "[[steps]]\nrestore_network = { on = \"dut\" }\n",
                "/try.toml:4: steps[0].restore_network: the network of \"dut\" is not cut",
            ),
        ];
        for (text, expected) in table {
            let error = load_text(&format!("{HEAD}{text}")).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}, not {expected:?}");
        }
    }

    #[test]
    fn a_wrong_score_is_refused_with_its_place() {
        let step = "[[steps]]\ndeploy = { on = \"dut\", deployment = \"web\", score = { type = \"PodmanV9\", data = {} } }\n";
        let error = load_text(&format!("{HEAD}{step}")).unwrap_err();
        assert!(error.contains("/try.toml:5:") && error.contains("PodmanV9"), "{error}");
    }

    #[test]
    fn the_shipped_scenarios_are_right() {
        let mut seen = 0;
        for entry in std::fs::read_dir(SCENARIO_DIR).unwrap() {
            load(&entry.unwrap().path()).unwrap();
            seen += 1;
        }
        assert!(seen >= 3, "{seen}");
    }

    #[test]
    fn a_name_finds_the_shipped_file() {
        assert_eq!(find("ping").unwrap(), Path::new("lab/scenarios/ping.toml"));
        let error = find("pong").unwrap_err().to_string();
        assert_eq!(error, "there is no scenario \"pong\": looked for lab/scenarios/pong.toml");
    }
}
