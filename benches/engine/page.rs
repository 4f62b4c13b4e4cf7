//! A page of 500 runs and 30 nights, as `pilab nightly last` makes it of their records, in a browser.

use crate::document::yes;
use crate::{percentile, pilab};
use pilab::model::device::{Backend, Model};
use pilab::model::night::{Cell, NIGHT_VERSION, Record, Run, Used};
use pilab::model::run::Verdict;
use pilab::support::command::Command;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

const NIGHTS: u64 = 30;
const RUNS: usize = 500;
/// How often each page is opened.
const TRIES: usize = 11;
const DAY_MS: u64 = 24 * 3600 * 1000;

pub(crate) async fn rows(dir: &Path) -> String {
    let page = made(dir).await;
    let size = std::fs::metadata(&page).unwrap().len() as f64 / 1e6;
    let row = format!(
        "| page of {RUNS} runs after {NIGHTS} nights | {size:.2} MB | < 3 MB | {} |\n",
        yes(size < 3.0)
    );
    let Some((opened, empty)) = opened(dir, &page).await else {
        return row + "| the same, opened in headless Chromium | Chromium is not installed | < 1 s | |\n";
    };
    let more = opened - empty;
    format!(
        "{row}| the same, opened in headless Chromium | {more:.2} s more than an empty page ({opened:.2} s and {empty:.2} s with the browser's own start) | < 1 s | {} |\n",
        yes(more < 1.0)
    )
}

/// Plants the records, and has the program make the page of the last night.
async fn made(dir: &Path) -> PathBuf {
    let lab = dir.join("nights.toml");
    std::fs::write(&lab, "name = \"bench\"\n[[pools]]\nname = \"box\"\nbackend = \"container\"\ncount = 1\n[[nightly]]\nstart = \"00:00\"\nscenarios = [\"ping\"]\n").unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = u64::try_from(now.as_millis()).unwrap();
    let nights = dir.join("state/nights/bench/nightly");
    for night in 0..NIGHTS {
        let record = record(now - (NIGHTS - night) * DAY_MS);
        let of = nights.join(format!("{night:02}"));
        std::fs::create_dir_all(&of).unwrap();
        std::fs::write(of.join("night.json"), serde_json::to_vec(&record).unwrap()).unwrap();
    }
    let output = pilab(dir, &["nightly", "last", "--lab", lab.to_str().unwrap()]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let page = said.lines().find_map(|line| line.strip_prefix("page: "));
    page.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr))).into()
}

fn record(began_ms: u64) -> Record {
    let run = |n: usize| {
        let device: pilab::model::id::DeviceId = format!("lab-{}", n % 50).parse().unwrap();
        let cell =
            Cell { scenario: format!("scenario-{}", n / 50).parse().unwrap(), place: device.to_string() };
        Run {
            verdict: Some(Verdict::Failed),
            devices: vec![Used { device, backend: Backend::Pi, model: Model::Pi4B, instead: None }],
            attempts: vec![Verdict::Failed],
            reason: "what was expected did not come ".repeat(40),
            excerpt: "[   12.345678] a line of a kernel that has much to say\n".repeat(60),
            took: 12.3,
            boot: Some(9.5),
            ..Run::planned(cell)
        }
    };
    Record {
        version: NIGHT_VERSION,
        lab: "bench".parse().unwrap(),
        plan: "nightly".to_owned(),
        began_ms,
        ended_ms: Some(began_ms + 3_600_000),
        late: false,
        missed: Vec::new(),
        worn: Vec::new(),
        runs: (0..RUNS).map(run).collect(),
    }
}

/// Seconds until the browser has loaded and laid out the page and has ended, and the same for an empty page; medians.
async fn opened(dir: &Path, page: &Path) -> Option<(f64, f64)> {
    let empty = dir.join("empty.html");
    std::fs::write(&empty, "<!DOCTYPE html><title>empty</title>").unwrap();
    let (mut opened, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        opened.push(open(dir, page).await?);
        bare.push(open(dir, &empty).await?);
    }
    opened.sort_by(f64::total_cmp);
    bare.sort_by(f64::total_cmp);
    Some((percentile(&opened, 50), percentile(&bare, 50)))
}

async fn open(dir: &Path, page: &Path) -> Option<f64> {
    let began = Instant::now();
    let profile = format!("--user-data-dir={}", dir.join("profile").display());
    let picture = format!("--screenshot={}", dir.join("page.png").display());
    let url = format!("file://{}", page.display());
    let command = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args(["--disable-dev-shm-usage", "--window-size=1280,4000", &profile, &picture, &url]);
    command.timeout(Duration::from_secs(60)).output().await.ok().map(|_| began.elapsed().as_secs_f64())
}
