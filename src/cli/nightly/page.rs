//! A night as one HTML page: no script, nothing fetched, readable on a phone. Everything that a device or a file said is
//! escaped. Pure.

use super::words::{alarms, changes, counts, day, moment, state};
use crate::cli::table::{printable, seconds};
use crate::model::night::{Record, Run};
use crate::model::run::Verdict;
use crate::plan::night::compare::{Comparison, flakiness, histories};
use crate::plan::trust;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// How many nights the trend shows.
const TREND: usize = 14;
/// How many boots are listed.
const SLOWEST: usize = 10;
/// The most bytes of reasons and console excerpts on a page, as they stand there: the page stays below 3 MB.
const QUOTED: usize = 1_500_000;
/// The longest reason in characters.
const REASON: usize = 600;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884}body{font:16px/1.4 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:.8rem}\
h1{font-size:1.3rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.4rem 0 .4rem}p{margin:.4rem 0}\
.scroll{overflow-x:auto}table{border-collapse:collapse}th,td{border:1px solid var(--line);padding:.25rem .5rem;text-align:left;white-space:nowrap}\
.n{text-align:right}pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid var(--line);padding:.5rem;font-size:.8rem}\
.v{display:inline-block;border-radius:.3rem;padding:0 .4rem;color:#fff;background:#666}\
.green,.passed{background:#1a7f37}.red,.failed{background:#c2261f}.device{background:#a04a00}.lab{background:#7a3fb0}\
.timeout{background:#8a6100}.alarm{border-left:.4rem solid #c2261f;padding-left:.6rem;font-weight:bold}\
details{border:1px solid var(--line);border-radius:.3rem;padding:.3rem .6rem;margin:.3rem 0}summary{cursor:pointer}\
.t{font-family:monospace;letter-spacing:.1em}";

/// The page of the last of `nights`; they are in the order of time.
pub(super) fn page(nights: &[Record], compared: &Comparison) -> String {
    let Some(night) = nights.last() else { return String::new() };
    let mut out = String::new();
    let title = format!("{} of {}, {}", night.plan, night.lab, day(night.began_ms));
    put(&mut out, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    put(&mut out, "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
    put(
        &mut out,
        &format!("<title>{} {}</title><style>{STYLE}</style></head><body>", escape(&title), state(night)),
    );
    put(&mut out, &format!("<h1>{} {}</h1>", badge(state(night), state(night)), escape(&title)));
    let ended = night.ended_ms.map_or("not ended".to_owned(), moment);
    put(&mut out, &format!("<p>{}</p><p>{} to {ended}</p>", escape(&counts(night)), moment(night.began_ms)));
    for alarm in alarms(night, false) {
        put(&mut out, &format!("<p class=\"alarm\">{}</p>", escape(&alarm)));
    }
    put(&mut out, "<h2>Since the night before</h2>");
    let groups = changes(compared);
    if groups.is_empty() {
        put(&mut out, "<p>Nothing has changed.</p>");
    }
    for (head, lines) in groups {
        let lines: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
        put(&mut out, &format!("<p>{head}</p><ul>{lines}</ul>"));
    }
    grid(&mut out, night);
    runs(&mut out, nights, night);
    devices(&mut out, nights, night);
    for line in &night.worn {
        put(&mut out, &format!("<p class=\"alarm\">{}</p>", escape(line)));
    }
    boots(&mut out, night);
    put(&mut out, "</body></html>\n");
    out
}

fn put(out: &mut String, text: &str) {
    out.push_str(text);
}

/// `text` as HTML shows it, in content and in quoted attributes, without what a browser may not be given.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push('\n'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn badge(class: &str, word: &str) -> String {
    format!("<span class=\"v {class}\">{word}</span>")
}

fn verdict(run: &Run) -> String {
    let badge = match run.verdict {
        Some(verdict) => badge(&verdict.to_string(), &verdict.to_string()),
        None => badge("", "not ended"),
    };
    if run.is_unstable() { format!("{badge} at try {}", run.attempts.len()) } else { badge }
}

/// Where a run was: what the plan says, else the device that it got.
fn place(run: &Run) -> String {
    let device = run.devices.first().map(|used| used.device.to_string());
    if run.cell.place.is_empty() {
        device.unwrap_or_else(|| "any".to_owned())
    } else {
        run.cell.place.clone()
    }
}

/// Scenarios by places.
fn grid(out: &mut String, night: &Record) {
    let places: BTreeSet<String> = night.runs.iter().map(place).collect();
    let mut rows: BTreeMap<&str, BTreeMap<String, Vec<&Run>>> = BTreeMap::new();
    for run in &night.runs {
        rows.entry(run.cell.scenario.as_str()).or_default().entry(place(run)).or_default().push(run);
    }
    put(out, "<h2>Results</h2><div class=\"scroll\"><table><tr><th>scenario</th>");
    for place in &places {
        put(out, &format!("<th>{}</th>", escape(place)));
    }
    put(out, "</tr>");
    for (scenario, cells) in rows {
        put(out, &format!("<tr><td>{}</td>", escape(scenario)));
        for place in &places {
            let runs = cells.get(place).map(|runs| runs.iter().map(|run| verdict(run)).collect::<String>());
            put(out, &format!("<td>{}</td>", runs.unwrap_or_default()));
        }
        put(out, "</tr>");
    }
    put(out, "</table></div>");
}

/// Each run with its trend, and why it did not pass. Those that did not come first and open.
fn runs(out: &mut String, nights: &[Record], night: &Record) {
    put(
        out,
        "<h2>Runs</h2><p>Trend: one letter a night, the newest last; . passed, F failed, D device, L lab, T timeout, \
              C cancelled, S skipped, - not run.</p>",
    );
    let histories = histories(nights.get(nights.len().saturating_sub(TREND)..).unwrap_or_default());
    let mut sorted: Vec<&Run> = night.runs.iter().collect();
    sorted.sort_by_key(|run| (rank(run), &run.cell));
    let mut left = QUOTED;
    for run in sorted {
        let open = if run.verdict == Some(Verdict::Failed) { " open" } else { "" };
        let head = format!("{} on {}", run.cell.scenario, place(run));
        let trend = histories.get(&run.cell).map(|history| trend(history)).unwrap_or_default();
        put(
            out,
            &format!(
                "<details{open}><summary>{} {} <span class=\"t\">{trend}</span> {} s</summary>",
                verdict(run),
                escape(&head),
                seconds(run.took)
            ),
        );
        let devices: Vec<_> = run
            .devices
            .iter()
            .map(|used| format!("{} ({}, {})", used.device, used.model, used.backend))
            .collect();
        if !devices.is_empty() {
            put(out, &format!("<p>{}</p>", escape(&devices.join(", "))));
        }
        for instead in run.devices.iter().filter_map(|used| used.instead.as_ref()) {
            let text = format!(
                "instead of {}: {}; not exercised: {}",
                instead.of,
                instead.because,
                instead.unexercised.join(", ")
            );
            put(out, &format!("<p>{}</p>", escape(&printable(&text))));
        }
        if run.attempts.len() > 1 {
            let attempts = run.attempts.iter().enumerate().map(|(n, verdict)| attempt(run, n, *verdict));
            put(out, &format!("<p>attempts: {}</p>", escape(&attempts.collect::<Vec<_>>().join(", "))));
        }
        let reason: String = printable(&run.reason).chars().take(REASON).collect();
        for (tag, text) in [("p", escape(&reason)), ("pre", escape(&run.excerpt))] {
            if text.is_empty() {
                continue;
            }
            if text.len() > left {
                put(out, "<p>More is in the night's record: this page is full.</p>");
                continue;
            }
            left -= text.len();
            put(out, &format!("<{tag}>{text}</{tag}>"));
        }
        if let Some(id) = &run.run {
            put(out, &format!("<p>bundle: bundles/{}</p>", escape(id.as_str())));
        }
        put(out, "</details>");
    }
}

/// An attempt's verdict, and its devices where the record has them.
fn attempt(run: &Run, number: usize, verdict: Verdict) -> String {
    let devices = run.tried.get(number).map(Vec::as_slice).unwrap_or_default();
    let devices: Vec<&str> = devices.iter().map(|device| device.as_str()).collect();
    if devices.is_empty() { verdict.to_string() } else { format!("{verdict} on {}", devices.join(" and ")) }
}

/// What is to be looked at first comes first.
fn rank(run: &Run) -> u8 {
    match run.verdict {
        Some(Verdict::Failed) => 0,
        Some(Verdict::Device | Verdict::Lab | Verdict::Timeout) => 1,
        None | Some(Verdict::Cancelled) => 2,
        Some(Verdict::Skipped) => 3,
        Some(Verdict::Passed) if run.is_unstable() => 4,
        Some(Verdict::Passed) => 5,
    }
}

fn trend(history: &[Option<Verdict>]) -> String {
    let letter = |verdict: &Option<Verdict>| match verdict {
        Some(Verdict::Passed) => '.',
        Some(Verdict::Failed) => 'F',
        Some(Verdict::Device) => 'D',
        Some(Verdict::Lab) => 'L',
        Some(Verdict::Timeout) => 'T',
        Some(Verdict::Cancelled) => 'C',
        Some(Verdict::Skipped) => 'S',
        None => '-',
    };
    history.iter().map(letter).collect()
}

fn devices(out: &mut String, nights: &[Record], night: &Record) {
    let tries = night.runs.iter().flat_map(Run::tries);
    let used: BTreeSet<&str> = tries.flat_map(|(_, devices)| devices).map(|device| device.as_str()).collect();
    if used.is_empty() {
        return;
    }
    put(
        out,
        &format!(
            "<h2>Devices</h2><p>Attempts of the last {} nights whose fault was the device's or nobody's, with the bounds of 95 % \
         confidence, and how far the rule of trust goes by them.</p><div class=\"scroll\"><table><tr><th>device</th><th>flaky</th><th>of</th><th>rate</th>\
         <th>between</th><th>by rule</th></tr>",
            nights.len()
        ),
    );
    for device in used {
        let score = flakiness(nights, device);
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        let rate = score.rate().map_or("-".to_owned(), percent);
        let bounds = format!("{} and {}", percent(score.low), percent(score.high));
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{rate}</td><td>{bounds}</td><td>{}</td></tr>",
            escape(device),
            score.bad,
            score.seen,
            trust::over(nights, device)
        );
    }
    put(out, "</table></div>");
}

fn boots(out: &mut String, night: &Record) {
    let mut boots: Vec<(f64, &Run)> = night.runs.iter().filter_map(|run| Some((run.boot?, run))).collect();
    boots.sort_by(|a, b| b.0.total_cmp(&a.0));
    if boots.is_empty() {
        return;
    }
    put(out, "<h2>Slowest boots</h2><p>From power-on to the agent's first answer.</p><ol>");
    for (after, run) in boots.into_iter().take(SLOWEST) {
        let what = format!("{} on {}", run.cell.scenario, place(run));
        put(out, &format!("<li>{} s: {}</li>", seconds(after), escape(&what)));
    }
    put(out, "</ol>");
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::device::{Backend, Model};
    use crate::model::id::{DeviceId, LabName, ScenarioName};
    use crate::model::night::{Cell, NIGHT_VERSION, Used};
    use crate::plan::night::compare::compare;

    pub(in crate::cli::nightly) fn record() -> Record {
        Record {
            version: NIGHT_VERSION,
            lab: LabName::new("lab").unwrap(),
            plan: "all".to_owned(),
            began_ms: 1_795_861_800_000,
            ended_ms: Some(1_795_872_000_000),
            late: false,
            missed: Vec::new(),
            worn: Vec::new(),
            runs: Vec::new(),
        }
    }

    fn run(scenario: &str, device: &str, verdict: Verdict) -> Run {
        let device = DeviceId::new(device).unwrap();
        let cell = Cell { scenario: ScenarioName::new(scenario).unwrap(), place: device.to_string() };
        let used = Used { device, backend: Backend::Pi, model: Model::Pi4B, instead: None };
        Run {
            verdict: Some(verdict),
            devices: vec![used],
            attempts: vec![verdict],
            took: 12.3,
            boot: Some(9.5),
            ..Run::planned(cell)
        }
    }

    #[test]
    fn what_others_said_cannot_leave_its_place() {
        let mut bad = run("ping", "lab-1", Verdict::Failed);
        bad.reason = "</p><script>alert(1)</script> \" onload='x'".to_owned();
        bad.excerpt = "<img src=x onerror=alert(1)>\u{1b}[2J&amp;\n".to_owned();
        bad.cell.place = "<b>".to_owned();
        let (missed, worn) = (vec!["<i>".to_owned()], vec!["lab-1: its <relay>".to_owned()]);
        let night = Record { plan: "<plan>".to_owned(), missed, worn, runs: vec![bad], ..record() };
        let page = page(std::slice::from_ref(&night), &compare(std::slice::from_ref(&night)));
        for bad in ["<script", "<img", "<b>", "<plan>", "<i>", "onload='", "\u{1b}"] {
            assert!(!page.contains(bad), "{bad} is in the page");
        }
        assert!(page.contains("<p class=\"alarm\">lab-1: its &lt;relay&gt;</p>"));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && page.contains("&amp;amp;"));
        for fetched in ["http:", "https:", "href", "url(", "<link", "<iframe", "@import"] {
            assert!(!page.contains(fetched), "{fetched} is in the page");
        }
    }

    #[test]
    fn the_page_says_what_there_is_to_know() {
        let then = Record {
            began_ms: 1_795_775_400_000,
            runs: vec![run("ping", "lab-1", Verdict::Passed)],
            ..record()
        };
        let mut unstable = run("isolation", "lab-2", Verdict::Passed);
        unstable.attempts.clear();
        unstable.attempted(Verdict::Device, vec![DeviceId::new("lab-9").unwrap()]);
        unstable.attempted(Verdict::Passed, vec![DeviceId::new("lab-2").unwrap()]);
        let now = Record {
            missed: vec!["2026-11-26".to_owned()],
            runs: vec![
                run("ping", "lab-1", Verdict::Device),
                unstable,
                run("late", "lab-3", Verdict::Skipped),
            ],
            ..record()
        };
        let nights = [then, now];
        let page = page(&nights, &compare(&nights));
        for words in [
            "<span class=\"v red\">red</span>",
            "3 runs: 1 passed, 1 device, 1 skipped",
            "missed before it: 2026-11-26",
            "<p>newly failing</p><ul><li>ping on lab-1</li></ul>",
            "<span class=\"t\">.D</span>",
            "at try 2",
            "<p>attempts: device on lab-9, passed on lab-2</p>",
            "<td>lab-9</td><td class=\"n\">1</td><td class=\"n\">1</td>",
            "<td>lab-1</td><td class=\"n\">1</td><td class=\"n\">2</td><td class=\"n\">50 %</td><td>9 % and 91 %</td><td>suspect</td>",
            "9.5 s: ",
        ] {
            assert!(page.contains(words), "{words} is not in {page}");
        }
    }

    #[test]
    fn five_hundred_runs_that_all_failed_with_much_to_say_fit_into_three_megabytes() {
        let all: Vec<Run> = (0..500)
            .map(|n| {
                let mut run =
                    run(&format!("scenario-{}", n / 50), &format!("lab-{}", n % 50), Verdict::Failed);
                run.reason = "\"".repeat(10_000);
                run.excerpt = "<&\"'>\n".repeat(300);
                run
            })
            .collect();
        let nights: Vec<Record> = (0..30).map(|_| Record { runs: all.clone(), ..record() }).collect();
        let page = page(&nights, &compare(&nights));
        assert!(page.len() < 3_000_000, "{} bytes", page.len());
        assert!(page.contains("this page is full"));
    }
}
