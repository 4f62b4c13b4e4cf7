//! What to do so that the containers there are become the containers that should be.
//!
//! Level-triggered: the plan depends only on what is wanted and what is seen now, so an event that was
//! lost, doubled or late changes nothing. A service is known by its deployment and name, its
//! specification by a hash; what has the right hash is left alone.

use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::RestartPolicy;
use std::collections::{BTreeMap, BTreeSet};

/// A service that should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedService {
    /// Its name in the deployment.
    pub name: ContainerName,
    /// Hash of its specification.
    pub hash: String,
    /// When it is started again after it ended.
    pub restart: RestartPolicy,
}

/// A container that carries this device's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenService {
    /// The runtime's id of it.
    pub id: String,
    /// Whose it is.
    pub deployment: DeploymentName,
    /// Which service it is.
    pub service: ContainerName,
    /// Hash of the specification it was made from.
    pub hash: String,
    /// What it does.
    pub state: SeenState,
}

/// What a container does, as far as planning needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenState {
    /// It runs.
    Running,
    /// It was made and has not run in this boot.
    NotStarted,
    /// It ran and ended.
    Ended {
        /// Its exit code.
        code: i32,
    },
    /// The runtime lost sight of it: it must be made anew.
    Lost,
    /// It runs, but its health check fails: it must be made anew.
    Unhealthy,
    /// Between states, or in one that only a person puts it into: look again later.
    Other,
}

/// Something to do for one deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove a container that should not be.
    Remove {
        /// Its id.
        id: String,
    },
    /// Remove a container that the runtime lost sight of, without asking it to end.
    Discard {
        /// Its id.
        id: String,
    },
    /// Start a container that is as it should be.
    Start {
        /// Its id.
        id: String,
    },
    /// Make and start a service, in place of the containers that had its name. They go only when all
    /// images of the deployment are there.
    Create {
        /// Its name.
        service: ContainerName,
        /// The ids of those in its place.
        replaces: Vec<String>,
    },
}

/// What is known when planning.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The deployments that the index names; none when no index has ever been seen.
    pub listed: Option<&'a BTreeSet<DeploymentName>>,
    /// Deployments whose own key was deleted.
    pub deleted: &'a BTreeSet<DeploymentName>,
    /// What should run.
    pub wanted: &'a BTreeMap<DeploymentName, Vec<WantedService>>,
    /// What there is.
    pub seen: &'a [SeenService],
    /// The containers that ended and whose pause is over (`plan::restart`).
    pub rested: &'a BTreeSet<String>,
}

impl Known<'_> {
    /// Whether a deployment should be gone. Without an index only a deletion of its own says so.
    pub fn is_unwanted(&self, deployment: &DeploymentName) -> bool {
        self.deleted.contains(deployment) || self.listed.is_some_and(|listed| !listed.contains(deployment))
    }
}

/// The steps of each deployment that has any.
pub fn plan(known: Known<'_>) -> BTreeMap<DeploymentName, Vec<Step>> {
    let mut seen: BTreeMap<&DeploymentName, Vec<&SeenService>> = BTreeMap::new();
    for service in known.seen {
        seen.entry(&service.deployment).or_default().push(service);
    }
    let names: BTreeSet<&DeploymentName> = known.wanted.keys().chain(seen.keys().copied()).collect();
    let mut plan = BTreeMap::new();
    for name in names {
        let there = seen.get(name).map(Vec::as_slice).unwrap_or_default();
        let steps = if known.is_unwanted(name) {
            there.iter().map(|service| Step::Remove { id: service.id.clone() }).collect()
        } else if let Some(wanted) = known.wanted.get(name) {
            converge(wanted, there, known.rested)
        } else {
            // Named by the index, but its value has not been understood: what runs stays.
            Vec::new()
        };
        if !steps.is_empty() {
            plan.insert(name.clone(), steps);
        }
    }
    plan
}

