//! `pilab nightly`: a night is a user of the lab like any other, who asks for one run after another and keeps what came
//! of them. Which run is next is decided in `plan::night`.

mod drive;
mod keep;
mod page;
mod tell;
mod words;

use super::args::{NightlyArgs, NightlyCommand};
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::junit;
use super::local::{LabOptions, Local};
use super::login;
use super::progress::Screen;
use super::run::{Interrupts, check_backend};
use super::table::seconds;
use super::ui::Ui;
use crate::config;
use crate::config::lab::Lab;
use crate::config::nightly::Nightly;
use crate::model::device::{Backend, Device};
use crate::model::night::{Cell, NIGHT_VERSION, Record, Run};
use crate::model::run::Verdict;
use crate::model::scenario::Scenario;
use crate::plan::night::compare::compare;
use crate::plan::night::{Job, Night, calendar, forecast};
use crate::plan::retry::Policy;
use crate::support::clock;
use crate::wire::lending::{self, DeviceRow, Devices};
use drive::Drive;
use keep::Nights;
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a run is thought to take that was never seen: a boot and a few steps on an emulated device.
const UNSEEN: Duration = Duration::from_secs(120);
/// Of how many nights the past is asked for how long a run takes.
const PAST: usize = 5;
/// The most missed nights that are named.
const MOST_MISSED: usize = 31;
/// The file of a night's page.
const PAGE: &str = "index.html";
/// How long a server that was just started may take to let us in.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Does what the command says.
pub async fn nightly(local: &dyn Local, command: NightlyCommand, ui: Ui) -> Result<Exit, CliError> {
    let (NightlyCommand::Run(args)
    | NightlyCommand::Plan(args)
    | NightlyCommand::Last(args)
    | NightlyCommand::Compare(args)) = &command;
    let lab = config::lab::load(&args.lab.file, args.lab.arch, args.lab.image.as_deref())?;
    let plan = chosen(&lab, args)?;
    let nights = Nights::new(&local.state_dir()?, lab.name.as_str(), &plan.name);
    match command {
        NightlyCommand::Run(args) => run(local, &args, &lab, &plan, &nights, ui).await,
        NightlyCommand::Plan(args) => show_plan(&args, &lab, &plan, &nights, ui),
        NightlyCommand::Last(args) => last(&args, &plan, &nights, ui),
        NightlyCommand::Compare(args) => compared(&args, &nights, ui),
    }
}

fn chosen(lab: &Lab, args: &NightlyArgs) -> Result<Nightly, CliError> {
    let wanted = |plan: &&Nightly| args.plan.as_ref().is_none_or(|name| *name == plan.name);
    lab.nightly.iter().find(wanted).cloned().ok_or_else(|| {
        let names: Vec<&str> = lab.nightly.iter().map(|plan| plan.name.as_str()).collect();
        let what = match &args.plan {
            Some(name) => {
                format!("{} has no plan {name:?} (it has: {})", args.lab.file.display(), names.join(", "))
            }
            None => format!("{} has no [[nightly]]", args.lab.file.display()),
        };
        CliError::Usage { what, hint: Some("docs/nightly.md says how a plan is written".to_owned()) }
    })
}

/// What is to be run, one after the other the scenario and the line of the night that it is.
fn planned(plan: &Nightly) -> Result<Vec<(Scenario, Cell)>, CliError> {
    let mut all = Vec::new();
    for path in &plan.scenarios {
        for scenario in config::scenario::load_all(path)? {
            let mut places = Vec::new();
            for model in &plan.models {
                let mut on = scenario.clone();
                // What the scenario says itself stays.
                for need in on.needs.iter_mut().filter(|need| need.model.is_none() && need.device.is_none()) {
                    need.model = Some(*model);
                    // Who plans virtual machines gets them, and not for want of a board.
                    if need.fallback.as_ref().is_some_and(|fallback| fallback.backend == model.backend()) {
                        (need.backend, need.fallback) = (None, None);
                    }
                }
                places.push((on, model.to_string()));
            }
            for device in &plan.devices {
                let mut on = scenario.clone();
                if let Some(need) = on.needs.iter_mut().find(|need| need.device.is_none()) {
                    need.device = Some(device.clone());
                }
                places.push((on, device.to_string()));
            }
            if places.is_empty() {
                places.push((scenario, String::new()));
            }
            all.extend(places.into_iter().map(|(scenario, place)| {
                let cell = Cell { scenario: scenario.name.clone(), place };
                (scenario, cell)
            }));
        }
    }
    Ok(all)
}

