//! The verdict rules on recorded event streams with planted faults: `tests/corpus/verdicts`, one file a case.

use pilab::model::id::DeviceId;
use pilab::model::run::{Outcome, RunEvent, RunFact, Verdict};
use pilab::model::scenario::UnderTest;
use pilab::plan::retry::{self, Attempt, Next};
use pilab::plan::verdict::{RULES, Rule, judge, judge_by};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A stream, what was planted in it, and what is to be said of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(skip)]
    name: String,
    what: String,
    /// Recorded, or made by hand in the format of a recording.
    origin: String,
    under_test: UnderTest,
    /// Whose fault was planted.
    fault_of: Whose,
    verdict: Verdict,
    /// A part of the decisive event.
    #[serde(default)]
    decisive: String,
    /// A part of the reason.
    #[serde(default)]
    quotes: String,
    suspect: Option<String>,
    /// Whether the time-out speaks against the device.
    #[serde(default)]
    suspects_device: bool,
    events: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Whose {
    Product,
    Device,
    Lab,
    /// There is none, or the stream cannot tell.
    Nobody,
}

impl Case {
    fn stream(&self) -> Vec<RunEvent> {
        let lines = self.events.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", self.name)))
            .collect()
    }

    /// What of the outcome is not as it should be.
    fn differs(&self, outcome: &Outcome, events: &[RunEvent]) -> Option<String> {
        if outcome.verdict != self.verdict {
            return Some(format!("is {} for {:?}, not {}", outcome.verdict, outcome.reason, self.verdict));
        }
        let decisive = events.iter().find(|event| Some(event.seq) == outcome.decisive);
        let decisive = decisive.map(|event| serde_json::to_string(event).unwrap()).unwrap_or_default();
        if !decisive.contains(&self.decisive) || (self.decisive.is_empty() != decisive.is_empty()) {
            return Some(format!("is decided by {decisive}, not by {}", self.decisive));
        }
        if !outcome.reason.contains(&self.quotes) {
            return Some(format!("gives {:?}, which does not quote {:?}", outcome.reason, self.quotes));
        }
        let suspects = outcome.suspect.is_some() == (outcome.verdict == Verdict::Timeout);
        if outcome.suspect != self.suspect || !suspects {
            return Some(format!("suspects {:?}, not {:?}", outcome.suspect, self.suspect));
        }
        None
    }
}

fn corpus() -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/verdicts");
    let mut cases: Vec<Case> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let case = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            Case { name: path.file_stem().unwrap().to_str().unwrap().to_owned(), ..case }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// The cases that these rules do not judge as they should.
fn wrong(cases: &[Case], rules: &[Rule]) -> Vec<String> {
    let differs = |case: &Case| {
        let events = case.stream();
        let outcome = judge_by(rules, case.under_test, &events);
        case.differs(&outcome, &events).map(|how| format!("{} ({}) {how}", case.name, case.what))
    };
    cases.iter().filter_map(differs).collect()
}

const VERDICTS: [Verdict; 7] = [
    Verdict::Passed,
    Verdict::Failed,
    Verdict::Device,
    Verdict::Lab,
    Verdict::Timeout,
    Verdict::Cancelled,
    Verdict::Skipped,
];

#[test]
fn planted_faults_are_told_as_what_they_are() {
    let cases = corpus();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    assert!(cases.iter().any(|case| case.origin.starts_with("recorded")));
    let mut confusion: BTreeMap<(Verdict, Verdict), usize> = BTreeMap::new();
    for case in &cases {
        let given = judge(case.under_test, &case.stream()).verdict;
        *confusion.entry((case.verdict, given)).or_default() += 1;
    }
    println!("expected \\ given {}", VERDICTS.map(|verdict| format!("{verdict:>10}")).concat());
    for expected in VERDICTS {
        let count = |given| confusion.get(&(expected, given)).copied().unwrap_or_default();
        println!("{expected:>16} {}", VERDICTS.map(|given| format!("{:>10}", count(given))).concat());
    }
    let wrong = wrong(&cases, RULES);
    println!("{} of {} as expected\n{}", cases.len() - wrong.len(), cases.len(), wrong.join("\n"));
    assert!(wrong.len() * 20 <= cases.len(), "more than 5 % are wrong:\n{}", wrong.join("\n"));
}

#[test]
fn no_product_fault_is_told_as_the_device_s_or_the_lab_s_or_tried_again() {
    let policy =
        retry::Policy { device: 3, lab: 3, attempt: Duration::from_secs(60), cap: Duration::from_secs(3600) };
    for case in corpus().iter().filter(|case| case.fault_of == Whose::Product) {
        let Outcome { verdict, reason, .. } = judge(case.under_test, &case.stream());
        assert_eq!(verdict, Verdict::Failed, "{} ({}): {reason}", case.name, case.what);
        let attempt = Attempt { verdict, devices: vec![DeviceId::new("rack-pi-1").unwrap()] };
        assert_eq!(retry::next(&policy, &[attempt], Duration::ZERO), Next::Done(verdict), "{}", case.name);
    }
}

#[test]
fn no_fault_of_the_lab_or_of_a_device_is_told_as_the_product_s() {
    for case in corpus().iter().filter(|case| case.fault_of != Whose::Product) {
        let Outcome { verdict, reason, .. } = judge(case.under_test, &case.stream());
        assert_ne!(verdict, Verdict::Failed, "{} ({}): {reason}", case.name, case.what);
    }
}

#[test]
fn a_time_out_speaks_against_the_device_only_where_neither_the_product_nor_the_lab_may_have_done_it() {
    let mut suspected = 0;
    for case in corpus() {
        let Outcome { verdict, suspects_device, .. } = judge(case.under_test, &case.stream());
        assert_eq!(suspects_device, case.suspects_device, "{} ({})", case.name, case.what);
        assert!(!suspects_device || verdict == Verdict::Timeout, "{} is {verdict}", case.name);
        suspected += usize::from(suspects_device);
    }
    assert!(suspected > 0, "no device is suspected");
}

#[test]
fn the_corpus_misses_every_rule_that_is_left_out() {
    let cases = corpus();
    let before = wrong(&cases, RULES);
    for left_out in RULES {
        let rules: Vec<Rule> = RULES
            .iter()
            .filter(|rule| rule.name != left_out.name)
            .map(|rule| Rule { name: rule.name, says: rule.says })
            .collect();
        assert!(wrong(&cases, &rules).len() > before.len(), "nothing misses the rule {:?}", left_out.name);
    }
}

#[test]
fn a_stream_that_stops_before_its_last_step_has_ended_is_the_lab_s_fault() {
    let mut seen = 0;
    for case in corpus().iter().filter(|case| case.verdict == Verdict::Passed) {
        let events = case.stream();
        let RunFact::Queued { steps, .. } = &events[0].fact else { panic!("{}", case.name) };
        // What cleanup comes to is not announced, so a record that stops in it has all that was.
        let ends =
            |fact: &RunFact| matches!(fact, RunFact::StepEnded { step, .. } if step + 1 == steps.len());
        let last = events.iter().position(|event| ends(&event.fact)).unwrap();
        for end in 0..=last {
            assert_eq!(
                judge(case.under_test, &events[..end]).verdict,
                Verdict::Lab,
                "{} cut at {end}",
                case.name
            );
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}