fn converge(wanted: &[WantedService], seen: &[&SeenService], rested: &BTreeSet<String>) -> Vec<Step> {
    let gone = seen.iter().filter(|there| wanted.iter().all(|service| service.name != there.service));
    let mut steps: Vec<Step> = gone.map(|there| Step::Remove { id: there.id.clone() }).collect();
    for service in wanted {
        let same = seen.iter().copied().filter(|there| there.service == service.name);
        let (lost, mut same): (Vec<&SeenService>, Vec<&SeenService>) =
            same.partition(|there| there.state == SeenState::Lost);
        steps.extend(lost.iter().map(|there| Step::Discard { id: there.id.clone() }));
        let fit = |there: &&SeenService| there.hash == service.hash && there.state != SeenState::Unhealthy;
        let keep = same.iter().position(fit);
        let Some(keep) = keep.map(|at| same.swap_remove(at)) else {
            let replaces = same.iter().map(|there| there.id.clone()).collect();
            steps.push(Step::Create { service: service.name.clone(), replaces });
            continue;
        };
        steps.extend(same.iter().map(|there| Step::Remove { id: there.id.clone() }));
        let due = keep.state == SeenState::NotStarted || rested.contains(&keep.id);
        if due && should_start(service.restart, keep.state) {
            steps.push(Step::Start { id: keep.id.clone() });
        }
    }
    steps
}

/// Whether a container that is as it should be is to be started, now or after a pause.
fn should_start(restart: RestartPolicy, state: SeenState) -> bool {
    match (state, restart) {
        (SeenState::NotStarted, _) | (SeenState::Ended { .. }, RestartPolicy::Always) => true,
        (SeenState::Ended { code }, RestartPolicy::OnFailure) => code != 0,
        (SeenState::Ended { .. }, RestartPolicy::No)
        | (SeenState::Running | SeenState::Lost | SeenState::Unhealthy | SeenState::Other, _) => false,
    }
}

/// The containers that ended and whose services are to be started again.
pub fn ended<'a>(
    wanted: &'a [WantedService],
    seen: &'a [SeenService],
) -> impl Iterator<Item = &'a SeenService> {
    let again = |service: &'a WantedService| {
        seen.iter().find(|there| there.service == service.name && there.hash == service.hash).filter(
            |there| {
                matches!(there.state, SeenState::Ended { .. }) && should_start(service.restart, there.state)
            },
        )
    };
    wanted.iter().filter_map(again)
}

/// How a deployment stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// All services run, or have done what they should and are not to run again.
    Running {
        /// How many run.
        running: usize,
        /// How many have ended as they should.
        completed: usize,
    },
    /// Some are not there yet.
    Waiting {
        /// Which.
        services: Vec<ContainerName>,
    },
    /// One ended and is to be started again.
    Restarting {
        /// Which.
        service: ContainerName,
        /// Its exit code.
        code: i32,
    },
    /// One ended with a failure and is not started again.
    Exited {
        /// Which.
        service: ContainerName,
        /// The container's id.
        id: String,
        /// Its exit code.
        code: i32,
    },
}

