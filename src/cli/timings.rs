//! The timings table: where the time of a command went. Pure.

use super::local::Preparation;
use super::table::{Align, columns, printable, seconds};
use super::view::{Mark, RunView, StepState};
use std::collections::BTreeSet;

/// The lab's start, then each run: what its devices reached and when, and how long its steps took.
pub fn table(preparation: &[Preparation], runs: &[RunView]) -> String {
    let mut text = String::from("Timings in seconds\n");
    if !preparation.is_empty() {
        let rows: Vec<_> = preparation
            .iter()
            .map(|part| vec![part.what.clone(), seconds(part.took), part.note.clone()])
            .collect();
        text.push_str("\n start\n");
        text.push_str(&columns(&rows, &[Align::Left, Align::Right], 2));
    }
    for run in runs {
        let lines = boots(run) + &steps(run);
        if !lines.is_empty() {
            text.push_str(&format!("\n {}\n{lines}", run.scenario));
        }
    }
    text
}

/// One line a boot attempt, one column for each thing that any of them reached.
fn boots(run: &RunView) -> String {
    // An attempt without a mark is an earlier run's, ended by this one.
    let all = || {
        let boots = run.devices.iter().flat_map(|device| device.boots.iter().map(move |boot| (device, boot)));
        boots.filter(|(_, (_, boot))| !boot.marks.is_empty())
    };
    let marks: BTreeSet<Mark> = all().flat_map(|(_, (_, boot))| boot.marks.keys().copied()).collect();
    if marks.is_empty() {
        return String::new();
    }
    // Only where a device had the choice.
    let starts = all().any(|(_, (_, boot))| boot.start.is_some());
    let mut head = vec!["from power-on to".to_owned(), "boot".to_owned()];
    head.extend(starts.then(|| "start".to_owned()));
    head.extend(marks.iter().map(|mark| mark.name().to_owned()));
    let mut rows = vec![head];
    for (device, (attempt, boot)) in all() {
        let mut row = vec![device.assigned.device.to_string(), attempt.to_string()];
        row.extend(starts.then(|| boot.start.unwrap_or("cold").to_owned()));
        row.extend(marks.iter().map(|mark| boot.marks.get(mark).map_or("-".to_owned(), |s| seconds(*s))));
        rows.push(row);
    }
    let mut aligns = vec![Align::Left];
    aligns.resize(2 + usize::from(starts) + marks.len(), Align::Right);
    let mut lines = columns(&rows, &aligns, 2);
    for (device, (attempt, boot)) in all().filter(|(_, (_, boot))| !boot.cause.is_empty()) {
        let (device, cause) = (&device.assigned.device, printable(&boot.cause));
        lines.push_str(&format!("  {device}, boot {attempt}: cold, as {cause}\n"));
    }
    lines
}

fn steps(run: &RunView) -> String {
    let rows: Vec<_> = run
        .steps
        .iter()
        .enumerate()
        .filter_map(|(index, step)| match &step.state {
            StepState::Ended { took, .. } => {
                Some(vec![format!("step {}", index + 1), printable(&step.name), seconds(*took)])
            }
            _ => None,
        })
        .collect();
    columns(&rows, &[Align::Left, Align::Left, Align::Right], 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::fixture;

    #[test]
    fn each_part_of_the_time_has_its_place() {
        let runs = [fixture::passed(), fixture::panicked(), fixture::skipped()].map(|e| fixture::view(&e));
        let preparation = [
            Preparation { what: "image".into(), took: 0.04, note: "cached".into() },
            Preparation { what: "nats-server".into(), took: 0.31, note: String::new() },
        ];
        insta::assert_snapshot!(table(&preparation, &runs), @r#"
        Timings in seconds

         start
          image        0.0  cached
          nats-server  0.3

         ping
          from power-on to  boot  kernel  initramfs  network  ticket  systemd  sshd  agent ping
          laptop-vm-1          1     1.1        2.4      3.3     3.7      6.2  10.7        11.4
          step 1  ping  0.2

         deploy-lifecycle
          from power-on to  boot  kernel  initramfs  panic
          laptop-vm-1          1     1.1        2.4    3.1
        "#);
    }

    #[test]
    fn a_device_that_could_start_warm_says_how_it_did() {
        use crate::model::boot::BootAttempt;
        use crate::model::event::Event;
        use crate::model::run::{RunEvent, RunFact};
        let of = |event: Event| {
            let events = fixture::passed();
            let mut view = fixture::view(&events);
            let device = view.devices[0].assigned.device.clone();
            let fact = RunFact::Device { device, attempt: BootAttempt(1), event };
            view.apply(&RunEvent { fact, ..events[4].clone() });
            table(&[], &[view])
        };
        let warm = of(Event::Woken { address: "192.0.2.7".to_owned(), saved: false });
        assert!(warm.contains("boot  start  kernel") && warm.contains("1   warm     1.1"), "{warm}");
        let cold = of(Event::ColdStart { cause: "the image is under test".to_owned() });
        assert!(cold.contains("1   cold     1.1"), "{cold}");
        assert!(cold.contains("laptop-vm-1, boot 1: cold, as the image is under test"), "{cold}");
    }
}
