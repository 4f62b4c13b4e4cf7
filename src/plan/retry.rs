//! Whether a run is tried again after an attempt, where, and for how long.
//!
//! Only what is not the product's fault is tried again: a `failed` run stays failed, and a `timeout` as well, since the
//! product may be its cause. Each attempt has the same time to itself. What does not fit under the cap as a whole is not
//! begun: a shortened attempt would end in a time-out that means nothing.

use crate::model::id::DeviceId;
use crate::model::run::Verdict;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often a run is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How many times after a fault of the device.
    pub device: u32,
    /// How many times after a fault of the lab.
    pub lab: u32,
    /// The time of each attempt.
    pub attempt: Duration,
    /// The time of all of them together.
    pub cap: Duration,
}

/// An attempt that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// How.
    pub verdict: Verdict,
    /// On which devices.
    pub devices: Vec<DeviceId>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The run ends so.
    Done(Verdict),
    /// It has not begun, and no attempt fits under the cap any more.
    TooLate,
    /// An attempt.
    Try {
        /// On other devices than these.
        avoid: BTreeSet<DeviceId>,
        /// No other device, no attempt: a device at fault is not asked again. Of the lab's faults another device is
        /// merely the better guess.
        strictly: bool,
        /// How long it may take.
        budget: Duration,
    },
}

/// What comes after `attempts`, in their order, when `elapsed` of the cap is over.
pub fn next(policy: &Policy, attempts: &[Attempt], elapsed: Duration) -> Next {
    let fits = elapsed.saturating_add(policy.attempt) <= policy.cap;
    let Some(last) = attempts.last() else {
        let avoid = BTreeSet::new();
        return if fits {
            Next::Try { avoid, strictly: false, budget: policy.attempt }
        } else {
            Next::TooLate
        };
    };
    let ended_so = |verdict| attempts.iter().filter(|attempt| attempt.verdict == verdict).count();
    let allowed = match last.verdict {
        Verdict::Device => policy.device,
        Verdict::Lab => policy.lab,
        Verdict::Passed | Verdict::Failed | Verdict::Timeout | Verdict::Cancelled | Verdict::Skipped => 0,
    };
    let left = usize::try_from(allowed).is_ok_and(|allowed| ended_so(last.verdict) <= allowed);
    if !left || !fits {
        return Next::Done(last.verdict);
    }
    let avoid = attempts.iter().flat_map(|attempt| attempt.devices.iter().cloned()).collect();
    Next::Try { avoid, strictly: ended_so(Verdict::Device) > 0, budget: policy.attempt }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const POLICY: Policy = Policy { device: 2, lab: 1, attempt: MINUTE, cap: Duration::from_secs(600) };

    fn attempt(verdict: Verdict, device: &str) -> Attempt {
        Attempt { verdict, devices: vec![DeviceId::new(device).unwrap()] }
    }

    #[test]
    fn each_kind_of_fault_has_a_budget_of_its_own() {
        use Verdict::{Device, Lab, Passed};
        let table: &[(&[Verdict], Option<Verdict>)] = &[
            (&[], None),
            (&[Device], None),
            (&[Device, Device], None),
            (&[Device, Device, Device], Some(Device)),
            (&[Device, Lab], None),
            (&[Lab, Device, Device], None),
            (&[Lab, Lab], Some(Lab)),
            (&[Device, Passed], Some(Passed)),
        ];
        for (verdicts, done) in table {
            let attempts: Vec<_> = verdicts.iter().map(|verdict| attempt(*verdict, "lab-pi-1")).collect();
            let next = next(&POLICY, &attempts, Duration::ZERO);
            match (next, done) {
                (Next::Done(verdict), Some(wanted)) if verdict == *wanted => {}
                (Next::Try { .. }, None) => {}
                (next, _) => panic!("{verdicts:?} gave {next:?}"),
            }
        }
    }

    #[test]
    fn another_device_is_asked() {
        let attempts = [attempt(Verdict::Lab, "lab-pi-1"), attempt(Verdict::Device, "lab-pi-2")];
        let both: BTreeSet<_> = attempts.iter().flat_map(|attempt| attempt.devices.clone()).collect();
        let wanted = |avoid, strictly| Next::Try { avoid, strictly, budget: MINUTE };
        assert_eq!(next(&POLICY, &attempts, MINUTE), wanted(both.clone(), true));
        let first = attempts[0].devices.iter().cloned().collect();
        assert_eq!(next(&POLICY, &attempts[..1], MINUTE), wanted(first, false));
    }

    #[test]
    fn what_never_fits_is_told() {
        assert_eq!(next(&POLICY, &[], Duration::from_secs(541)), Next::TooLate);
        assert!(matches!(next(&POLICY, &[], Duration::from_secs(540)), Next::Try { .. }));
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        use Verdict::*;
        prop::sample::select(vec![Passed, Failed, Device, Lab, Timeout, Cancelled, Skipped])
    }

    proptest! {
        /// Drives whole runs whose attempts end as drawn, each after a part of its budget.
        #[test]
        fn a_product_fault_ends_a_run_and_no_attempt_is_shorter_than_another(
            device in 0_u32..4, lab in 0_u32..4, attempt in 1_u64..100, cap in 0_u64..600,
            ends in prop::collection::vec((verdict(), 1_u64..=100), 1..12),
        ) {
            let policy = Policy {
                device, lab, attempt: Duration::from_secs(attempt), cap: Duration::from_secs(cap),
            };
            let (mut attempts, mut elapsed) = (Vec::new(), Duration::ZERO);
            for (verdict, percent) in ends {
                match next(&policy, &attempts, elapsed) {
                    Next::Try { avoid, budget, .. } => {
                        prop_assert_eq!(budget, policy.attempt);
                        prop_assert!(elapsed + budget <= policy.cap);
                        prop_assert!(attempts.iter().all(|a: &Attempt| matches!(a.verdict, Verdict::Device | Verdict::Lab)));
                        prop_assert_eq!(avoid.len(), attempts.len());
                        let device = DeviceId::new(format!("lab-pi-{}", attempts.len())).unwrap();
                        attempts.push(Attempt { verdict, devices: vec![device] });
                        elapsed += budget.mul_f64(f64::from(u32::try_from(percent).unwrap()) / 100.0);
                    }
                    Next::Done(done) => {
                        prop_assert_eq!(Some(done), attempts.last().map(|a| a.verdict));
                        let any_failed = attempts.iter().any(|a| a.verdict == Verdict::Failed);
                        prop_assert!(!any_failed || done == Verdict::Failed, "retried into {}", done);
                        break;
                    }
                    Next::TooLate => {
                        prop_assert!(attempts.is_empty() && elapsed + policy.attempt > policy.cap);
                        break;
                    }
                }
            }
            let count = |verdict| attempts.iter().filter(|a| a.verdict == verdict).count();
            prop_assert!(count(Verdict::Device) <= device as usize + 1 && count(Verdict::Lab) <= lab as usize + 1);
            prop_assert!(elapsed <= policy.cap);
        }
    }
}
