//! From a run's stream of events to its verdict: rules, tried in order, of which the first that fits decides.
//!
//! Two things hold above all. What contradicts the product stays a fault of the product, however sick the lab is: it
//! is never called the device's or the lab's, so it is never tried again until it passes. And what the product may have
//! done and something else may have done as well is a `timeout` with a suspect: nobody is blamed by luck.

mod case;
mod suspect;

pub use case::Case;

use crate::model::boot::BootStage;
use crate::model::event::Event;
use crate::model::netboot::NetbootFact;
use crate::model::run::FaultKind as Kind;
use crate::model::run::{Outcome, RunEvent, RunFact, StepResult, Verdict};
use crate::model::scenario::UnderTest;
use suspect::{Suspect, boot_suspect};

/// One rule.
pub struct Rule {
    /// Its name, for reports about the rules.
    pub name: &'static str,
    /// What it says of a case; nothing when it does not fit.
    pub says: fn(&Case<'_>) -> Option<Ruling>,
}

/// What a rule says.
pub struct Ruling {
    verdict: Verdict,
    /// The number of the decisive event, and its words when they are not the fault's own.
    decisive: Option<(u64, String)>,
    suspect: Option<Suspect>,
}

impl Ruling {
    fn new(verdict: Verdict) -> Option<Self> {
        Some(Self { verdict, decisive: None, suspect: None })
    }

    fn because(verdict: Verdict, event: &RunEvent, words: String) -> Option<Self> {
        Some(Self { verdict, decisive: Some((event.seq, words)), suspect: None })
    }

    fn unclear(event: &RunEvent, words: String, suspect: Suspect) -> Option<Self> {
        Some(Self { verdict: Verdict::Timeout, decisive: Some((event.seq, words)), suspect: Some(suspect) })
    }
}

/// The rules in their order.
pub const RULES: &[Rule] = &[
    Rule { name: "somebody stopped it", says: stopped },
    Rule { name: "a need cannot be met", says: unmet },
    Rule { name: "it began anew by itself", says: began_anew },
    Rule { name: "the kernel under test panicked", says: panic_of_the_product },
    Rule { name: "a panic in a brown-out", says: panic_in_a_brown_out },
    Rule { name: "our own kernel panicked", says: panic_of_ours },
    Rule { name: "the product was contradicted", says: contradicted },
    Rule { name: "another agent answered", says: wrong_agent },
    Rule { name: "power was not switched", says: power_failed },
    Rule { name: "the lab could not do its part", says: lab },
    Rule { name: "memory ran out", says: out_of_memory },
    Rule { name: "a brown-out, or the product", says: brown_out_or_product },
    Rule { name: "a brown-out", says: brown_out },
    Rule { name: "the kernel under test hung", says: hang_of_the_product },
    Rule { name: "a watchdog fired", says: watchdog },
    Rule { name: "the console was not watched", says: blind },
    Rule { name: "the console is mute", says: mute },
    Rule { name: "the console did not show it", says: unseen },
    Rule { name: "it did not come to be", says: awaited },
    Rule { name: "SSH, or the image", says: unreachable_product },
    Rule { name: "SSH", says: unreachable },
    Rule { name: "the device went away", says: gone },
    Rule { name: "the agent under test", says: agent_of_the_product },
    Rule { name: "our own agent", says: agent_of_ours },
    Rule { name: "a ticket was refused, or the image", says: ticket_or_product },
    Rule { name: "a ticket was refused", says: ticket },
    Rule { name: "the boot took too long", says: boot_timeout },
    Rule { name: "the step took too long", says: step_timeout },
];

/// Judges a run by all its events but the verdict.
pub fn judge(under_test: UnderTest, events: &[RunEvent]) -> Outcome {
    judge_by(RULES, under_test, events)
}

/// [`judge`] by other rules than the lab's: what the rules' own tests need.
pub fn judge_by(rules: &[Rule], under_test: UnderTest, events: &[RunEvent]) -> Outcome {
    let Some(case) = Case::of(under_test, events) else { return without_fault(events) };
    let says = rules.iter().find_map(|rule| (rule.says)(&case));
    let fault = case.fault();
    let Ruling { verdict, decisive, suspect } = says.unwrap_or(Ruling {
        verdict: Verdict::Timeout,
        decisive: None,
        suspect: Some(Suspect::Other("the lab's own rules: none fits".to_owned())),
    });
    let (seq, mut reason) = match decisive {
        // A fault that was made of the event says the same again.
        Some((seq, words)) if seq != case.told().seq && words != fault.cause => {
            (seq, format!("{words}; then: {}", fault.cause))
        }
        Some((seq, words)) => (seq, words),
        None => (case.told().seq, fault.cause.clone()),
    };
    let (suspect, suspects_device) = match suspect {
        None => (None, false),
        Some(Suspect::Device(words)) => (Some(words), !case.boots_the_product()),
        Some(Suspect::Other(words)) => (Some(words), false),
    };
    if let Some(suspect) = &suspect {
        reason = format!("{reason}; suspect: {suspect}");
    }
    let (device, step) = (fault.device.clone(), case.step());
    Outcome { verdict, reason, decisive: Some(seq), suspect, suspects_device, device, step }
}

/// A run passes when each step that was announced has ended well: a stream that merely stops proves nothing.
fn without_fault(events: &[RunEvent]) -> Outcome {
    let announced = events.iter().find_map(|event| match &event.fact {
        RunFact::Queued { steps, .. } => Some(steps.len()),
        _ => None,
    });
    let well = |index: usize| {
        events.iter().any(|event| {
            matches!(&event.fact, RunFact::StepEnded { step, result: StepResult::Ok { .. }, .. } if *step == index)
        })
    };
    let undone = announced.map_or(Some(0), |steps| (0..steps).find(|&index| !well(index)));
    let none = Outcome {
        verdict: Verdict::Passed,
        reason: String::new(),
        decisive: None,
        suspect: None,
        suspects_device: false,
        device: None,
        step: None,
    };
    match undone {
        None => none,
        Some(step) => {
            let last = events.last();
            let reason = format!("the run's record stops before its step {} has ended", step + 1);
            Outcome {
                verdict: Verdict::Lab,
                reason,
                decisive: last.map(|last| last.seq),
                step: Some(step),
                ..none
            }
        }
    }
}

fn stopped(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::Cancelled]) { Ruling::new(Verdict::Cancelled) } else { None }
}

