//! Whether a device starts from saved memory or has to boot. Pure.
//!
//! A start from saved memory shows no boot: whatever is about the boot itself needs a real one.

use crate::model::boot::BootStage;
use crate::model::scenario::{Action, Scenario, UnderTest};
use std::fmt;

/// How a device is started, where it has the choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// From saved memory, if the backend has some.
    Warm,
    /// By a boot.
    Cold(Cold),
}

/// Why a device has to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cold {
    /// Somebody asked for it.
    Asked,
    /// It is not the first start under this lease: the device restarted, or its power was switched.
    Again,
    /// What is judged is what boots.
    UnderTest(UnderTest),
    /// A step waits for something that only a boot shows, or restarts the device.
    Step {
        /// The step's name.
        step: String,
        /// What it needs the boot for.
        what: &'static str,
    },
}

impl fmt::Display for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("a cold start was asked for"),
            Self::Again => f.write_str("it is not the first start under this lease"),
            Self::UnderTest(UnderTest::Kernel) => f.write_str("the kernel is under test"),
            Self::UnderTest(_) => f.write_str("the image is under test"),
            Self::Step { step, what } => write!(f, "step {step:?} {what}"),
        }
    }
}

/// How the device in `role` gets to a scenario's first step; `cold` is whether its user wants it to boot.
pub fn start(scenario: &Scenario, role: &str, cold: bool) -> Start {
    if cold {
        return Start::Cold(Cold::Asked);
    }
    if matches!(scenario.under_test, UnderTest::Kernel | UnderTest::Image) {
        return Start::Cold(Cold::UnderTest(scenario.under_test));
    }
    let steps = scenario.steps.iter().chain(&scenario.cleanup);
    let needs = steps
        .filter(|step| step.action.role() == Some(role))
        .find_map(|step| Some(Cold::Step { step: step.name.clone(), what: needs_boot(&step.action)? }));
    needs.map_or(Start::Warm, Start::Cold)
}

/// What a step needs a boot for.
fn needs_boot(action: &Action) -> Option<&'static str> {
    match action {
        Action::Reboot { .. } => Some("restarts the device"),
        Action::PowerCycle { .. } => Some("switches its power"),
        Action::Console { stage: Some(stage), .. } => {
            before_wake(*stage).then_some("waits for a stage of the boot")
        }
        // What it matches is not known here.
        Action::Console { stage: None, .. } => Some("waits for what may be a line of the boot"),
        Action::Ping { .. }
        | Action::Deploy { .. }
        | Action::Delete { .. }
        | Action::WaitPhase { .. }
        | Action::Containers { .. }
        | Action::Verify { .. }
        | Action::Absent { .. }
        | Action::PutRaw { .. }
        | Action::Exec { .. }
        | Action::KillAgent { .. }
        | Action::CutNetwork { .. }
        | Action::RestoreNetwork { .. }
        | Action::ExpectDenied { .. }
        | Action::Apply { .. }
        | Action::Withdraw { .. }
        | Action::WaitDeployment { .. } => None,
    }
}

/// Whether the stage lies before the point at which memory is saved.
fn before_wake(stage: BootStage) -> bool {
    match stage {
        BootStage::Bootloader
        | BootStage::Firmware
        | BootStage::Kernel
        | BootStage::Initramfs
        | BootStage::Network
        | BootStage::Ticket
        | BootStage::SwitchRoot
        | BootStage::Systemd => true,
        BootStage::Sshd
        | BootStage::Agent
        | BootStage::Login
        | BootStage::Panic
        | BootStage::UnderVoltage
        | BootStage::Watchdog
        | BootStage::OutOfMemory
        | BootStage::Restart => false,
    }
}

/// Which of the machines that are to start from saved memory may, for each its memory in MiB: all of them together have at most
/// so much, so that the warm part of a pool does not push the host into swapping. The first ones go first; why not, for the others.
pub fn within(most_mib: u64, machines: &[u32]) -> Vec<Result<(), String>> {
    let mut sum = 0_u64;
    let fits = |memory: &u32| {
        let with = sum.saturating_add(u64::from(*memory));
        if with > most_mib {
            return Err(format!(
                "with its {memory} MiB, warm machines would have {with} MiB, and {most_mib} MiB is the most"
            ));
        }
        sum = with;
        Ok(())
    };
    machines.iter().map(fits).collect()
}

/// The least that saved memory may take of the disk where nobody has said how much, in MiB: that of some fifty machines.
const LEAST_DISK_MIB: u64 = 8192;

