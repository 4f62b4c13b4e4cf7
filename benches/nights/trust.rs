//! Planted bad devices among good ones: how soon the rule takes them out, and how often it takes out a good one.

use super::random::Random;
use pilab::model::health::{Health, Trust};
use pilab::model::run::Verdict;
use pilab::plan::trust::{Rules, step};
use std::fmt::Write as _;

/// How many devices of each kind are drawn.
const DEVICES: u64 = 2_000;
/// How many runs each has at most: a year of nights with one run each.
const RUNS: u32 = 365;

/// What became of devices that fail so often.
struct Found {
    /// After how many runs each was quarantined first.
    after: Vec<u32>,
    /// In how many of its nights, in all, a device was quarantined.
    out: u64,
    /// Quarantines of one device more than three times: it swings.
    swings: u64,
}

pub(crate) fn table(seed: u64) -> String {
    let mut text = format!(
        "| faults in 100 runs | of {DEVICES} devices quarantined in {RUNS} runs | after runs (p50, p90) | part of the time | more than 3 times |\n\
         |---|---|---|---|---|\n"
    );
    for percent in [0, 1, 2, 5, 10, 20, 30, 50, 100] {
        let mut found = drawn(&mut Random::new(seed.wrapping_mul(1000).wrapping_add(percent)), percent);
        found.after.sort_unstable();
        let at = |part: usize| {
            found.after.get(found.after.len() * part / 100).map_or("-".to_owned(), u32::to_string)
        };
        let share = found.after.len() as f64 * 100.0 / DEVICES as f64;
        let out = found.out as f64 * 100.0 / (DEVICES * u64::from(RUNS)) as f64;
        writeln!(
            text,
            "| {percent} | {share:.1} % | {}, {} | {out:.1} % | {} |",
            at(50),
            at(90),
            found.swings
        )
        .unwrap();
    }
    text + "\n"
}

/// Each device has one run after another; while it is quarantined, one boot to try it in place of a run.
fn drawn(random: &mut Random, percent: u64) -> Found {
    let mut found = Found { after: Vec::new(), out: 0, swings: 0 };
    for _ in 0..DEVICES {
        let (mut trust, mut first, mut times, rules) = (Trust::default(), None, 0, Rules::default());
        let mut health = Health::Suspect;
        for run in 1..=RUNS {
            let before = health;
            let fault = random.percent(percent);
            let verdict = if fault { Verdict::Device } else { Verdict::Passed };
            health = step(&mut trust, before, &run.to_string(), verdict, 0, &rules);
            if health == Health::Quarantined {
                found.out += 1;
                if before != Health::Quarantined {
                    times += 1;
                    first.get_or_insert(run);
                }
            }
        }
        found.after.extend(first);
        found.swings += u64::from(times > 3);
    }
    found
}