fn unmet(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::Unmet]) { Ruling::new(Verdict::Skipped) } else { None }
}

/// The panic of the faulty device: what follows one is its consequence, whatever it looks like.
fn panic<'a>(case: &Case<'a>) -> Option<(&'a RunEvent, String)> {
    let shown =
        case.stage(BootStage::Panic).map(|(event, line)| (event, format!("the kernel panicked: {line:?}")));
    shown.or_else(|| case.is(&[Kind::Panic]).then(|| (case.told(), case.fault().cause.clone())))
}

fn under_voltage<'a>(case: &Case<'a>) -> Option<(&'a RunEvent, String)> {
    let (event, line) = case.stage(BootStage::UnderVoltage)?;
    Some((event, format!("the device's supply was too low: {line:?}")))
}

/// Where the device began anew by itself. Its boot ticket is good only once: when that is refused then, the panic of an
/// initramfs without an identity says nothing of what made the device begin anew.
fn anew<'a>(case: &Case<'a>) -> Option<(&'a RunEvent, String, bool)> {
    let (event, agent) = case.began_anew()?;
    let refused = || {
        let refused = case.noted(|event| matches!(event, Event::TicketRefused { .. }).then_some(()));
        refused.is_some_and(|(refused, ())| refused.at.boot_ns > event.at.boot_ns)
    };
    let follows = case.is(&[Kind::BootTimeout]) || (case.is(&[Kind::Panic]) && refused());
    follows.then(|| (event, "the device began anew by itself".to_owned(), agent))
}

/// The device did that, unless something that is under test had run by then.
fn began_anew(case: &Case<'_>) -> Option<Ruling> {
    let (event, words, agent) = anew(case)?;
    if agent || case.boots_the_product() {
        return Ruling::unclear(event, words, Suspect::Other(SUPPLY_OR_PRODUCT.to_owned()));
    }
    Ruling::because(Verdict::Device, event, words)
}

fn panic_of_the_product(case: &Case<'_>) -> Option<Ruling> {
    let (event, words) = panic(case).filter(|_| case.boots_the_product())?;
    Ruling::because(Verdict::Failed, event, words)
}