/// How long a run is thought to take: the median of what it took in the last nights.
fn expected(cell: &Cell, past: &[Record], plan: &Nightly) -> Duration {
    let runs = past.iter().rev().flat_map(|night| night.runs.iter().find(|run| run.cell == *cell));
    let ended = |run: &&Run| matches!(run.verdict, Some(Verdict::Passed | Verdict::Failed));
    let mut took: Vec<f64> = runs.filter(ended).take(PAST).map(|run| run.took).collect();
    took.sort_by(f64::total_cmp);
    let median = took.get(took.len() / 2).and_then(|took| Duration::try_from_secs_f64(*took).ok());
    median.unwrap_or(UNSEEN).min(plan.attempt)
}

fn night_of(plan: &Nightly, runs: &[(Scenario, Cell)], past: &[Record], devices: Vec<Device>) -> Night {
    let jobs = runs
        .iter()
        .map(|(scenario, cell)| Job { needs: scenario.needs.clone(), expected: expected(cell, past, plan) });
    let policy = Policy {
        device: plan.device_retries,
        lab: plan.lab_retries,
        attempt: plan.attempt,
        cap: plan.attempt.saturating_mul(1 + plan.device_retries + plan.lab_retries),
    };
    Night::new(jobs.collect(), devices, policy, plan.deadline)
}

async fn run(
    local: &dyn Local,
    args: &NightlyArgs,
    lab: &Lab,
    plan: &Nightly,
    nights: &Nights,
    ui: Ui,
) -> Result<Exit, CliError> {
    check_backend(&args.lab)?;
    let Some(_turn) = nights.turn()? else {
        let what = format!("a night of plan {} is running already", plan.name);
        let hint = Some("wait for its end, or stop that process".to_owned());
        return Err(CliError::Usage { what, hint });
    };
    let interrupts = Interrupts::listen();
    let work = with_lab(local, args, lab, plan, nights, ui, &interrupts.stop);
    tokio::select! {
        done = work => done,
        () = interrupts.leave() => Err(CliError::Cancelled),
    }
}

/// The night in the lab's coordinator on this machine, else in a lab of its own.
async fn with_lab(
    local: &dyn Local,
    args: &NightlyArgs,
    lab: &Lab,
    plan: &Nightly,
    nights: &Nights,
    ui: Ui,
    stop: &CancellationToken,
) -> Result<Exit, CliError> {
    if !args.lab.asks_for_own()
        && let Some(client) = login::connect_here(local, &lab.name).await?
    {
        return through(client, args, lab, plan, nights, ui, stop).await;
    }
    let screen = Screen::new(ui);
    let options = LabOptions::new(args.lab.clone(), false);
    let running = local.start_lab(options, screen.local(), stop.clone()).await?;
    let (url, creds) = (running.url(), running.creds());
    let done = match Client::connect(url, creds, running.lab(), running.user(), START_PATIENCE).await {
        Ok(client) => through(client, args, lab, plan, nights, ui, stop).await,
        Err(error) => Err(error),
    };
    let ended = running.shutdown().await;
    let exit = done?;
    ended.map(|()| exit)
}

