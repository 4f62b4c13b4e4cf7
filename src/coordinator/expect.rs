//! Whether a status says what a step waits for.

use super::session::Put;
use crate::model::scenario::{InitExpectation, StatusExpectation};
use crate::model::workload::{ContainerStatus, Phase, Status};
use regex::bytes::Regex;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    Met,
    NotYet,
    Never(String),
}

/// Whether a status is what is waited for. One that was made before the agent had seen what was put last
/// says nothing; one that has failed since will not get better by waiting. A value that the agent refuses
/// leaves the generation before it in the status, so of a failure the revision alone tells.
pub(super) fn judge(
    status: Option<&Status>,
    put: Put,
    phase: Option<Phase>,
    expect: &StatusExpectation,
) -> Judgement {
    match (status, phase) {
        (None, None) => Judgement::Met,
        (Some(status), Some(phase)) if speaks_of(status, put) => {
            if status.phase == phase && fits(status, expect) {
                Judgement::Met
            } else if matches!(status.phase, Phase::Failed | Phase::RolledBack) {
                Judgement::Never(describe(Some(status)))
            } else {
                Judgement::NotYet
            }
        }
        _ => Judgement::NotYet,
    }
}

/// Whether a status says what is wanted beside its phase.
fn fits(status: &Status, expect: &StatusExpectation) -> bool {
    let StatusExpectation { reason, message, condition, init_containers } = expect;
    // One walk through what the status holds: each is looked for behind the one before it.
    let mut told = status.init_containers.iter();
    reason.as_ref().is_none_or(|reason| *reason == status.reason)
        && message.as_ref().is_none_or(|pattern| matches(pattern, &status.message))
        && condition.as_ref().is_none_or(|name| status.conditions.iter().any(|known| known.name == *name))
        && init_containers.iter().all(|wanted| told.any(|init| ended_as(init, wanted)))
}

fn ended_as(init: &ContainerStatus, wanted: &InitExpectation) -> bool {
    let Some(end) = &init.end else { return false };
    init.name == wanted.name
        && wanted.exit_code.is_none_or(|code| code == end.exit_code)
        && wanted.timed_out == end.timed_out
        && wanted.log.as_ref().is_none_or(|pattern| matches(pattern, &end.log_tail))
}

/// The pattern was checked when the scenario was read; one that is none matches nothing.
fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text.as_bytes()))
}

fn speaks_of(status: &Status, put: Put) -> bool {
    let same = put.generation.is_none_or(|generation| status.generation == generation);
    status.revision >= put.revision && (same || status.phase == Phase::Failed)
}

pub(super) fn describe(status: Option<&Status>) -> String {
    match status {
        None => "no status".to_owned(),
        Some(status) if status.reason.is_empty() => {
            format!("{} at generation {}: {}", status.phase, status.generation, status.message)
        }
        Some(status) => {
            format!(
                "{} at generation {}: {}: {}",
                status.phase, status.generation, status.reason, status.message
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ContainerName;
    use crate::model::workload::{ContainerEnd, WORKLOAD_VERSION};

    /// Generation and revision count alike here.
    fn status(phase: Phase, generation: u64, reason: &str) -> Status {
        Status {
            version: WORKLOAD_VERSION,
            phase,
            generation,
            revision: generation,
            message: "m".to_owned(),
            reason: reason.to_owned(),
            init_containers: vec![],
            services: vec![],
            rollback: None,
            conditions: vec![],
        }
    }

    #[test]
    fn a_status_is_judged_at_its_generation() {
        use Judgement::{Met, Never, NotYet};
        use Phase::{Failed, Pending, Running};
        let failed = Never("Failed at generation 2: ImageMissing: m".to_owned());
        let table = [
            (None, None, None, Met),
            (None, Some(Running), None, NotYet),
            (Some(status(Running, 2, "")), None, None, NotYet),
            (Some(status(Running, 2, "")), Some(Running), None, Met),
            (Some(status(Running, 1, "")), Some(Running), None, NotYet),
            (Some(status(Pending, 2, "")), Some(Running), None, NotYet),
            (Some(status(Failed, 1, "ImageMissing")), Some(Running), None, NotYet),
            (Some(status(Failed, 2, "ImageMissing")), Some(Running), None, failed.clone()),
            (Some(status(Failed, 2, "ImageMissing")), Some(Failed), Some("ImageMissing"), Met),
            (Some(status(Failed, 2, "ImageMissing")), Some(Failed), Some("Other"), failed),
        ];
        for (status, phase, reason, expected) in table {
            let put = Put { revision: 2, generation: Some(2) };
            let expect = StatusExpectation { reason: reason.map(str::to_owned), ..Default::default() };
            assert_eq!(
                judge(status.as_ref(), put, phase, &expect),
                expected,
                "{status:?} {phase:?} {reason:?}"
            );
        }
    }

    #[test]
    fn a_refusal_is_of_the_revision_it_refuses() {
        let refused = Status { revision: 5, ..status(Phase::Failed, 1, "MalformedDesired") };
        let expect = StatusExpectation { reason: Some("MalformedDesired".to_owned()), ..Default::default() };
        for generation in [None, Some(2)] {
            let judge =
                |revision| judge(Some(&refused), Put { revision, generation }, Some(Phase::Failed), &expect);
            assert_eq!((judge(5), judge(6)), (Judgement::Met, Judgement::NotYet), "{generation:?}");
        }
    }

    #[test]
    fn init_containers_are_told_in_their_order_with_how_they_ended() {
        let init = |name: &str, exit_code, timed_out| ContainerStatus {
            name: ContainerName::new(name).unwrap(),
            id: String::new(),
            state: "exited".to_owned(),
            image: "i".to_owned(),
            exit_code: Some(exit_code),
            end: Some(ContainerEnd {
                exit_code,
                timed_out,
                log_tail: format!("end of {name}"),
                ..Default::default()
            }),
        };
        let status = Status {
            init_containers: vec![init("a", 0, false), init("b", 3, false), init("c", -1, true)],
            ..status(Phase::Failed, 1, "")
        };
        let wanted = |name: &str, exit_code, timed_out, log: Option<&str>| InitExpectation {
            name: ContainerName::new(name).unwrap(),
            exit_code,
            timed_out,
            log: log.map(str::to_owned),
        };
        let table = [
            (vec![wanted("a", Some(0), false, None), wanted("b", Some(3), false, Some("^end of b"))], true),
            (vec![wanted("a", None, false, None), wanted("c", None, true, None)], true),
            (vec![wanted("b", None, false, None), wanted("a", None, false, None)], false),
            (vec![wanted("b", Some(0), false, None)], false),
            (vec![wanted("c", None, false, None)], false),
            (vec![wanted("a", None, false, Some("nothing"))], false),
        ];
        for (init_containers, fit) in table {
            let expect = StatusExpectation { init_containers, ..Default::default() };
            assert_eq!(fits(&status, &expect), fit, "{expect:?}");
        }
    }
}
