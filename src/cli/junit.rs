//! The JUnit report: one suite, one case a run. Pure.

use super::error::CliError;
use super::summary;
use super::table::{printable, seconds};
use super::view::{RunView, StepState};
use crate::model::run::{StepResult, Verdict};
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};
use std::time::Duration;

/// The report as XML. `failed` becomes a failure; `device`, `lab`, `timeout` and `cancelled` become errors;
/// `skipped` stays skipped. The verdict is the type of each, the reason its message.
pub fn report(runs: &[RunView]) -> Result<String, CliError> {
    let mut suite = TestSuite::new("pilab");
    suite.set_time(duration(runs.iter().map(|run| run.took).sum()));
    for run in runs {
        suite.add_test_case(case(run));
    }
    let mut report = Report::new("pilab");
    report.add_test_suite(suite);
    report.to_string().map_err(|source| CliError::JUnit { source: source.into() })
}

fn case(run: &RunView) -> TestCase {
    let verdict = run.verdict();
    let mut status = match verdict {
        Verdict::Passed => TestCaseStatus::success(),
        Verdict::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Verdict::Skipped => TestCaseStatus::skipped(),
        Verdict::Device | Verdict::Lab | Verdict::Timeout | Verdict::Cancelled => {
            TestCaseStatus::non_success(NonSuccessKind::Error)
        }
    };
    if let Some(reason) = summary::reason(run) {
        status.set_message(reason).set_type(verdict.to_string());
    }
    let mut case = TestCase::new(run.scenario.to_string(), status);
    case.set_classname("pilab").set_time(duration(run.took)).set_system_out(steps(run));
    case.add_property(Property::new("run", run.run.to_string()));
    if let Some(earlier) = &run.earlier {
        case.add_property(Property::new("earlier-run", earlier.to_string()));
    }
    for device in &run.devices {
        let device = &device.assigned;
        // One device needs no name; several go by their roles.
        let role = if run.devices.len() == 1 { String::new() } else { format!("{}.", device.role) };
        case.add_properties([
            Property::new(format!("{role}device"), device.device.to_string()),
            Property::new(format!("{role}model"), device.model.to_string()),
            Property::new(format!("{role}backend"), device.backend.to_string()),
        ]);
        if let Some(arch) = device.model.arch() {
            case.add_property(Property::new(format!("{role}arch"), arch.to_string()));
        }
        if let Some(instead) = &device.instead {
            case.add_properties([
                Property::new(format!("{role}instead_of"), printable(&instead.of)),
                Property::new(format!("{role}instead_because"), printable(&instead.because)),
                Property::new(format!("{role}unexercised"), printable(&instead.unexercised.join(", "))),
            ]);
        }
    }
    if !run.image.is_empty() {
        case.add_property(Property::new("image", printable(&run.image)));
    }
    case
}

/// One line a step.
fn steps(run: &RunView) -> String {
    let mut text = String::new();
    for (index, step) in run.steps.iter().enumerate() {
        let state = match &step.state {
            StepState::Waiting => "not begun".to_owned(),
            StepState::Running => "not ended".to_owned(),
            StepState::Ended { result: StepResult::Ok { seen }, took } => {
                format!("ok, {} s: {}", seconds(*took), printable(seen))
            }
            StepState::Ended { result: StepResult::Fault { fault }, took } => {
                format!("fault, {} s: {}", seconds(*took), printable(&fault.cause))
            }
        };
        text.push_str(&format!("step {} {}: {state}\n", index + 1, printable(&step.name)));
    }
    text
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::fixture;

    #[test]
    fn verdicts_become_what_ci_systems_know() {
        let runs = [fixture::passed(), fixture::panicked(), fixture::skipped()].map(|e| fixture::view(&e));
        insta::assert_snapshot!(report(&runs).unwrap(), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="pilab" tests="3" skipped="1" failures="0" errors="1">
            <testsuite name="pilab" tests="3" skipped="1" errors="1" failures="0" time="15.800">
                <testcase name="ping" classname="pilab" time="12.100">
                    <properties>
                        <property name="run" value="ping-3f9c"/>
                        <property name="device" value="laptop-vm-1"/>
                        <property name="model" value="vm-aarch64"/>
                        <property name="backend" value="vm"/>
                        <property name="arch" value="aarch64"/>
                        <property name="image" value="7d7f1a5a2c2b0f5e7d7f1a5a2c2b0f5e7d7f1a5a2c2b0f5e7d7f1a5a2c2b0f5e"/>
                    </properties>
                    <system-out>step 1 ping: ok, 0.2 s: agent 0.1.0 answered in 12 ms
        </system-out>
                </testcase>
                <testcase name="deploy-lifecycle" classname="pilab" time="3.600">
                    <properties>
                        <property name="run" value="deploy-lifecycle-81aa"/>
                        <property name="device" value="laptop-vm-1"/>
                        <property name="model" value="vm-aarch64"/>
                        <property name="backend" value="vm"/>
                        <property name="arch" value="aarch64"/>
                        <property name="image" value="7d7f1a5a2c2b0f5e7d7f1a5a2c2b0f5e7d7f1a5a2c2b0f5e7d7f1a5a2c2b0f5e"/>
                    </properties>
                    <error message="on laptop-vm-1: kernel panic 2.9 s after power-on: &quot;Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)&quot;" type="lab"/>
                    <system-out>step 1 deploy version 1: not begun
        step 2 version 1 runs: not begun
        </system-out>
                </testcase>
                <testcase name="operator" classname="pilab" time="0.100">
                    <properties>
                        <property name="run" value="operator-0c1e"/>
                    </properties>
                    <skipped message="no device of the lab has persistent-state" type="skipped"/>
                    <system-out>step 1 put: not begun
        step 2 see: not begun
        </system-out>
                </testcase>
            </testsuite>
        </testsuites>
        "#);
    }
}