/// How much of the disk saved memory may take where nobody has said how much, in MiB, for each machine that is warm its memory.
/// No save is larger than that, so each of them has room for one.
pub fn most_disk_mib(machines: &[u32]) -> u64 {
    let all: u64 = machines.iter().map(|memory| u64::from(*memory)).sum();
    all.max(LEAST_DISK_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ScenarioName;
    use crate::model::scenario::Step;
    use proptest::prelude::*;
    use std::time::Duration;

    fn scenario(under_test: UnderTest, steps: Vec<Action>, cleanup: Vec<Action>) -> Scenario {
        let named = |actions: Vec<Action>| {
            let step = |(n, action)| Step { name: format!("s{n}"), timeout: Duration::from_secs(1), action };
            actions.into_iter().enumerate().map(step).collect()
        };
        Scenario {
            name: ScenarioName::new("s").unwrap(),
            summary: String::new(),
            under_test,
            boot_timeout: Duration::from_secs(1),
            needs: Vec::new(),
            steps: named(steps),
            cleanup: named(cleanup),
        }
    }

    fn on() -> String {
        "dut".to_owned()
    }

    fn console(stage: Option<BootStage>) -> Action {
        Action::Console { on: on(), stage, pattern: None }
    }

    #[test]
    fn what_is_about_the_boot_boots_and_says_why() {
        let ping = || Action::Ping { on: on() };
        let table = [
            (UnderTest::Agent, vec![ping(), console(Some(BootStage::Agent))], ""),
            (UnderTest::Workload, vec![ping()], ""),
            (UnderTest::Kernel, vec![ping()], "the kernel is under test"),
            (UnderTest::Image, vec![], "the image is under test"),
            (UnderTest::Agent, vec![ping(), Action::Reboot { on: on() }], "step \"s1\" restarts the device"),
            (UnderTest::Agent, vec![Action::PowerCycle { on: on() }], "step \"s0\" switches its power"),
            (
                UnderTest::Agent,
                vec![console(Some(BootStage::Kernel))],
                "step \"s0\" waits for a stage of the boot",
            ),
            (UnderTest::Agent, vec![console(None)], "step \"s0\" waits for what may be a line of the boot"),
        ];
        for (under_test, steps, expected) in table {
            for in_cleanup in [false, true] {
                let (steps, cleanup) =
                    if in_cleanup { (Vec::new(), steps.clone()) } else { (steps.clone(), Vec::new()) };
                let told = match start(&scenario(under_test, steps, cleanup), "dut", false) {
                    Start::Warm => String::new(),
                    Start::Cold(why) => why.to_string(),
                };
                assert_eq!(told, expected);
            }
        }
        let warm = scenario(UnderTest::Agent, vec![ping()], Vec::new());
        assert_eq!(start(&warm, "dut", true), Start::Cold(Cold::Asked));
    }

    #[test]
    fn the_first_that_fit_are_warm_and_the_others_are_told_why() {
        let fits = |most, machines: &[u32]| -> Vec<bool> {
            within(most, machines).iter().map(Result::is_ok).collect()
        };
        assert_eq!(fits(3000, &[1024, 1024, 1024, 512]), [true, true, false, true]);
        assert_eq!(fits(0, &[1]), [false]);
        let why = within(1500, &[1024, 1024]).pop().unwrap();
        let words = "with its 1024 MiB, warm machines would have 2048 MiB, and 1500 MiB is the most";
        assert_eq!(why, Err(words.to_owned()));
    }

    #[test]
    fn each_warm_machine_has_room_for_a_save() {
        assert_eq!(most_disk_mib(&[]), 8192);
        assert_eq!(most_disk_mib(&[1024; 4]), 8192);
        assert_eq!(most_disk_mib(&[4096; 4]), 16384);
    }

    proptest! {
        #[test]
        fn never_more_memory_than_the_most_is_warm(
            most in 0_u64..10_000, machines in prop::collection::vec(1_u32..5_000, 0..20),
        ) {
            let allowed = within(most, &machines);
            let warm = machines.iter().zip(&allowed).filter(|(_, allowed)| allowed.is_ok());
            prop_assert!(warm.map(|(memory, _)| u64::from(*memory)).sum::<u64>() <= most);
        }
    }

    #[test]
    fn a_step_on_another_device_is_none_of_its_business() {
        let scenario = scenario(UnderTest::Agent, vec![Action::Reboot { on: on() }], Vec::new());
        assert_eq!(start(&scenario, "other", false), Start::Warm);
    }
}
