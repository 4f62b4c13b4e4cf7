//! The results table: how each run ended and why. Pure.

use super::table::{Align, columns, printable, seconds};
use super::view::RunView;
use crate::model::run::{Outcome, Verdict};
use crate::model::scenario::Instead;

/// One line a run, the reason under each that did not pass, and the count of each verdict.
pub fn table(runs: &[RunView]) -> String {
    let mut rows = vec![["scenario", "verdict", "seconds", "devices"].map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(|run| {
        vec![run.scenario.to_string(), run.verdict().to_string(), seconds(run.took), devices(run)]
    }));
    let lines = columns(&rows, &[Align::Left, Align::Left, Align::Right], 0);
    let mut text = String::new();
    for (index, line) in lines.lines().enumerate() {
        text.push_str(line);
        text.push('\n');
        // The first line is the head.
        let Some(run) = index.checked_sub(1).and_then(|index| runs.get(index)) else { continue };
        if let Some(reason) = reason(run) {
            text.push_str(&format!("  {reason}\n"));
        }
        for device in &run.devices {
            if let Some(instead) = &device.assigned.instead {
                text.push_str(&format!("  {}\n", stand_in(&device.assigned.role, instead)));
            }
        }
    }
    text.push_str(&format!("{}\n", counts(runs)));
    text
}

/// Why a run did not pass, and where: one line.
pub fn reason(run: &RunView) -> Option<String> {
    let Some(outcome) = &run.outcome else {
        return Some("the run did not end".to_owned());
    };
    (outcome.verdict != Verdict::Passed)
        .then(|| format!("{}{}", place(run, outcome), printable(&outcome.reason)))
}

/// `step 2 "…" on laptop-vm-1: `, as much of it as is known.
fn place(run: &RunView, outcome: &Outcome) -> String {
    let step = outcome.step.map(|index| {
        let name = run.steps.get(index).map(|step| format!(" \"{}\"", printable(&step.name)));
        format!("step {}{}", index + 1, name.unwrap_or_default())
    });
    let device = outcome.device.as_ref().map(|device| format!("on {device}"));
    let known: Vec<String> = [step, device].into_iter().flatten().collect();
    if known.is_empty() { String::new() } else { format!("{}: ", known.join(" ")) }
}

/// `dut=laptop-vm-1 (vm-aarch64)`, so that a VM pass is never read as a Pi pass.
fn devices(run: &RunView) -> String {
    let devices = run.devices.iter().map(|device| {
        let device = &device.assigned;
        format!("{}={} ({})", device.role, device.device, device.model)
    });
    devices.collect::<Vec<_>>().join(" ")
}

/// Why a device is not of the kind that was asked for, and what has not been shown therefore: one line.
fn stand_in(role: &str, instead: &Instead) -> String {
    let (of, because) = (printable(&instead.of), printable(&instead.because));
    format!(
        "{role} instead of {of}: {because}; not exercised: {}",
        printable(&instead.unexercised.join(", "))
    )
}

fn counts(runs: &[RunView]) -> String {
    let mut verdicts: Vec<Verdict> = runs.iter().map(RunView::verdict).collect();
    verdicts.sort_unstable();
    let parts =
        verdicts.chunk_by(|a, b| a == b).filter_map(|same| Some(format!("{} {}", same.len(), same.first()?)));
    let word = if runs.len() == 1 { "run" } else { "runs" };
    format!("{} {word}: {}", runs.len(), parts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::fixture;

    #[test]
    fn every_run_that_did_not_pass_says_why() {
        let runs = [fixture::passed(), fixture::panicked(), fixture::skipped()].map(|e| fixture::view(&e));
        insta::assert_snapshot!(table(&runs), @r#"
        scenario          verdict  seconds  devices
        ping              passed      12.1  dut=laptop-vm-1 (vm-aarch64)
        deploy-lifecycle  lab          3.6  dut=laptop-vm-1 (vm-aarch64)
          on laptop-vm-1: kernel panic 2.9 s after power-on: "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
        operator          skipped      0.1
          no device of the lab has persistent-state
        3 runs: 1 passed, 1 lab, 1 skipped
        "#);
    }

    #[test]
    fn the_step_is_named_as_people_count() {
        let mut run = fixture::view(&fixture::passed());
        run.outcome = Some(Outcome {
            verdict: Verdict::Failed,
            reason: "phase is Failed, not Running".into(),
            decisive: None,
            suspect: None,
            suspects_device: false,
            device: Some(run.devices[0].assigned.device.clone()),
            step: Some(0),
        });
        assert_eq!(reason(&run).unwrap(), "step 1 \"ping\" on laptop-vm-1: phase is Failed, not Running");
    }

    #[test]
    fn a_device_that_stands_in_for_another_is_never_read_as_that() {
        let mut run = fixture::view(&fixture::passed());
        run.devices[0].assigned.instead = Some(Instead {
            of: "model pi4b".to_owned(),
            because: "none was free within 60 s".to_owned(),
            unexercised: vec!["power relay".to_owned(), "serial line".to_owned()],
        });
        let table = table(&[run]);
        let line = "  dut instead of model pi4b: none was free within 60 s; not exercised: power relay, serial line\n";
        assert!(table.contains(line), "{table}");
    }
}
