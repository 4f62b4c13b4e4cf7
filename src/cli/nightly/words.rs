//! A night in words: for a terminal, and as the object that others are told.

use crate::cli::table::{Align, columns, printable, seconds};
use crate::model::night::{Cell, Record};
use crate::model::run::Verdict;
use crate::plan::night::compare::Comparison;
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};

/// What others are told of a night.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    pub(super) lab: &'a str,
    pub(super) plan: &'a str,
    /// `green` or `red`.
    pub(super) state: &'static str,
    /// One line.
    pub(super) summary: String,
    pub(super) late: bool,
    pub(super) missed: &'a [String],
    pub(super) newly_failing: Vec<String>,
    pub(super) fixed: Vec<String>,
    pub(super) flaky: Vec<String>,
    pub(super) slower: Vec<String>,
    pub(super) missing: Vec<String>,
    pub(super) apart: &'a [String],
}

/// What a night is in one word. Neither skips nor a night that died are green.
pub(super) fn state(night: &Record) -> &'static str {
    if night.is_green() { "green" } else { "red" }
}

/// A moment for people, in UTC.
pub(super) fn moment(ms: u64) -> String {
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string();
    text.trim_end_matches('Z').replace('T', " ") + " UTC"
}

/// A moment's day.
pub(super) fn day(ms: u64) -> String {
    moment(ms).chars().take(10).collect()
}

/// What is to be known before any result: that the night was late, that others were missed, that it died.
pub(super) fn alarms(night: &Record, running: bool) -> Vec<String> {
    let mut alarms = Vec::new();
    if !night.missed.is_empty() {
        alarms.push(format!("missed before it: {}", night.missed.join(", ")));
    }
    if night.late {
        alarms.push("it began outside of its window, to make up for a start that was missed".to_owned());
    }
    if night.ended_ms.is_none() && !running {
        let done = night.runs.len() - night.count(None);
        alarms.push(format!("it died half way: {done} of {} runs had ended", night.runs.len()));
    }
    let lost = night.runs.iter().filter_map(|run| Some((&run.cell, run.lost.as_ref()?)));
    alarms.extend(lost.map(|(cell, cause)| format!("the evidence of {cell} is lost: {}", printable(cause))));
    alarms
}

/// `12 runs: 10 passed, 1 failed, 1 not run`.
pub(super) fn counts(night: &Record) -> String {
    let verdicts = [
        Verdict::Passed,
        Verdict::Failed,
        Verdict::Device,
        Verdict::Lab,
        Verdict::Timeout,
        Verdict::Cancelled,
        Verdict::Skipped,
    ];
    let mut parts: Vec<String> = verdicts
        .into_iter()
        .map(|verdict| (night.count(Some(verdict)), verdict))
        .filter(|(count, _)| *count > 0)
        .map(|(count, verdict)| format!("{count} {verdict}"))
        .collect();
    if night.count(None) > 0 {
        parts.push(format!("{} not ended", night.count(None)));
    }
    format!(
        "{} runs: {}",
        night.runs.len(),
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    )
}

pub(super) fn told<'a>(night: &'a Record, changes: &'a Comparison) -> Told<'a> {
    let names = |cells: &[Cell]| cells.iter().map(ToString::to_string).collect();
    Told {
        lab: night.lab.as_str(),
        plan: &night.plan,
        state: state(night),
        summary: format!("{}, {}", state(night), counts(night)),
        late: night.late,
        missed: &night.missed,
        newly_failing: names(&changes.newly_failing),
        fixed: names(&changes.fixed),
        flaky: names(&changes.flaky),
        slower: changes.slower.iter().map(|(cell, then, now)| slower(cell, *then, *now)).collect(),
        missing: names(&changes.missing),
        apart: &changes.apart,
    }
}

fn slower(cell: &Cell, then: f64, now: f64) -> String {
    format!("{cell}: {} s, {} s the night before", seconds(now), seconds(then))
}

/// Heads and lines of what has changed; nothing for what has not.
pub(super) fn changes(changes: &Comparison) -> Vec<(&'static str, Vec<String>)> {
    let names = |cells: &[Cell]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
    let slow = changes.slower.iter().map(|(cell, then, now)| slower(cell, *then, *now)).collect();
    let all = [
        ("newly failing", names(&changes.newly_failing)),
        ("fixed", names(&changes.fixed)),
        ("flaky", names(&changes.flaky)),
        ("slower", slow),
        ("missing", names(&changes.missing)),
        ("boards and virtual machines differ", changes.apart.clone()),
    ];
    all.into_iter().filter(|(_, lines)| !lines.is_empty()).collect()
}

/// The night as a table.
pub(super) fn table(night: &Record, running: bool) -> String {
    let mut text = format!("night {} of lab {}, {}\n", night.plan, night.lab, moment(night.began_ms));
    for alarm in alarms(night, running) {
        text.push_str(&format!("ALARM: {alarm}\n"));
    }
    let mut rows =
        vec![["scenario", "verdict", "seconds", "attempts", "devices"].map(str::to_owned).to_vec()];
    rows.extend(night.runs.iter().map(|run| {
        let verdict = run.verdict.map_or("not ended".to_owned(), |verdict| verdict.to_string());
        let devices: Vec<_> =
            run.devices.iter().map(|used| format!("{} ({})", used.device, used.model)).collect();
        let attempts = run.attempts.len().to_string();
        vec![run.cell.to_string(), verdict, seconds(run.took), attempts, devices.join(" ")]
    }));
    let lines = columns(&rows, &[Align::Left, Align::Left, Align::Right, Align::Right], 0);
    for (index, line) in lines.lines().enumerate() {
        text.push_str(&format!("{line}\n"));
        let run = index.checked_sub(1).and_then(|index| night.runs.get(index));
        if let Some(run) = run.filter(|run| !run.reason.is_empty()) {
            text.push_str(&format!("  {}\n", printable(&run.reason)));
        }
    }
    text + &format!("{}\n", counts(night))
}

/// What has changed, as lines.
pub(super) fn changed(changes_: &Comparison) -> String {
    let groups = changes(changes_);
    if groups.is_empty() {
        return "nothing has changed since the night before\n".to_owned();
    }
    let group = |(head, lines): (&str, Vec<String>)| {
        lines.into_iter().fold(format!("{head}:\n"), |text, line| format!("{text}  {}\n", printable(&line)))
    };
    groups.into_iter().map(group).collect()
}