/// How the wanted services of one deployment stand, given that deployment's containers.
pub fn standing(wanted: &[WantedService], seen: &[SeenService]) -> Standing {
    let (mut running, mut completed, mut waiting, mut restarting) = (0, 0, Vec::new(), None);
    for service in wanted {
        let there = seen.iter().find(|there| there.service == service.name && there.hash == service.hash);
        match there.map(|there| (there.state, there)) {
            Some((SeenState::Running, _)) => running += 1,
            Some((SeenState::Ended { code }, there)) if !should_start(service.restart, there.state) => {
                if code != 0 {
                    return Standing::Exited { service: service.name.clone(), id: there.id.clone(), code };
                }
                completed += 1;
            }
            Some((SeenState::Ended { code }, _)) => {
                restarting.get_or_insert(Standing::Restarting { service: service.name.clone(), code });
            }
            _ => waiting.push(service.name.clone()),
        }
    }
    match restarting {
        Some(restarting) => restarting,
        None if waiting.is_empty() => Standing::Running { running, completed },
        None => Standing::Waiting { services: waiting },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn deployment(name: &str) -> DeploymentName {
        DeploymentName::new(name).unwrap()
    }

    fn wanted(name: &str, hash: &str, restart: RestartPolicy) -> WantedService {
        WantedService { name: ContainerName::new(name).unwrap(), hash: hash.into(), restart }
    }

    fn seen(id: &str, of: &str, name: &str, hash: &str, state: SeenState) -> SeenService {
        let service = ContainerName::new(name).unwrap();
        SeenService { id: id.into(), deployment: deployment(of), service, hash: hash.into(), state }
    }

    fn steps(wanted_services: Vec<WantedService>, there: &[SeenService]) -> Vec<Step> {
        let wanted = BTreeMap::from([(deployment("d"), wanted_services)]);
        let listed = BTreeSet::from([deployment("d")]);
        let deleted = BTreeSet::new();
        let rested = ids(there);
        plan(Known {
            listed: Some(&listed),
            deleted: &deleted,
            wanted: &wanted,
            seen: there,
            rested: &rested,
        })
        .remove(&deployment("d"))
        .unwrap_or_default()
    }

    /// None of them has to wait.
    fn ids(there: &[SeenService]) -> BTreeSet<String> {
        there.iter().map(|service| service.id.clone()).collect()
    }

    fn create(name: &str, replaces: &[&str]) -> Step {
        let replaces = replaces.iter().map(|&id| id.to_owned()).collect();
        Step::Create { service: ContainerName::new(name).unwrap(), replaces }
    }

    #[test]
    fn a_deployment_converges_from_whatever_there_is() {
        use RestartPolicy::{Always, No, OnFailure};
        use SeenState::{Ended, NotStarted, Other, Running};
        let start = |id: &str| Step::Start { id: id.into() };
        let remove = |id: &str| Step::Remove { id: id.into() };
        type Case = (&'static str, Vec<WantedService>, Vec<SeenService>, Vec<Step>);
        let cases: Vec<Case> = vec![
            ("nothing there", vec![wanted("a", "1", Always)], vec![], vec![create("a", &[])]),
            (
                "as it should be",
                vec![wanted("a", "1", Always)],
                vec![seen("x", "d", "a", "1", Running)],
                vec![],
            ),
            (
                "upgrade",
                vec![wanted("a", "2", Always)],
                vec![seen("x", "d", "a", "1", Running)],
                vec![create("a", &["x"])],
            ),
            ("service dropped", vec![], vec![seen("x", "d", "a", "1", Running)], vec![remove("x")]),
            (
                "power cut",
                vec![wanted("a", "1", Always)],
                vec![seen("x", "d", "a", "1", NotStarted)],
                vec![start("x")],
            ),
            (
                "ended, always",
                vec![wanted("a", "1", Always)],
                vec![seen("x", "d", "a", "1", Ended { code: 0 })],
                vec![start("x")],
            ),
            (
                "done",
                vec![wanted("a", "1", OnFailure)],
                vec![seen("x", "d", "a", "1", Ended { code: 0 })],
                vec![],
            ),
            (
                "crashed",
                vec![wanted("a", "1", OnFailure)],
                vec![seen("x", "d", "a", "1", Ended { code: 3 })],
                vec![start("x")],
            ),
            (
                "crashed for good",
                vec![wanted("a", "1", No)],
                vec![seen("x", "d", "a", "1", Ended { code: 3 })],
                vec![],
            ),
            (
                "lost by the runtime",
                vec![wanted("a", "1", Always)],
                vec![seen("x", "d", "a", "1", SeenState::Lost)],
                vec![Step::Discard { id: "x".into() }, create("a", &[])],
            ),
            (
                "unhealthy",
                vec![wanted("a", "1", Always)],
                vec![seen("x", "d", "a", "1", SeenState::Unhealthy)],
                vec![create("a", &["x"])],
            ),
            ("unknown state", vec![wanted("a", "1", Always)], vec![seen("x", "d", "a", "1", Other)], vec![]),
            (
                "a second container of the same service",
                vec![wanted("a", "1", Always)],
                vec![seen("x", "d", "a", "0", Running), seen("y", "d", "a", "1", Running)],
                vec![remove("x")],
            ),
            (
                "order is the score's",
                vec![wanted("b", "1", Always), wanted("a", "1", Always)],
                vec![],
                vec![create("b", &[]), create("a", &[])],
            ),
        ];
        for (what, services, there, expected) in cases {
            assert_eq!(steps(services, &there), expected, "{what}");
        }
    }

    #[test]
    fn without_an_index_nothing_is_removed_but_what_was_deleted_by_name() {
        let there =
            [seen("x", "old", "a", "1", SeenState::Running), seen("y", "gone", "a", "1", SeenState::Running)];
        let (wanted, deleted) = (BTreeMap::new(), BTreeSet::from([deployment("gone")]));
        let rested = ids(&there);
        let known = Known { listed: None, deleted: &deleted, wanted: &wanted, seen: &there, rested: &rested };
        let none = plan(known);
        assert_eq!(none, BTreeMap::from([(deployment("gone"), vec![Step::Remove { id: "y".into() }])]));
        let empty = BTreeSet::new();
        let all = plan(Known { listed: Some(&empty), ..known });
        assert_eq!(all.len(), 2, "an index that names nothing removes all");
    }

    #[test]
    fn a_listed_deployment_without_a_value_keeps_what_runs() {
        let there = [seen("x", "d", "a", "1", SeenState::Running)];
        let listed = BTreeSet::from([deployment("d")]);
        let (wanted, deleted) = (BTreeMap::new(), BTreeSet::new());
        let (listed, rested) = (Some(&listed), ids(&there));
        let plan = plan(Known { listed, deleted: &deleted, wanted: &wanted, seen: &there, rested: &rested });
        assert_eq!(plan, BTreeMap::new());
    }

    #[test]
    fn what_ended_is_started_again_as_its_policy_says_and_when_its_pause_is_over() {
        use RestartPolicy::{Always, No, OnFailure};
        use SeenState::{Ended, NotStarted};
        let (wanted_of, deleted, listed) =
            (deployment("d"), BTreeSet::new(), BTreeSet::from([deployment("d")]));
        for (restart, state, is_again, at_once) in [
            (Always, Ended { code: 0 }, true, false),
            (Always, Ended { code: 3 }, true, false),
            (OnFailure, Ended { code: 3 }, true, false),
            (OnFailure, Ended { code: 0 }, false, false),
            (No, Ended { code: 3 }, false, false),
            (No, Ended { code: 0 }, false, false),
            // After a reboot of the device nothing has ended.
            (Always, NotStarted, false, true),
            (No, NotStarted, false, true),
        ] {
            let services = vec![wanted("a", "1", restart)];
            let there = [seen("x", "d", "a", "1", state)];
            let what = format!("{restart:?} {state:?}");
            assert_eq!(ended(&services, &there).count(), usize::from(is_again), "{what}");
            let restarting = matches!(standing(&services, &there), Standing::Restarting { .. });
            assert_eq!(restarting, is_again, "{what}");
            let wanted = BTreeMap::from([(wanted_of.clone(), services)]);
            for (rested, starts) in [(BTreeSet::new(), at_once), (ids(&there), is_again || at_once)] {
                let known = Known {
                    listed: Some(&listed),
                    deleted: &deleted,
                    wanted: &wanted,
                    seen: &there,
                    rested: &rested,
                };
                assert_eq!(!plan(known).is_empty(), starts, "{what}, rested {rested:?}");
            }
        }
        let other = [seen("x", "d", "a", "2", Ended { code: 3 })];
        assert_eq!(ended(&[wanted("a", "1", Always)], &other).count(), 0, "one that is replaced");
    }

    #[test]
    fn standing_tells_running_from_waiting_from_failed() {
        use RestartPolicy::{Always, No};
        let services = [wanted("a", "1", Always), wanted("b", "1", No)];
        let a = seen("x", "d", "a", "1", SeenState::Running);
        let b = |state| seen("y", "d", "b", "1", state);
        assert_eq!(
            standing(&services, &[a.clone(), b(SeenState::Ended { code: 0 })]),
            Standing::Running { running: 1, completed: 1 }
        );
        assert!(matches!(
            standing(&services, &[a.clone(), b(SeenState::Ended { code: 1 })]),
            Standing::Exited { code: 1, .. }
        ));
        let crashed = seen("x", "d", "a", "1", SeenState::Ended { code: 5 });
        assert!(matches!(standing(&services, &[crashed]), Standing::Restarting { code: 5, .. }));
        assert!(matches!(standing(&services, &[a]), Standing::Waiting { .. }));
        assert_eq!(standing(&[], &[]), Standing::Running { running: 0, completed: 0 });
    }

    fn any_state() -> impl Strategy<Value = SeenState> {
        prop_oneof![
            Just(SeenState::Running),
            Just(SeenState::NotStarted),
            (0..3).prop_map(|code| SeenState::Ended { code }),
            Just(SeenState::Lost),
            Just(SeenState::Unhealthy),
            Just(SeenState::Other),
        ]
    }

    proptest! {
        /// Doing what is planned, once, leaves nothing to plan: no plan fights itself.
        #[test]
        fn one_round_converges(
            wants in proptest::collection::btree_map("[abc]", "[12]", 0..3),
            there in proptest::collection::vec(("[de]", "[abc]", "[12]", any_state()), 0..8),
        ) {
            let services: Vec<_> = wants.iter().map(|(n, h)| wanted(n, h, RestartPolicy::Always)).collect();
            let mut there: Vec<SeenService> = there
                .iter()
                .enumerate()
                .filter(|(_, (_, _, _, state))| *state != SeenState::Other)
                .map(|(at, (of, name, hash, state))| seen(&at.to_string(), of, name, hash, *state))
                .collect();
            let wanted = BTreeMap::from([(deployment("d"), services)]);
            let listed = BTreeSet::from([deployment("d")]);
            let deleted = BTreeSet::new();
            let before = there.clone();
            let round = |there: &[SeenService]| {
                let rested = ids(there);
                plan(Known { listed: Some(&listed), deleted: &deleted, wanted: &wanted, seen: there, rested: &rested })
            };
            for (of, steps) in round(&before) {
                for step in steps {
                    match step {
                        Step::Remove { id } | Step::Discard { id } => there.retain(|container| container.id != id),
                        Step::Start { id } => {
                            there.iter_mut().filter(|c| c.id == id).for_each(|c| c.state = SeenState::Running);
                        }
                        Step::Create { service, replaces } => {
                            there.retain(|container| !replaces.contains(&container.id));
                            let hash = wants[service.as_str()].clone();
                            let id = format!("new-{service}");
                            let deployment = of.clone();
                            there.push(SeenService { id, deployment, service, hash, state: SeenState::Running });
                        }
                    }
                }
            }
            prop_assert_eq!(round(&there), BTreeMap::new());
            let kept = |c: &&SeenService| c.deployment == deployment("d") && c.state == SeenState::Running
                && wants.get(c.service.as_str()) == Some(&c.hash);
            for service in before.iter().filter(kept).map(|c| &c.service).collect::<BTreeSet<_>>() {
                prop_assert!(there.iter().any(|c| &c.service == service && !c.id.starts_with("new-")),
                    "an unchanged service was replaced");
            }
        }
    }
}
