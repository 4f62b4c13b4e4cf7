//! How far a device can be trusted, by what its runs came to: a rule with hysteresis; and what is done with devices that
//! nobody has. Pure.
//!
//! ```text
//!            a fault                     sure that it is flaky
//!   good ───────────────► suspect ─────────────────────────────► quarantined
//!    ▲ ▲                    │  ▲                                      │  │
//!    │ └── clean runs in a row┘  └──────── clean boots in a row ────────┘  │
//!    └────────────────────────── training: clean boots in a row ───────────┘
//! ```
//!
//! A device is quarantined when the lower bound of the confidence interval of its rate of faults, over its last runs, is
//! above what is tolerated: one fault is luck. It comes back by more clean boots in a row than a device that is still flaky
//! is likely to have, twice as many each time, and as a suspect whose past is forgotten. Entering and leaving are so far
//! apart that no device swings between them. What a person has said is no rule's to undo: maintenance, and a quarantine that
//! a person or crossed cables have made, end by a person's word or by training.

use super::night::compare::{Score, wilson};
use crate::model::health::{Finding, Health, Origin, Sign, Trust};
use crate::model::id::DeviceId;
use crate::model::night::{Record, Run};
use crate::model::run::{FaultKind, Outcome, Verdict};
use crate::model::time::{HostBoot, Moment, Stamp};
use std::collections::BTreeSet;
use std::time::Duration;

/// How many findings beyond those that count are remembered, for people to read.
const OTHERS: usize = 10;
/// How often the pause between two checks is doubled at most: the longest pause bounds it before.
const DOUBLINGS: u32 = 16;

/// The figures of the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// How many of the last findings count.
    pub window: usize,
    /// The rate of faults that is put up with, in percent. Real boards fail some boots in a hundred by themselves.
    pub tolerated: u32,
    /// No device is quarantined for fewer faults: of one or two a confidence interval says too little.
    pub fewest: usize,
    /// How many clean runs in a row make a suspect good.
    pub clean_runs: u32,
    /// How many clean boots in a row end the first quarantine, and train a device.
    pub clean_boots: u32,
    /// The most clean boots that are asked for.
    pub most_boots: u32,
    /// How long a boot that is made to see how a device is may take, from power-on to the agent's first answer.
    pub boot_timeout: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        let boot_timeout = Duration::from_secs(180);
        Self {
            window: 20,
            tolerated: 10,
            fewest: 3,
            clean_runs: 5,
            clean_boots: 10,
            most_boots: 80,
            boot_timeout,
        }
    }
}

impl Rules {
    /// How many clean boots in a row are asked of the device: by its present quarantine, or by its training.
    pub fn wanted(&self, trust: &Trust) -> u32 {
        let doubled = self.clean_boots.saturating_mul(1 << trust.quarantines.saturating_sub(1).min(8));
        doubled.min(self.most_boots).max(1)
    }
}

/// What is done with devices that nobody has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Care {
    /// The shortest pause between two checks of a device; none when none are made.
    pub recheck: Option<Duration>,
    /// The longest such pause: it doubles from check to check.
    pub recheck_max: Duration,
    /// After how long a device that nobody has is switched off, if it is on; none for never.
    pub idle_off: Option<Duration>,
    /// The devices that stay on for all that.
    pub always_on: BTreeSet<DeviceId>,
}

impl Care {
    /// How long until the device is to be checked; none when nothing asks for it.
    pub fn check_in(&self, health: Health, trust: &Trust, now: &Moment) -> Option<Duration> {
        let shortest = self.recheck?;
        let asked = match health {
            Health::Maintenance => false,
            Health::Quarantined => trust.by_rule,
            Health::Suspect => true,
            Health::Good => trust.doubted,
        };
        if !asked {
            return None;
        }
        // Over a reboot of unknown length nobody knows how long ago it was: it is time.
        let Some(since) = trust.checked.and_then(|checked| checked.elapsed(now)) else {
            return Some(Duration::ZERO);
        };
        let doubled = shortest.saturating_mul(1 << trust.checks.saturating_sub(1).min(DOUBLINGS));
        Some(doubled.min(self.recheck_max.max(shortest)).saturating_sub(since))
    }