async fn through(
    client: Client,
    args: &NightlyArgs,
    lab: &Lab,
    plan: &Nightly,
    nights: &Nights,
    ui: Ui,
    stop: &CancellationToken,
) -> Result<Exit, CliError> {
    let past = nights.all();
    let runs = planned(plan)?;
    let Devices { devices } = client.ask(lending::DEVICES, &()).await?;
    let worn = devices.iter().filter_map(super::lending::worn).collect();
    let lendable = |row: DeviceRow| row.health.is_lendable().then_some(row.device);
    let devices = devices.into_iter().filter_map(lendable).collect();
    let night = night_of(plan, &runs, &past, devices);
    let record = Record { worn, ..begun(lab, plan, &runs, &past, clock::wall_ms()) };
    for alarm in words::alarms(&record, true) {
        ui.note(&format!("ALARM: {alarm}"));
    }
    let scenarios = runs.into_iter().map(|(scenario, _)| scenario).collect();
    let drive = Drive { client, nights, night, scenarios, record, deadline: plan.deadline, ui };
    let (record, views) = drive.run(stop).await?;
    let mut all = past;
    all.push(record.clone());
    let changes = compare(&all);
    let page = nights.put(&record, PAGE, page::page(&all, &changes).as_bytes())?;
    let junit = nights.put(&record, "junit.xml", junit::report(&views)?.as_bytes())?;
    let text = serde_json::to_vec_pretty(&words::told(&record, &changes))
        .map_err(|e| CliError::local("put the comparison into words", e))?;
    nights.put(&record, "comparison.json", &text)?;
    nights.prune(plan.keep);
    nights.prune_bundles(&lab.bundles, plan.whole);
    if args.json.json {
        ui.json(&record)?;
    } else {
        ui.data(&format!("{}\n{}", words::table(&record, true), words::changed(&changes)))?;
        ui.data(&format!("page: {}\njunit: {}\n", page.display(), junit.display()))?;
    }
    let verdicts = record.runs.iter().map(|run| run.verdict.unwrap_or(Verdict::Lab));
    let mut exit = Exit::of(verdicts).max(of_evidence(&record));
    for error in tell::tell(plan, &record, &changes, &page).await {
        ui.error(&error);
        exit = exit.max(Exit::Lab);
    }
    Ok(exit)
}

/// What it comes to that evidence of a night is lost, as of single runs.
fn of_evidence(night: &Record) -> Exit {
    if night.runs.iter().any(|run| run.lost.is_some()) { Exit::Lab } else { Exit::Ok }
}

/// The record of a night that begins now.
fn begun(lab: &Lab, plan: &Nightly, runs: &[(Scenario, Cell)], past: &[Record], now_ms: u64) -> Record {
    let last = past.last().map(|night| night.began_ms);
    let missed = calendar::missed(last, now_ms, plan.start, MOST_MISSED);
    Record {
        version: NIGHT_VERSION,
        lab: lab.name.clone(),
        plan: plan.name.clone(),
        began_ms: now_ms,
        ended_ms: None,
        // The first of all makes up for nothing, and neither does a second one of the same night.
        late: last.is_some_and(|last| {
            calendar::night_of(last, plan.start) != calendar::night_of(now_ms, plan.start)
        }) && calendar::is_late(now_ms, plan.start, plan.window),
        missed: missed.into_iter().map(|night| words::day(calendar::starts_ms(night, plan.start))).collect(),
        worn: Vec::new(),
        runs: runs.iter().map(|(_, cell)| Run::planned(cell.clone())).collect(),
    }
}

