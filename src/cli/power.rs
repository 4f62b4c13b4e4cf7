//! `pilab power`: switches a device, or says how it is.

use super::args::{PowerArgs, PowerCommand, PowerStatusArgs};
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::login::connect;
use super::ui::Ui;
use crate::model::id::DeviceId;
use crate::wire::lending::{self, Devices, Power, PowerAct, PowerDone};
use serde_json::json;
use std::time::Duration;

/// How long switching may take: the least time off of a board, making a virtual machine on a loaded host, and
/// whoever is served before.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(120);

/// Does one of the commands on power.
pub async fn power(local: &dyn Local, command: PowerCommand, ui: Ui) -> Result<Exit, CliError> {
    let (act, args) = match command {
        PowerCommand::On(args) => (PowerAct::On, args),
        PowerCommand::Off(args) => (PowerAct::Off, args),
        PowerCommand::Cycle(args) => (PowerAct::Cycle, args),
        PowerCommand::Status(args) => return status(local, args, ui).await,
    };
    let client = connect(local, &args.login).await?;
    let PowerArgs { device, reason, force, json, .. } = args;
    let body = Power { device, act, force: reason.filter(|_| force) };
    let PowerDone { power, attempt } = switch(&client, &body).await?;
    if json.json {
        ui.json(&json!({ "device": body.device, "power": power, "attempt": attempt }))?;
    } else {
        ui.data(&format!("{}: {power}, boot attempt {attempt}\n", body.device))?;
    }
    Ok(Exit::Ok)
}

pub(super) async fn switch(client: &Client, body: &Power) -> Result<PowerDone, CliError> {
    client.ask_within(lending::POWER, body, SWITCH_TIMEOUT).await
}

async fn status(local: &dyn Local, args: PowerStatusArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let Devices { devices } = client.ask(lending::DEVICES, &()).await?;
    let found = devices.into_iter().find(|row| row.device.id == args.device);
    let row = found.ok_or_else(|| no_such(&args.device))?;
    if args.json.json {
        let (power, attempt) = (row.power, row.attempt);
        ui.json(
            &json!({ "device": row.device.id, "power": power, "attempt": attempt, "switched": row.switched }),
        )?;
    } else {
        ui.data(&format!("{}: {}, boot attempt {}\n", row.device.id, row.power, row.attempt))?;
    }
    Ok(Exit::Ok)
}

fn no_such(device: &DeviceId) -> CliError {
    CliError::Usage {
        what: format!("the lab has no device {device}"),
        hint: Some("pilab devices lists them".to_owned()),
    }
}
