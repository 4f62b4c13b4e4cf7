//! From a run's fault to its verdict, by what is under test.

use crate::model::run::{Fault, FaultKind, Outcome, Verdict};
use crate::model::scenario::UnderTest;

/// The outcome of a run whose first fault, if any, is `fault`, seen during `step`.
///
/// A fault of our own parts is never blamed on the product: a kernel panic while the agent or a
/// workload is under test is the lab's, since the kernel is ours. A device that goes away is always the
/// lab's: a virtual machine ends when its guest restarts, but also when the host takes it away, and
/// nothing tells which.
pub fn outcome(under_test: UnderTest, fault: Option<&Fault>, step: Option<usize>) -> Outcome {
    let Some(fault) = fault else {
        return Outcome { verdict: Verdict::Passed, reason: String::new(), device: None, step: None };
    };
    let ours_boots = matches!(under_test, UnderTest::Image | UnderTest::Kernel);
    let verdict = match fault.kind {
        FaultKind::Expectation => Verdict::Failed,
        FaultKind::Panic if ours_boots => Verdict::Failed,
        FaultKind::Agent if matches!(under_test, UnderTest::Agent | UnderTest::Image) => Verdict::Failed,
        FaultKind::Panic | FaultKind::Gone | FaultKind::Agent | FaultKind::AgentMismatch | FaultKind::Lab => {
            Verdict::Lab
        }
        FaultKind::BootTimeout | FaultKind::StepTimeout => Verdict::Timeout,
        FaultKind::Cancelled => Verdict::Cancelled,
        FaultKind::Unmet => Verdict::Skipped,
    };
    Outcome { verdict, reason: fault.cause.clone(), device: fault.device.clone(), step }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_blamed() {
        use FaultKind as F;
        use UnderTest as U;
        use Verdict as V;
        let table = [
            (U::Agent, F::Expectation, V::Failed),
            (U::Workload, F::Expectation, V::Failed),
            (U::Agent, F::Panic, V::Lab),
            (U::Workload, F::Panic, V::Lab),
            (U::Kernel, F::Panic, V::Failed),
            (U::Image, F::Panic, V::Failed),
            (U::Agent, F::Agent, V::Failed),
            (U::Image, F::Agent, V::Failed),
            (U::Workload, F::Agent, V::Lab),
            (U::Agent, F::AgentMismatch, V::Lab),
            (U::Agent, F::Lab, V::Lab),
            (U::Image, F::Gone, V::Lab),
            (U::Image, F::BootTimeout, V::Timeout),
            (U::Agent, F::StepTimeout, V::Timeout),
            (U::Agent, F::Cancelled, V::Cancelled),
            (U::Agent, F::Unmet, V::Skipped),
        ];
        for (under_test, kind, verdict) in table {
            let fault = Fault { kind, cause: "because".to_owned(), device: None };
            let outcome = outcome(under_test, Some(&fault), Some(3));
            assert_eq!(outcome.verdict, verdict, "{under_test:?} {kind:?}");
            assert_eq!((outcome.reason.as_str(), outcome.step), ("because", Some(3)));
        }
    }

    #[test]
    fn no_fault_is_a_pass() {
        assert_eq!(outcome(UnderTest::Agent, None, None).verdict, Verdict::Passed);
    }
}