    /// Whether a device that is on, and that nobody has had for so long, is switched off.
    pub fn switches_off(&self, device: &DeviceId, health: Health, idle: Duration) -> bool {
        health != Health::Maintenance
            && !self.always_on.contains(device)
            && self.idle_off.is_some_and(|longest| idle >= longest)
    }
}

/// What a run says of one of its devices. What contradicts the product is no fault of the device, and neither is a time-out
/// behind which the product or the lab may be.
pub fn sign(outcome: &Outcome, devices: usize, device: &DeviceId) -> Sign {
    let on_it = outcome.device.as_ref().map_or(devices == 1, |blamed| blamed == device);
    match outcome.verdict {
        Verdict::Passed | Verdict::Failed => Sign::Clean,
        Verdict::Device if on_it => Sign::Fault,
        Verdict::Timeout if on_it && outcome.suspects_device => Sign::Fault,
        Verdict::Device | Verdict::Timeout | Verdict::Lab | Verdict::Cancelled | Verdict::Skipped => {
            Sign::Nothing
        }
    }
}

/// What a check came to whose boot ended with this fault: nothing was under test but the device.
pub fn checked(fault: Option<FaultKind>) -> (Verdict, Sign) {
    match fault {
        None => (Verdict::Passed, Sign::Clean),
        Some(FaultKind::BootTimeout | FaultKind::StepTimeout) => (Verdict::Timeout, Sign::Fault),
        Some(FaultKind::Panic | FaultKind::Gone | FaultKind::Agent | FaultKind::Mute) => {
            (Verdict::Device, Sign::Fault)
        }
        Some(FaultKind::Cancelled) => (Verdict::Cancelled, Sign::Nothing),
        Some(
            FaultKind::Lab
            | FaultKind::AgentMismatch
            | FaultKind::Unreachable
            | FaultKind::Expectation
            | FaultKind::Awaited
            | FaultKind::Unseen
            | FaultKind::Unmet,
        ) => (Verdict::Lab, Sign::Nothing),
    }
}

/// The device's rate of faults over what counts, with its bounds.
pub fn score(trust: &Trust) -> Score {
    let counted = || trust.findings.iter().filter(|finding| counts(finding));
    wilson(counted().filter(|finding| finding.sign == Sign::Fault).count(), counted().count())
}

fn counts(finding: &Finding) -> bool {
    !finding.past && finding.sign != Sign::Nothing
}

/// Takes a finding in; answers the device's new health with the reason, if it changes. One that was taken in before changes
/// nothing.
pub fn take(trust: &mut Trust, health: Health, finding: Finding, rules: &Rules) -> Option<(Health, String)> {
    if trust.findings.iter().any(|known| known.of == finding.of) {
        return None;
    }
    let Finding { origin, verdict, sign, boots, at, .. } = finding;
    trust.findings.push(finding);
    bound(&mut trust.findings, rules.window);
    if origin == Origin::Check {
        trust.checks = trust.checks.saturating_add(1);
        trust.checked = Some(at);
    }
    match sign {
        // Whatever was at fault may have been this device.
        Sign::Nothing => trust.doubted |= verdict == Verdict::Lab,
        Sign::Fault => (trust.doubted, trust.clean) = (true, 0),
        Sign::Clean => {
            trust.clean = trust.clean.saturating_add(boots);
            if origin != Origin::Run {
                trust.doubted = false;
            }
            if origin == Origin::Check && health == Health::Good {
                trust.checks = 0;
            }
        }
    }
    if sign == Sign::Nothing {
        return None;
    }
    let (next, reason) = next(trust, health, origin, sign, verdict, boots, rules)?;
    if next != health {
        trust.checks = 0;
        trust.by_rule = next == Health::Quarantined;
    }
    (next != health).then_some((next, reason))
}

