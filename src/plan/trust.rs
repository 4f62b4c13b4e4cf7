//! How far a device can be trusted, by what its runs came to: a rule with hysteresis. Pure.
//!
//! ```text
//!            a fault                     sure that it is flaky
//!   good ───────────────► suspect ─────────────────────────────► quarantined
//!    ▲                      │  ▲                                      │
//!    └── clean runs in a row┘  └──────── clean boots in a row ────────┘
//! ```
//!
//! A device is quarantined when the lower bound of the confidence interval of its rate of faults, over its last runs, is
//! above [`TOLERATED`]: one fault is luck. It comes back by more clean boots in a row than a device that is still flaky
//! is likely to have, twice as many each time, and as a suspect whose past is forgotten. Entering and leaving are so far
//! apart that no device swings between them.

use super::night::compare::wilson;
use crate::model::health::Health;
use crate::model::night::Record;
use crate::model::run::Verdict;
use std::collections::VecDeque;

/// How many of the last runs count.
const WINDOW: usize = 20;
/// The rate of faults that is put up with. Real boards fail some boots in a hundred by themselves.
const TOLERATED: f64 = 0.1;
/// No device is quarantined for fewer faults: of one or two a confidence interval says too little.
const FEWEST: usize = 3;
/// How many clean runs in a row make a suspect good.
const CLEAN_RUNS: u32 = 5;
/// How many clean boots in a row end the first quarantine.
const CLEAN_BOOTS: u32 = 10;
/// The most clean boots that are asked for.
const MOST_BOOTS: u32 = 80;

/// What is remembered of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    health: Health,
    /// Whether each of the last runs was a fault, the oldest first.
    recent: VecDeque<bool>,
    /// Clean ones in a row.
    clean: u32,
    /// How often it was quarantined.
    quarantines: u32,
}

impl Default for Trust {
    /// A device that has shown nothing yet is a suspect: it earns its place by clean runs.
    fn default() -> Self {
        Self { health: Health::Suspect, recent: VecDeque::new(), clean: 0, quarantines: 0 }
    }
}

impl Trust {
    /// What the rule says of the device.
    pub fn health(&self) -> Health {
        self.health
    }

    /// How many clean boots in a row the present quarantine asks for.
    pub fn wanted(&self) -> u32 {
        CLEAN_BOOTS.saturating_mul(1 << self.quarantines.saturating_sub(1).min(8)).min(MOST_BOOTS)
    }

    /// Takes a run's verdict in; of a quarantined device, that of a boot which was made to try it. Answers why the health
    /// has changed, if it has. Only what may be the device's doing counts: not a fault of the product or of the lab.
    pub fn take(&mut self, verdict: Verdict) -> Option<String> {
        let fault = match verdict {
            Verdict::Passed | Verdict::Failed => false,
            Verdict::Device | Verdict::Timeout => true,
            Verdict::Lab | Verdict::Cancelled | Verdict::Skipped => return None,
        };
        self.clean = if fault { 0 } else { self.clean.saturating_add(1) };
        self.recent.push_back(fault);
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        let before = self.health;
        let reason = match before {
            // Somebody works on it: no rule changes that.
            Health::Maintenance => return None,
            Health::Quarantined if self.clean >= self.wanted() => {
                self.recent.clear();
                let clean = std::mem::take(&mut self.clean);
                self.health = Health::Suspect;
                format!("{clean} clean boots in a row")
            }
            Health::Quarantined => return None,
            Health::Good | Health::Suspect => {
                let bad = self.recent.iter().filter(|fault| **fault).count();
                let score = wilson(bad, self.recent.len());
                if bad >= FEWEST && score.low > TOLERATED {
                    self.health = Health::Quarantined;
                    self.quarantines = self.quarantines.saturating_add(1);
                    let low = score.low * 100.0;
                    format!("{bad} faults in {} runs: at least {low:.0} % with 95 % confidence", score.seen)
                } else if fault {
                    self.health = Health::Suspect;
                    format!("a run ended with {verdict}")
                } else if self.clean >= CLEAN_RUNS {
                    self.health = Health::Good;
                    format!("{} clean runs in a row", self.clean)
                } else {
                    return None;
                }
            }
        };
        (self.health != before).then_some(reason)
    }
}

/// What the rule says of a device by its runs in these nights, which are in the order of time.
pub fn over(nights: &[Record], device: &str) -> Trust {
    let mut trust = Trust::default();
    for run in nights.iter().flat_map(|night| &night.runs) {
        if let Some(verdict) =
            run.verdict.filter(|_| run.devices.iter().any(|used| used.device.as_str() == device))
        {
            trust.take(verdict);
        }
    }
    trust
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(verdicts: &str) -> Trust {
        let mut trust = Trust::default();
        for letter in verdicts.chars() {
            trust.take(match letter {
                '.' => Verdict::Passed,
                'F' => Verdict::Failed,
                'D' => Verdict::Device,
                'T' => Verdict::Timeout,
                _ => Verdict::Lab,
            });
        }
        trust
    }

    #[test]
    fn a_device_earns_loses_and_regains_trust_by_rule() {
        use Health::{Good, Quarantined, Suspect};
        let clean = |count: usize| ".".repeat(count);
        for (verdicts, health) in [
            (String::new(), Suspect),
            (clean(4), Suspect),
            (clean(5), Good),
            (format!("{}D", clean(5)), Suspect),
            (format!("{}D{}", clean(5), clean(5)), Good),
            ("DD".to_owned(), Suspect),
            ("DTD".to_owned(), Quarantined),
            (format!("{}D{}D{}D", clean(6), clean(6), clean(6)), Suspect),
            ("FFFFF".to_owned(), Good),
            (format!("{}LLLLLLLL", clean(5)), Good),
            (format!("DDD{}", clean(9)), Quarantined),
            (format!("DDD{}", clean(10)), Suspect),
            (format!("DDD{}", clean(15)), Good),
            (format!("DDD{}D{}", clean(9), clean(9)), Quarantined),
            (format!("DDD{}DDD{}", clean(10), clean(19)), Quarantined),
            (format!("DDD{}DDD{}", clean(10), clean(20)), Suspect),
        ] {
            assert_eq!(after(&verdicts).health(), health, "{verdicts}");
        }
    }

    proptest! {
        #[test]
        fn no_single_run_takes_a_device_out_and_no_clean_run_makes_it_worse(verdicts in "[.FDTL]{0,60}") {
            let before = after(&verdicts);
            let (mut worse, mut better) = (before.clone(), before.clone());
            better.take(Verdict::Passed);
            worse.take(Verdict::Device);
            if before.health() == Health::Good {
                prop_assert_eq!(better.health(), Health::Good);
            }
            prop_assert!(better.health() <= before.health().max(Health::Suspect));
            prop_assert!(worse.health() >= before.health());
        }
    }
}
