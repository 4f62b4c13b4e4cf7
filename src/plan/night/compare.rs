//! A night beside those before it: what is newly failing, fixed, unsteady or slower, and how flaky each cell is.

use crate::model::device::Backend;
use crate::model::night::{Cell, Record, Run};
use crate::model::run::Verdict;
use std::collections::{BTreeMap, BTreeSet};

/// A run is slower when it takes this much of what it took, and [`SLOWER_BY`] more besides: less is a busy host.
const SLOWER: f64 = 1.5;
/// Seconds.
const SLOWER_BY: f64 = 5.0;
/// How many changes between passing and not, over the nights looked at, make a cell unsteady.
const FLIPS: usize = 2;
/// The normal quantile of a 95 % interval.
const Z: f64 = 1.959_964;

/// What has changed since the night before. Cells that are in one of the nights only are neither.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    /// Passed then, and not now.
    pub newly_failing: Vec<Cell>,
    /// Not passed then, and now.
    pub fixed: Vec<Cell>,
    /// Passed only when tried again, or changing from night to night.
    pub flaky: Vec<Cell>,
    /// Passed both times, with how many seconds then and now.
    pub slower: Vec<(Cell, f64, f64)>,
    /// Was run then, and is not there now or did not run.
    pub missing: Vec<Cell>,
    /// Scenarios that pass on virtual machines and not on boards, or the other way round.
    pub apart: Vec<String>,
}

/// Compares the last of `nights` with the one before it; they are in the order of time.
pub fn compare(nights: &[Record]) -> Comparison {
    let mut found = Comparison::default();
    let Some((now, before)) = nights.split_last() else { return found };
    found.apart = apart(now);
    let histories = histories(nights);
    let changes = |run: &Run| histories.get(&run.cell).is_some_and(|history| flips(history) >= FLIPS);
    found.flaky =
        now.runs.iter().filter(|run| run.is_unstable() || changes(run)).map(|run| run.cell.clone()).collect();
    let Some(before) = before.last() else { return found };
    let current: BTreeMap<&Cell, &Run> = now.runs.iter().map(|run| (&run.cell, run)).collect();
    for then in &before.runs {
        let (cell, passed) = (&then.cell, then.verdict == Some(Verdict::Passed));
        // One that was skipped or never came said nothing.
        let told = |run: &Run| !matches!(run.verdict, None | Some(Verdict::Skipped | Verdict::Cancelled));
        match current.get(cell) {
            Some(run) if told(run) => {
                let passes = run.verdict == Some(Verdict::Passed);
                if passed && !passes {
                    found.newly_failing.push(cell.clone());
                } else if !passed && passes && told(then) {
                    found.fixed.push(cell.clone());
                } else if passed && run.took > then.took * SLOWER && run.took > then.took + SLOWER_BY {
                    found.slower.push((cell.clone(), then.took, run.took));
                }
            }
            _ if told(then) => found.missing.push(cell.clone()),
            _ => {}
        }
    }
    found
}

/// Scenarios of a night with other results on boards than on virtual machines.
fn apart(night: &Record) -> Vec<String> {
    let mut seen: BTreeMap<&str, BTreeMap<Backend, BTreeSet<bool>>> = BTreeMap::new();
    for run in &night.runs {
        let (Some(verdict @ (Verdict::Passed | Verdict::Failed)), Some(used)) =
            (run.verdict, run.devices.first())
        else {
            continue;
        };
        let backends = seen.entry(run.cell.scenario.as_str()).or_default();
        backends.entry(used.backend).or_default().insert(verdict == Verdict::Passed);
    }
    let differs = |backends: &BTreeMap<Backend, BTreeSet<bool>>| matches!((backends.get(&Backend::Pi), backends.get(&Backend::Vm)), (Some(pi), Some(vm)) if pi != vm);
    seen.into_iter().filter(|(_, backends)| differs(backends)).map(|(name, _)| name.to_owned()).collect()
}

