//! Whether a change of a deployment is kept or undone.
//!
//! ```text
//!   change ──► brought up ──► on probation ──► good: what a later failure goes back to
//!                  │               │
//!                  └── failed ─────┴──► bad: the good one is brought up again, and stays until another
//!                                       value is put
//! ```
//!
//! Without a good one to go back to, nothing is undone: what failed is tried again.

use super::reconcile::Standing;
use crate::model::id::ContainerName;
use std::collections::BTreeMap;
use std::time::Duration;

/// Which of two sets of containers is to be brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one that is wanted.
    Wanted,
    /// The last good one: the wanted one is known to fail.
    Good,
}

/// Chooses; sets are known by their hashes.
pub fn target(wanted: &str, wanted_is_bad: bool, good: Option<&str>) -> Target {
    if wanted_is_bad && good.is_some_and(|good| good != wanted) { Target::Good } else { Target::Wanted }
}

/// The probation of a set that was brought up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probation {
    /// Since when all of it runs.
    since: Option<Duration>,
    /// When each service was started first, as the runtime tells.
    starts: BTreeMap<ContainerName, u64>,
}

/// How a probation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// Not all of it runs yet.
    Waiting,
    /// All of it runs; to be looked at again at this time.
    Until(Duration),
    /// It ran long enough.
    Passed,
    /// A service did not last.
    Failed {
        /// Which.
        service: ContainerName,
        /// Why, one line.
        cause: String,
    },
}

impl Probation {
    /// Takes a look at `now`: how the services stand, which is unhealthy, and when the runtime started each.
    pub fn observe(
        &mut self,
        standing: &Standing,
        unhealthy: Option<&ContainerName>,
        starts: &BTreeMap<ContainerName, u64>,
        length: Duration,
        now: Duration,
    ) -> Trial {
        if let Some(service) = unhealthy {
            let cause = format!("{service} became unhealthy within its probation");
            return Trial::Failed { service: service.clone(), cause };
        }
        if let Standing::Exited { service, code, .. } | Standing::Restarting { service, code } = standing {
            let cause = format!("{service} ended with exit code {code} within its probation");
            return Trial::Failed { service: service.clone(), cause };
        }
        for (service, started) in starts.iter().filter(|(_, started)| **started > 0) {
            let first = *self.starts.entry(service.clone()).or_insert(*started);
            if *started > first {
                let cause = format!("{service} ended within its probation and was started again");
                return Trial::Failed { service: service.clone(), cause };
            }
        }
        if !matches!(standing, Standing::Running { .. }) {
            self.since = None;
            return Trial::Waiting;
        }
        let until = *self.since.get_or_insert(now) + length;
        if now >= until { Trial::Passed } else { Trial::Until(until) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn web() -> ContainerName {
        ContainerName::new("web").unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn running() -> Standing {
        Standing::Running { running: 1, completed: 0 }
    }

    fn waiting() -> Standing {
        Standing::Waiting { services: vec![web()] }
    }

    fn starts(second: u64) -> BTreeMap<ContainerName, u64> {
        BTreeMap::from([(web(), second)])
    }

    #[test]
    fn only_a_known_failure_with_something_to_go_back_to_is_undone() {
        assert_eq!(target("b", true, Some("a")), Target::Good);
        assert_eq!(target("b", true, None), Target::Wanted);
        assert_eq!(target("b", false, Some("a")), Target::Wanted);
        assert_eq!(target("a", true, Some("a")), Target::Wanted, "what is good is no fallback of itself");
    }

    #[test]
    fn what_runs_through_its_probation_passes() {
        let mut probation = Probation::default();
        assert_eq!(probation.observe(&waiting(), None, &starts(0), LENGTH, at(0)), Trial::Waiting);
        assert_eq!(probation.observe(&running(), None, &starts(7), LENGTH, at(3)), Trial::Until(at(13)));
        assert_eq!(probation.observe(&running(), None, &starts(7), LENGTH, at(12)), Trial::Until(at(13)));
        assert_eq!(probation.observe(&running(), None, &starts(7), LENGTH, at(13)), Trial::Passed);
    }

    #[test]
    fn a_pause_begins_the_probation_anew() {
        let mut probation = Probation::default();
        probation.observe(&running(), None, &starts(7), LENGTH, at(0));
        assert_eq!(probation.observe(&waiting(), None, &starts(7), LENGTH, at(5)), Trial::Waiting);
        assert_eq!(probation.observe(&running(), None, &starts(7), LENGTH, at(6)), Trial::Until(at(16)));
    }

    #[test]
    fn an_end_or_another_start_fails_it() {
        let exited = Standing::Exited { service: web(), id: "x".into(), code: 3 };
        let mut probation = Probation::default();
        let Trial::Failed { cause, .. } = probation.observe(&exited, None, &starts(7), LENGTH, at(1)) else {
            panic!()
        };
        assert_eq!(cause, "web ended with exit code 3 within its probation");
        let restarting = Standing::Restarting { service: web(), code: 5 };
        let failed = Probation::default().observe(&restarting, None, &starts(7), LENGTH, at(1));
        let cause = "web ended with exit code 5 within its probation".to_owned();
        assert_eq!(failed, Trial::Failed { service: web(), cause });
        let mut probation = Probation::default();
        probation.observe(&waiting(), None, &starts(7), LENGTH, at(0));
        let Trial::Failed { cause, .. } = probation.observe(&running(), None, &starts(9), LENGTH, at(2))
        else {
            panic!()
        };
        assert_eq!(cause, "web ended within its probation and was started again");
        let unhealthy = Probation::default().observe(&waiting(), Some(&web()), &starts(7), LENGTH, at(1));
        assert!(matches!(unhealthy, Trial::Failed { service, .. } if service == web()));
    }
}
