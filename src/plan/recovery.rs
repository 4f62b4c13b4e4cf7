//! What becomes of a run whose coordinator died: a new one asks here. Pure.
//!
//! ```text
//!            accepted ──► queued ──► started ──► steps ──► judged ──► ended
//!  died here:     └─ goes on as if ──┘    └─ lab: tried again once ─┘   └─ told again
//!                    nothing had been        (a fault of the product,
//!                                             once seen, stays one)
//! ```
//!
//! A run that has no devices yet goes on: nothing was done. One that has them does not: the keys to its devices died with the
//! coordinator, and what a step had done nobody knows. It ends, and what was seen until then decides how.

use crate::model::run::{Outcome, RunEvent, RunFact, StepResult};

/// What is to be done with a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// It goes on from its queue.
    Resume,
    /// It is judged by what is known of it; when nothing decides yet, by this fault of the lab.
    Judge {
        /// The fault's cause, one line.
        died: Option<String>,
    },
    /// It had ended so.
    Over(Outcome),
}

/// What is to be done with a run of which these events are known, and of which is known elsewhere whether it had `started`:
/// its events may be lost.
pub fn next(started: bool, events: &[RunEvent]) -> Next {
    let mut announced = None;
    let (mut has_devices, mut faulty) = (started, false);
    let (mut running, mut ended) = (None, 0_usize);
    for event in events {
        match &event.fact {
            RunFact::Queued { steps, .. } => announced = Some(steps.len()),
            RunFact::Started { .. } => has_devices = true,
            RunFact::StepStarted { step, name } => running = Some((*step, name.as_str())),
            RunFact::StepEnded { step, result, .. } => {
                running = None;
                faulty |= matches!(result, StepResult::Fault { .. });
                ended = ended.max(step + 1);
            }
            RunFact::Fault { .. } => faulty = true,
            RunFact::Ended { outcome, .. } => return Next::Over(outcome.clone()),
            RunFact::Device { .. } | RunFact::Stage { .. } | RunFact::Phase { .. } => {}
        }
    }
    // Also of one that somebody stopped while it waited.
    if !has_devices && !faulty {
        return Next::Resume;
    }
    // What is decided stays decided: by a fault, or by all steps having gone well.
    let done = announced.is_some_and(|steps| ended >= steps);
    if faulty || done {
        return Next::Judge { died: None };
    }
    let place = match (running, ended) {
        (Some((step, name)), _) => format!("in step {} {name:?}", step + 1),
        (None, 0) => "before the first step".to_owned(),
        (None, ended) => format!("after step {ended}"),
    };
    Next::Judge { died: Some(format!("the coordinator died {place}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::run::{Fault, FaultKind, Verdict};

    fn passed() -> Vec<RunEvent> {
        let lines = include_str!("../../tests/fixtures/run-passed.jsonl").lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn died(place: &str) -> Next {
        Next::Judge { died: Some(format!("the coordinator died {place}")) }
    }

    #[test]
    fn each_place_in_a_run_has_one_end() {
        let events = passed();
        // The fixture: queued, started, eleven facts of the device, one step, the end.
        for (known, wanted) in [
            (0, Next::Resume),
            (1, Next::Resume),
            (2, died("before the first step")),
            (12, died("before the first step")),
            (13, died("in step 1 \"ping\"")),
            (14, Next::Judge { died: None }),
        ] {
            assert_eq!(next(false, &events[..known]), wanted, "{known}");
        }
        let Next::Over(outcome) = next(true, &events) else { panic!() };
        assert_eq!(outcome.verdict, Verdict::Passed);
        assert_eq!(
            next(true, &[]),
            died("before the first step"),
            "its events are lost: it never runs twice"
        );
    }

    #[test]
    fn a_fault_that_was_seen_decides() {
        let mut events = passed()[..13].to_vec();
        let fault = Fault { kind: FaultKind::Panic, cause: "the kernel panicked".to_owned(), device: None };
        events.push(RunEvent { seq: 13, fact: RunFact::Fault { fault }, ..events[12].clone() });
        assert_eq!(next(true, &events), Next::Judge { died: None });
        let stopped =
            Fault { kind: FaultKind::Cancelled, cause: "somebody stopped it".to_owned(), device: None };
        let mut queued = passed()[..1].to_vec();
        queued.push(RunEvent { seq: 1, fact: RunFact::Fault { fault: stopped }, ..events[0].clone() });
        assert_eq!(next(false, &queued), Next::Judge { died: None }, "stopped while it waited");
    }

    #[test]
    fn between_two_steps_the_last_is_named() {
        let mut events = passed()[..14].to_vec();
        if let RunFact::Queued { steps, .. } = &mut events[0].fact {
            steps.push("another".to_owned());
        }
        assert_eq!(next(true, &events), died("after step 1"));
    }
}