fn next(
    trust: &mut Trust,
    health: Health,
    origin: Origin,
    sign: Sign,
    verdict: Verdict,
    boots: u32,
    rules: &Rules,
) -> Option<(Health, String)> {
    if origin == Origin::Training && sign == Sign::Clean && boots >= rules.wanted(trust) {
        forget(trust);
        return Some((Health::Good, format!("trained: {boots} clean boots in a row")));
    }
    match health {
        // Somebody works on it: no rule changes that.
        Health::Maintenance => None,
        Health::Quarantined if trust.by_rule && trust.clean >= rules.wanted(trust) => {
            let clean = trust.clean;
            forget(trust);
            Some((Health::Suspect, format!("{clean} clean boots in a row")))
        }
        Health::Quarantined => None,
        Health::Good | Health::Suspect => {
            let score = score(trust);
            if score.bad >= rules.fewest && score.low > f64::from(rules.tolerated) / 100.0 {
                trust.quarantines = trust.quarantines.saturating_add(1);
                let (bad, seen, low) = (score.bad, score.seen, score.low * 100.0);
                let reason = format!("{bad} faults in {seen} runs: at least {low:.0} % with 95 % confidence");
                Some((Health::Quarantined, reason))
            } else if sign == Sign::Fault {
                let what = match origin {
                    Origin::Run => "run",
                    Origin::Check => "check",
                    Origin::Training => "training",
                };
                Some((Health::Suspect, format!("a {what} ended with {verdict}")))
            } else if trust.clean >= rules.clean_runs {
                Some((Health::Good, format!("{} clean runs in a row", trust.clean)))
            } else {
                None
            }
        }
    }
}

/// What came before counts no more.
fn forget(trust: &mut Trust) {
    trust.findings.iter_mut().for_each(|finding| finding.past = true);
    // None counts any more, so all of them are among the others.
    bound(&mut trust.findings, 0);
    trust.clean = 0;
}

/// The last ones that count, and the last others.
fn bound(findings: &mut Vec<Finding>, window: usize) {
    for (counting, most) in [(true, window), (false, OTHERS)] {
        while findings.iter().filter(|finding| counts(finding) == counting).count() > most
            && let Some(oldest) = findings.iter().position(|finding| counts(finding) == counting)
        {
            findings.remove(oldest);
        }
    }
}

/// Somebody, or a part of the lab that knows for sure, has said how it is: from there on the rule begins anew.
pub fn told(trust: &mut Trust, health: Health) {
    if health == Health::Good {
        forget(trust);
        (trust.doubted, trust.quarantines) = (false, 0);
    }
    (trust.clean, trust.checks, trust.by_rule) = (0, 0, false);
}

/// What the rule says of a device by its runs in these nights, which are in the order of time. Of a time-out they do not
/// tell who is suspected: each counts.
pub fn over(nights: &[Record], device: &str) -> Health {
    // A device that has shown nothing yet is a suspect: it earns its place by clean runs.
    let (mut trust, mut health, rules) = (Trust::default(), Health::Suspect, Rules::default());
    let tries = nights
        .iter()
        .flat_map(|night| night.runs.iter().flat_map(Run::tries).map(|tried| (night.began_ms, tried)));
    for (number, (began_ms, (verdict, devices))) in tries.enumerate() {
        if devices.iter().any(|used| used.as_str() == device) {
            health = step(&mut trust, health, &number.to_string(), verdict, began_ms, &rules);
        }
    }
    health
}

/// Takes in a run of which the verdict alone is known; answers the health after it.
pub fn step(
    trust: &mut Trust,
    health: Health,
    of: &str,
    verdict: Verdict,
    wall_ms: u64,
    rules: &Rules,
) -> Health {
    let sign = match verdict {
        Verdict::Passed | Verdict::Failed => Sign::Clean,
        Verdict::Device | Verdict::Timeout => Sign::Fault,
        Verdict::Lab | Verdict::Cancelled | Verdict::Skipped => Sign::Nothing,
    };
    let at = Moment { boot: HostBoot::default(), at: Stamp { boot_ns: 0, wall_ms }, synchronised: true };
    let (origin, of, past) = (Origin::Run, of.to_owned(), false);
    let finding = Finding { origin, of, verdict, sign, cause: String::new(), boots: 1, at, past };
    take(trust, health, finding, rules).map_or(health, |(health, _)| health)
}

#[cfg(test)]
mod tests;
