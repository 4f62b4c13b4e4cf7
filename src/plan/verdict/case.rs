//! What a rule may ask of a run's stream: the fault that ended it, and what was seen before that on the same
//! device in the same boot attempt. What came later is a consequence, or another's.

use crate::model::boot::{BootAttempt, BootStage};
use crate::model::event::Event;
use crate::model::run::{Fault, FaultKind, RunEvent, RunFact, StepResult};
use crate::model::scenario::UnderTest;

/// A run whose stream holds a fault.
pub struct Case<'a> {
    under_test: UnderTest,
    events: &'a [RunEvent],
    /// The event that tells the first fault.
    told: &'a RunEvent,
    fault: &'a Fault,
    step: Option<usize>,
}

impl<'a> Case<'a> {
    /// The case of the stream's first fault; none when it holds none. One fault ends a run, so what is told after the
    /// first was seen while it was being ended.
    pub(super) fn of(under_test: UnderTest, events: &'a [RunEvent]) -> Option<Self> {
        let mut running = None;
        for told in events {
            let (fault, step) = match &told.fact {
                RunFact::StepStarted { step, .. } => {
                    running = Some(*step);
                    continue;
                }
                RunFact::StepEnded { step, result: StepResult::Fault { fault }, .. } => (fault, Some(*step)),
                RunFact::StepEnded { .. } => {
                    running = None;
                    continue;
                }
                RunFact::Fault { fault } => (fault, running),
                _ => continue,
            };
            return Some(Self { under_test, events, told, fault, step });
        }
        None
    }

    pub(super) fn fault(&self) -> &'a Fault {
        self.fault
    }

    pub(super) fn told(&self) -> &'a RunEvent {
        self.told
    }

    pub(super) fn step(&self) -> Option<usize> {
        self.step
    }

    pub(super) fn is(&self, kinds: &[FaultKind]) -> bool {
        kinds.contains(&self.fault.kind)
    }

    /// Whether what boots is what is judged.
    pub(super) fn boots_the_product(&self) -> bool {
        matches!(self.under_test, UnderTest::Image | UnderTest::Kernel)
    }

    /// Whether the agent is what is judged, or a part of it.
    pub(super) fn agent_is_the_product(&self) -> bool {
        matches!(self.under_test, UnderTest::Agent | UnderTest::Image)
    }

    /// Whether what is judged takes memory on the device.
    pub(super) fn takes_memory(&self) -> bool {
        matches!(self.under_test, UnderTest::Agent | UnderTest::Workload | UnderTest::Image)
    }

    /// What the faulty device's console showed of a stage in its last boot attempt before the fault, and the line.
    pub(super) fn stage(&self, wanted: BootStage) -> Option<(&'a RunEvent, &'a str)> {
        self.stages().find(|(_, stage, _)| *stage == wanted).map(|(event, _, line)| (event, line))
    }

    /// The last stage of progress.
    pub(super) fn reached(&self) -> Option<BootStage> {
        self.stages().filter(|(_, stage, _)| !stage.is_trouble()).last().map(|(_, stage, _)| stage)
    }

    /// Where the faulty device began anew in its last boot attempt, from a kernel that had told of no trouble and did not go down,
    /// and whether its agent had been seen before that.
    pub(super) fn began_anew(&self) -> Option<(&'a RunEvent, bool)> {
        let (mut kernel, mut agent) = (false, false);
        for event in self.of_attempt() {
            match &event.fact {
                RunFact::Device { event: Event::AgentAnswered { .. }, .. } => agent = true,
                RunFact::Stage { stage, boot, .. }
                | RunFact::Device { event: Event::Stage { stage, boot, .. }, .. } => match stage {
                    stage if stage.is_trouble() || *stage == BootStage::Restart => return None,
                    _ if *boot > 1 && kernel => return Some((event, agent)),
                    BootStage::Agent => agent = true,
                    BootStage::Kernel => kernel = true,
                    _ => {}
                },
                _ => {}
            }
        }
        None
    }

    fn stages(&self) -> impl Iterator<Item = (&'a RunEvent, BootStage, &'a str)> {
        self.of_attempt().filter_map(|event| match &event.fact {
            RunFact::Stage { stage, line, .. } => Some((event, *stage, line.as_str())),
            RunFact::Device { event: Event::Stage { stage, line, .. }, .. } => {
                Some((event, *stage, line.as_str()))
            }
            _ => None,
        })
    }

    /// The first thing of the faulty device's journal for which `pick` has words.
    pub(super) fn noted<T>(&self, pick: impl Fn(&'a Event) -> Option<T>) -> Option<(&'a RunEvent, T)> {
        self.of_attempt().find_map(|event| match &event.fact {
            RunFact::Device { event: what, .. } => pick(what).map(|found| (event, found)),
            _ => None,
        })
    }

    /// The hole in the console, if its line was not open all through the step, or the boot, that ended in the fault.
    pub(super) fn console_hole(&self) -> Option<(&'a RunEvent, &'a str)> {
        let began = self.events.iter().rev().find_map(|event| match &event.fact {
            RunFact::StepStarted { step, .. } if Some(*step) == self.step => Some(event.at.boot_ns),
            _ => None,
        });
        let mut hole = None;
        for event in self.of_attempt() {
            match &event.fact {
                RunFact::Device { event: Event::ConsoleGap { cause, .. }, .. } => {
                    hole = Some((event, cause.as_str()));
                }
                RunFact::Device { event: Event::ConsoleOpened {}, .. }
                    if began.is_some_and(|began| event.at.boot_ns < began) =>
                {
                    hole = None;
                }
                _ => {}
            }
        }
        hole
    }

    /// What is known of the faulty device's last boot attempt up to the fault; of all devices when the fault names none.
    fn of_attempt(&self) -> impl Iterator<Item = &'a RunEvent> {
        let last = self.before().map(|(attempt, _)| attempt).max();
        let anybody = self.fault.device.is_none();
        self.before().filter(move |(attempt, _)| anybody || Some(*attempt) == last).map(|(_, event)| event)
    }

    /// What has an earlier number came before. So may have what has a later one, for journals are read beside the run: its
    /// time tells. The host may have booted between the two, after which its boot clock began anew: both clocks must say so.
    fn before(&self) -> impl Iterator<Item = (BootAttempt, &'a RunEvent)> {
        let told = self.told;
        let came_before = move |event: &&RunEvent| {
            let earlier = event.at.boot_ns <= told.at.boot_ns && event.at.wall_ms <= told.at.wall_ms;
            event.seq < told.seq || earlier
        };
        self.events.iter().filter(came_before).filter_map(|event| {
            let (RunFact::Device { device, attempt, .. } | RunFact::Stage { device, attempt, .. }) =
                &event.fact
            else {
                return None;
            };
            let asked = self.fault.device.as_ref().is_none_or(|faulty| faulty == device);
            asked.then_some((*attempt, event))
        })
    }
}