fn panic_in_a_brown_out(case: &Case<'_>) -> Option<Ruling> {
    let (panic, _) = panic(case)?;
    let (event, words) = under_voltage(case).filter(|(event, _)| event.at.boot_ns <= panic.at.boot_ns)?;
    Ruling::because(Verdict::Device, event, words)
}

/// The kernel is ours, and neither an agent nor a container may bring it down.
fn panic_of_ours(case: &Case<'_>) -> Option<Ruling> {
    let (event, words) = panic(case)?;
    Ruling::because(Verdict::Lab, event, words)
}

fn contradicted(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::Expectation]) { Ruling::new(Verdict::Failed) } else { None }
}

fn wrong_agent(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::AgentMismatch]) { Ruling::new(Verdict::Lab) } else { None }
}

fn power_failed(case: &Case<'_>) -> Option<Ruling> {
    if !case.is(&[Kind::Lab, Kind::BootTimeout, Kind::StepTimeout, Kind::Gone]) {
        return None;
    }
    let (event, words) = case.noted(|event| match event {
        Event::PowerFailed { state, cause } => Some(format!("power could not be switched {state}: {cause}")),
        Event::PowerUnsettled { state } => Some(format!("nobody knows whether power was switched {state}")),
        _ => None,
    })?;
    Ruling::because(Verdict::Lab, event, words)
}

fn lab(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::Lab]) { Ruling::new(Verdict::Lab) } else { None }
}

/// What takes memory on the device beside our own parts is what is under test.
fn out_of_memory(case: &Case<'_>) -> Option<Ruling> {
    let silent = [Kind::Agent, Kind::Awaited, Kind::StepTimeout, Kind::Unreachable];
    let (event, line) =
        case.stage(BootStage::OutOfMemory).filter(|_| case.takes_memory() && case.is(&silent))?;
    Ruling::because(Verdict::Failed, event, format!("memory ran out on the device: {line:?}"))
}

/// What is under test may have done this by itself.
fn product_may_have(case: &Case<'_>) -> bool {
    match case.fault().kind {
        Kind::Awaited | Kind::StepTimeout => true,
        Kind::Agent => case.agent_is_the_product(),
        Kind::BootTimeout => {
            let agent = matches!(case.reached(), Some(BootStage::Agent | BootStage::Sshd | BootStage::Login));
            case.boots_the_product() || (agent && case.agent_is_the_product())
        }
        Kind::Gone | Kind::Unreachable | Kind::Unseen => case.boots_the_product(),
        _ => false,
    }
}

/// What a device may fall into when its supply or its kernel fails.
const SILENT: [Kind; 7] = [
    Kind::Awaited,
    Kind::Unseen,
    Kind::StepTimeout,
    Kind::BootTimeout,
    Kind::Agent,
    Kind::Gone,
    Kind::Unreachable,
];

/// A load that is under test draws current, too.
const SUPPLY_OR_PRODUCT: &str = "the device's power supply, or what is under test";

fn brown_out_or_product(case: &Case<'_>) -> Option<Ruling> {
    let (event, words) = under_voltage(case).filter(|_| case.is(&SILENT) && product_may_have(case))?;
    Ruling::unclear(event, words, Suspect::Other(SUPPLY_OR_PRODUCT.to_owned()))
}

fn brown_out(case: &Case<'_>) -> Option<Ruling> {
    let (event, words) = under_voltage(case).filter(|_| case.is(&SILENT))?;
    Ruling::because(Verdict::Device, event, words)
}

fn hang<'a>(case: &Case<'a>) -> Option<(&'a RunEvent, String)> {
    let (event, line) = case.stage(BootStage::Watchdog).filter(|_| case.is(&SILENT))?;
    Some((event, format!("a watchdog fired: {line:?}")))
}

fn hang_of_the_product(case: &Case<'_>) -> Option<Ruling> {
    let (event, words) = hang(case).filter(|_| case.boots_the_product())?;
    Ruling::because(Verdict::Failed, event, words)
}

fn watchdog(case: &Case<'_>) -> Option<Ruling> {
    let (event, words) = hang(case)?;
    Ruling::unclear(event, words, Suspect::Device("the kernel, which hung, or the board".to_owned()))
}

