//! `pilab device`: one device and its history, and what an admin says of its health.

use super::args::{DeviceCommand, DeviceHealthArgs, DeviceShowArgs};
use super::enroll::enroll;
use super::error::CliError;
use super::exit::Exit;
use super::lending::{device_table, worn};
use super::local::Local;
use super::login::connect;
use super::setup::setup;
use super::table::printable;
use super::train::train;
use super::ui::Ui;
use crate::model::health::{Finding, Health, Sign};
use crate::support::clock;
use crate::wire::lending::{self, DeviceAsked, DeviceShown, Flakiness, HealthSaid};
use serde_json::json;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// Shows a device, or changes its health.
pub async fn device(local: &dyn Local, command: DeviceCommand, ui: Ui) -> Result<Exit, CliError> {
    match command {
        DeviceCommand::Show(args) => show(local, args, ui).await,
        DeviceCommand::Maintenance(args) => say(local, args, Health::Maintenance, ui).await,
        DeviceCommand::Quarantine(args) => say(local, args, Health::Quarantined, ui).await,
        DeviceCommand::Release(args) => say(local, args, Health::Good, ui).await,
        DeviceCommand::Train(args) => train(local, args, ui).await,
        DeviceCommand::Enroll(args) => enroll(local, args, ui).await,
        DeviceCommand::Setup(args) => setup(local, args, ui).await,
    }
}

async fn show(local: &dyn Local, args: DeviceShowArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let shown: DeviceShown = client.ask(lending::DEVICE, &DeviceAsked { device: args.device }).await?;
    if args.json.json {
        ui.json(&shown)?;
        return Ok(Exit::Ok);
    }
    let mut text = device_table(std::slice::from_ref(&shown.row), clock::wall_ms());
    text.push_str("\nhealth\n");
    for checkup in &shown.checkups {
        let at = UNIX_EPOCH + Duration::from_millis(checkup.since.wall_ms);
        let (at, reason) = (humantime::format_rfc3339_seconds(at), printable(&checkup.reason));
        // Writing to a text does not fail.
        let _ = writeln!(text, "{at}  {}: {reason}", checkup.health);
    }
    if !shown.findings.is_empty() {
        text.push_str("\nlast runs, checks and trainings\n");
    }
    for finding in &shown.findings {
        let _ = writeln!(text, "{}", found(finding));
    }
    if let Some(flaky) = &shown.row.flakiness {
        let Flakiness { seen, bad, low, high } = flaky;
        let (low, high) = (low * 100.0, high * 100.0);
        let _ = writeln!(
            text,
            "\nat fault {bad} of {seen} times; in the long run {low:.0} to {high:.0} %, with 95 % confidence"
        );
    }
    if !shown.past.is_empty() {
        text.push_str("\nlast holders\n");
    }
    for past in &shown.past {
        let _ = writeln!(text, "{} ({})", past.holder, past.lease);
    }
    ui.data(&text)?;
    if let Some(line) = worn(&shown.row) {
        ui.note(&line);
    }
    Ok(Exit::Ok)
}

/// One finding, one line. What counts no more is in brackets.
fn found(finding: &Finding) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(finding.at.at.wall_ms);
    let at = humantime::format_rfc3339_seconds(at);
    let sign = match finding.sign {
        Sign::Clean => "clean",
        Sign::Fault => "at fault",
        Sign::Nothing => "says nothing",
    };
    let cause =
        if finding.cause.is_empty() { String::new() } else { format!(": {}", printable(&finding.cause)) };
    let Finding { of, verdict, .. } = finding;
    let line = format!("{}: {verdict}, {sign}{cause}", printable(of));
    if finding.past { format!("{at}  ({line})") } else { format!("{at}  {line}") }
}

async fn say(local: &dyn Local, args: DeviceHealthArgs, health: Health, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let said = HealthSaid { device: args.device, health, reason: args.reason };
    let () = client.ask(lending::HEALTH, &said).await?;
    if args.json.json {
        ui.json(&json!({ "device": said.device, "health": health, "reason": said.reason }))?;
    } else {
        ui.note(&format!("{} is {health}", said.device));
    }
    Ok(Exit::Ok)
}