fn show_plan(
    args: &NightlyArgs,
    lab: &Lab,
    plan: &Nightly,
    nights: &Nights,
    ui: Ui,
) -> Result<Exit, CliError> {
    let runs = planned(plan)?;
    let devices = match lab.backend(args.lab.on) {
        Some(Backend::Container) => lab.containers.clone(),
        Some(Backend::Vm) => lab.devices.iter().map(|machine| machine.device.clone()).collect(),
        Some(Backend::Pi | Backend::Sim) | None => Vec::new(),
    };
    let devices: Vec<Device> =
        devices.into_iter().chain(lab.wired.iter().map(|wired| wired.device.clone())).collect();
    let (planned, left_out) = forecast(&mut night_of(plan, &runs, &nights.all(), devices));
    let cell = |job: usize| runs.get(job).map(|(_, cell)| cell.to_string()).unwrap_or_default();
    if args.json.json {
        for run in &planned {
            let (from, to) = (run.from.as_secs_f64(), run.to.as_secs_f64());
            ui.json(&json!({ "run": cell(run.job), "devices": run.devices, "from": from, "to": to }))?;
        }
        for (job, cause) in &left_out {
            ui.json(&json!({ "run": cell(*job), "left_out": cause }))?;
        }
        return Ok(Exit::Ok);
    }
    let mut sorted = planned;
    sorted.sort_by_key(|run| (run.from, run.job));
    for run in &sorted {
        let devices = run.devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let (from, to) = (seconds(run.from.as_secs_f64()), seconds(run.to.as_secs_f64()));
        ui.data(&format!("{from:>8} {to:>8}  {}  {devices}\n", cell(run.job)))?;
    }
    for (job, cause) in &left_out {
        ui.data(&format!("left out: {}: {cause}\n", cell(*job)))?;
    }
    let end = sorted.iter().map(|run| run.to).max().unwrap_or_default();
    let (count, end, bound) = (sorted.len(), seconds(end.as_secs_f64()), plan.deadline.as_secs());
    ui.data(&format!("{count} runs, done after {end} s of {bound} s; {} left out\n", left_out.len()))?;
    Ok(Exit::Ok)
}

/// Tells the last night. One that died, or that should have been and was not, is the lab's fault.
fn last(args: &NightlyArgs, plan: &Nightly, nights: &Nights, ui: Ui) -> Result<Exit, CliError> {
    let all = nights.all();
    let Some(night) = all.last() else { return Err(no_night()) };
    let running = nights.turn()?.is_none();
    let missed = calendar::missed(Some(night.began_ms), clock::wall_ms(), plan.start, MOST_MISSED);
    let missed: Vec<String> =
        missed.into_iter().map(|night| words::day(calendar::starts_ms(night, plan.start))).collect();
    let made = nights.dir(night).join(PAGE);
    let page = match (running, made.exists()) {
        (true, _) => None,
        (false, true) => Some(made),
        // One that died has not made its page.
        (false, false) => Some(nights.put(night, PAGE, page::page(&all, &compare(&all)).as_bytes())?),
    };
    if args.json.json {
        let died = night.ended_ms.is_none() && !running;
        let told = json!({
            "night": night, "running": running, "died": died, "missed_since": missed, "page": page
        });
        ui.json(&told)?;
    } else {
        ui.data(&words::table(night, running))?;
        match page {
            Some(page) => ui.data(&format!("page: {}\n", page.display()))?,
            None => ui.data("it goes on\n")?,
        }
        if !missed.is_empty() {
            ui.data(&format!("ALARM: missed since then: {}\n", missed.join(", ")))?;
        }
    }
    let dead = (night.ended_ms.is_none() && !running) || !missed.is_empty();
    let ended = night.runs.iter().filter_map(|run| run.verdict);
    Ok(Exit::of(ended).max(of_evidence(night)).max(if dead { Exit::Lab } else { Exit::Ok }))
}

fn compared(args: &NightlyArgs, nights: &Nights, ui: Ui) -> Result<Exit, CliError> {
    let all = nights.all();
    let Some(night) = all.last() else { return Err(no_night()) };
    let changes = compare(&all);
    if args.json.json {
        ui.json(&words::told(night, &changes))?;
    } else {
        ui.data(&words::changed(&changes))?;
    }
    Ok(if changes.newly_failing.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn no_night() -> CliError {
    let hint = Some("run one with pilab nightly run".to_owned());
    CliError::Usage { what: "there has been no night of this plan yet".to_owned(), hint }
}