/// Nothing can be said of a console that was not heard.
fn blind(case: &Case<'_>) -> Option<Ruling> {
    let (event, cause) = case.console_hole().filter(|_| case.is(&[Kind::Unseen, Kind::Mute]))?;
    Ruling::because(Verdict::Lab, event, format!("the console has a hole: {cause}"))
}

/// A kernel that is under test may be what does not speak.
fn mute(case: &Case<'_>) -> Option<Ruling> {
    if !case.is(&[Kind::Mute]) {
        return None;
    }
    if !case.boots_the_product() {
        return Ruling::new(Verdict::Lab);
    }
    let suspect = Suspect::Other("the console's line, or what is under test".to_owned());
    Ruling::unclear(case.told(), case.fault().cause.clone(), suspect)
}

fn unseen(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::Unseen]) { Ruling::new(Verdict::Failed) } else { None }
}

fn awaited(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::Awaited]) { Ruling::new(Verdict::Failed) } else { None }
}

fn unreachable_product(case: &Case<'_>) -> Option<Ruling> {
    let unreachable = case.is(&[Kind::Unreachable]) && case.boots_the_product();
    let suspect = Suspect::Other("the image's network or SSH server, or the lab's way to it".to_owned());
    if unreachable { Ruling::unclear(case.told(), case.fault().cause.clone(), suspect) } else { None }
}

fn unreachable(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::Unreachable]) { Ruling::new(Verdict::Lab) } else { None }
}

/// A virtual machine ends when its guest restarts, but also when the host takes it away, and nothing tells which.
fn gone(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::Gone]) { Ruling::new(Verdict::Lab) } else { None }
}

fn agent_of_the_product(case: &Case<'_>) -> Option<Ruling> {
    let agent = case.is(&[Kind::Agent]) && case.agent_is_the_product();
    if agent { Ruling::new(Verdict::Failed) } else { None }
}

fn agent_of_ours(case: &Case<'_>) -> Option<Ruling> {
    if case.is(&[Kind::Agent]) { Ruling::new(Verdict::Lab) } else { None }
}

fn refusal<'a>(case: &Case<'a>) -> Option<(&'a RunEvent, String)> {
    let refused = case.is(&[Kind::BootTimeout]).then(|| {
        case.noted(|event| match event {
            Event::TicketRefused { address, cause } => {
                Some(format!("a ticket was refused to {address}: {cause}"))
            }
            _ => None,
        })
    })?;
    // One that was exchanged in the end was no obstacle.
    let redeemed = case.noted(|event| matches!(event, Event::TicketRedeemed { .. }).then_some(()));
    refused.filter(|_| redeemed.is_none())
}

fn ticket_or_product(case: &Case<'_>) -> Option<Ruling> {
    let (event, words) = refusal(case).filter(|_| case.boots_the_product())?;
    let suspect = Suspect::Other("the lab's tickets, or the image's use of them".to_owned());
    Ruling::unclear(event, words, suspect)
}

fn ticket(case: &Case<'_>) -> Option<Ruling> {
    let (event, words) = refusal(case)?;
    Ruling::because(Verdict::Lab, event, words)
}

fn boot_timeout(case: &Case<'_>) -> Option<Ruling> {
    if !case.is(&[Kind::BootTimeout]) {
        return None;
    }
    let reached = case.reached();
    let stalled = case.noted(|event| match event {
        Event::Netboot { fact: fact @ NetbootFact::FileStalled { .. } } => Some(fact.to_string()),
        _ => None,
    });
    // Once a kernel runs, what its loader waited for is past.
    let stalled = stalled.filter(|_| reached <= Some(BootStage::Firmware));
    let (event, words) = stalled.unwrap_or_else(|| (case.told(), case.fault().cause.clone()));
    Ruling::unclear(event, words, boot_suspect(reached))
}

fn step_timeout(case: &Case<'_>) -> Option<Ruling> {
    let suspect = case.fault().device.as_ref().map_or_else(
        || Suspect::Other("the lab, which did not answer".to_owned()),
        |device| {
            let reached = case.reached().map_or("no boot stage".to_owned(), |stage| format!("stage {stage}"));
            Suspect::Device(format!("{device}, last heard of at {reached}"))
        },
    );
    let late = case.is(&[Kind::StepTimeout]);
    if late { Ruling::unclear(case.told(), case.fault().cause.clone(), suspect) } else { None }
}