/// The verdicts of the last night's cells, night by night; none where a cell did not end.
pub fn histories(nights: &[Record]) -> BTreeMap<&Cell, Vec<Option<Verdict>>> {
    let cells = nights.last().into_iter().flat_map(|night| &night.runs).map(|run| &run.cell);
    let mut all: BTreeMap<&Cell, Vec<Option<Verdict>>> =
        cells.map(|cell| (cell, vec![None; nights.len()])).collect();
    for (index, night) in nights.iter().enumerate() {
        for run in &night.runs {
            if let Some(verdict) = all.get_mut(&run.cell).and_then(|history| history.get_mut(index)) {
                *verdict = run.verdict;
            }
        }
    }
    all
}

fn flips(history: &[Option<Verdict>]) -> usize {
    let said = history.iter().flatten().filter(|v| !matches!(v, Verdict::Skipped | Verdict::Cancelled));
    let passed: Vec<bool> = said.map(|verdict| *verdict == Verdict::Passed).collect();
    passed.windows(2).filter(|pair| pair.first() != pair.last()).count()
}

/// How often something did not go well, and between which bounds that lies in the long run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Of so many.
    pub seen: usize,
    /// So many did not go well.
    pub bad: usize,
    /// The lower bound of a 95 % interval, 0 to 1.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

impl Score {
    /// The rate as it was seen; none without anything seen.
    pub fn rate(&self) -> Option<f64> {
        let float = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        (self.seen > 0).then(|| float(self.bad) / float(self.seen))
    }
}

/// The score of a device over these nights: of all attempts on it, those that were blamed on it or that nobody could
/// be blamed for, whatever became of the run elsewhere. What fails by the product's fault was no fault of the device; what fails by the lab's says nothing of it.
pub fn flakiness(nights: &[Record], device: &str) -> Score {
    let mut score = (0, 0);
    for (verdict, devices) in nights.iter().flat_map(|night| &night.runs).flat_map(Run::tries) {
        if !devices.iter().any(|used| used.as_str() == device) {
            continue;
        }
        match verdict {
            Verdict::Passed | Verdict::Failed => score = (score.0 + 1, score.1),
            Verdict::Device | Verdict::Timeout => score = (score.0 + 1, score.1 + 1),
            Verdict::Lab | Verdict::Cancelled | Verdict::Skipped => {}
        }
    }
    wilson(score.1, score.0)
}

/// Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22:209): sound for few samples and for rates near 0.
pub fn wilson(bad: usize, seen: usize) -> Score {
    let float = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    if seen == 0 {
        return Score { seen, bad, low: 0.0, high: 1.0 };
    }
    let (n, p) = (float(seen), float(bad) / float(seen));
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    Score { seen, bad, low: ((centre - spread) / scale).max(0.0), high: ((centre + spread) / scale).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::Model;
    use crate::model::id::{DeviceId, LabName, ScenarioName};
    use crate::model::night::{NIGHT_VERSION, Used};

    fn cell(name: &str) -> Cell {
        Cell { scenario: ScenarioName::new(name).unwrap(), place: String::new() }
    }

    fn run(name: &str, verdict: Option<Verdict>, took: f64) -> Run {
        let device = DeviceId::new("lab-1").unwrap();
        let used = Used { device, backend: Backend::Vm, model: Model::VmAarch64, instead: None };
        Run { verdict, took, devices: vec![used], ..Run::planned(cell(name)) }
    }

    fn night(runs: Vec<Run>) -> Record {
        let lab = LabName::new("lab").unwrap();
        let (version, plan) = (NIGHT_VERSION, "all".to_owned());
        Record {
            version,
            lab,
            plan,
            began_ms: 0,
            ended_ms: Some(1),
            late: false,
            missed: vec![],
            worn: vec![],
            runs,
        }
    }

    #[test]
    fn each_change_is_told_once() {
        use Verdict::{Failed, Lab, Passed, Skipped};
        let then = night(vec![
            run("breaks", Some(Passed), 10.0),
            run("mends", Some(Failed), 10.0),
            run("slows", Some(Passed), 10.0),
            run("vanishes", Some(Passed), 10.0),
            run("skipped", Some(Passed), 10.0),
            run("stays", Some(Lab), 10.0),
            run("was-skipped", Some(Skipped), 10.0),
        ]);
        let mut unsteady = run("unsteady", Some(Passed), 10.0);
        unsteady.attempts = vec![Lab, Passed];
        let now = night(vec![
            run("breaks", Some(Failed), 10.0),
            run("mends", Some(Passed), 10.0),
            run("slows", Some(Passed), 20.0),
            run("skipped", Some(Skipped), 0.0),
            run("stays", Some(Lab), 10.0),
            run("was-skipped", Some(Passed), 10.0),
            unsteady,
        ]);
        let found = compare(&[then, now]);
        assert_eq!(found.newly_failing, [cell("breaks")]);
        assert_eq!(found.fixed, [cell("mends")]);
        assert_eq!(found.slower, [(cell("slows"), 10.0, 20.0)]);
        assert_eq!(found.missing, [cell("vanishes"), cell("skipped")]);
        assert_eq!(found.flaky, [cell("unsteady")]);
    }

    #[test]
    fn what_changes_from_night_to_night_is_unsteady() {
        use Verdict::{Failed, Passed};
        let nights: Vec<_> =
            [Passed, Failed, Passed].map(|verdict| night(vec![run("a", Some(verdict), 1.0)])).into();
        assert_eq!(compare(&nights).flaky, [cell("a")]);
        assert_eq!(compare(&nights[..2]).flaky, []);
    }

    #[test]
    fn a_scenario_that_passes_on_virtual_machines_only_is_told() {
        let mut board = run("a", Some(Verdict::Failed), 1.0);
        board.devices[0].backend = Backend::Pi;
        assert_eq!(compare(&[night(vec![board, run("a", Some(Verdict::Passed), 1.0)])]).apart, ["a"]);
    }

    #[test]
    fn a_night_of_skips_or_one_that_died_is_not_green() {
        use Verdict::{Passed, Skipped};
        assert!(night(vec![run("a", Some(Passed), 1.0)]).is_green());
        assert!(!night(vec![run("a", Some(Skipped), 1.0)]).is_green());
        assert!(!night(vec![run("a", Some(Passed), 1.0), run("b", None, 1.0)]).is_green());
        assert!(!night(vec![]).is_green());
        assert!(!Record { ended_ms: None, ..night(vec![run("a", Some(Passed), 1.0)]) }.is_green());
    }

    #[test]
    fn the_bounds_are_wilson_s() {
        // Worked values of the interval without continuity correction.
        for (bad, seen, low, high) in
            [(0, 10, 0.0, 0.2775), (1, 10, 0.0179, 0.4042), (50, 100, 0.4038, 0.5962)]
        {
            let score = wilson(bad, seen);
            assert!((score.low - low).abs() < 1e-3 && (score.high - high).abs() < 1e-3, "{score:?}");
        }
        assert_eq!(wilson(0, 0).high, 1.0);
        let nights =
            [night(vec![run("a", Some(Verdict::Device), 1.0), run("b", Some(Verdict::Failed), 1.0)])];
        let score = flakiness(&nights, "lab-1");
        assert_eq!((score.bad, score.seen), (1, 2));
    }

    #[test]
    fn a_fault_counts_on_its_device_also_when_the_run_passed_on_another() {
        use crate::model::health::Health;
        let mut runs: Vec<_> = (0..5).map(|_| run("a", Some(Verdict::Passed), 1.0)).collect();
        let mut moved = run("b", Some(Verdict::Passed), 1.0);
        moved.devices[0].device = DeviceId::new("lab-2").unwrap();
        moved.attempted(Verdict::Device, vec![DeviceId::new("lab-1").unwrap()]);
        moved.attempted(Verdict::Passed, vec![DeviceId::new("lab-2").unwrap()]);
        runs.push(moved);
        let nights = [night(runs)];
        let score = |device| flakiness(&nights, device);
        assert_eq!((score("lab-1").bad, score("lab-1").seen), (1, 6));
        assert_eq!((score("lab-2").bad, score("lab-2").seen), (0, 1));
        assert_eq!(crate::plan::trust::over(&nights, "lab-1"), Health::Suspect, "it was good before");
    }
}
