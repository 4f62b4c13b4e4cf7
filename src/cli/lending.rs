//! `pilab devices`, `queue`, `extend`, `transfer`, `release`: what is lent to whom.

use super::args::{ExtendArgs, JsonArgs, ListArgs, ReleaseArgs, TransferArgs};
use super::error::CliError;
use super::exit::Exit;
use super::labs::{Answer, ask_all};
use super::local::Local;
use super::login::connect;
use super::table::{Align, columns, printable};
use super::ui::Ui;
use crate::model::id::LabName;
use crate::model::power;
use crate::support::clock;
use crate::wire::lending::{
    self, DeviceRow, Devices, Extend, LeaseRef, LeaseRow, LeaseState, Pending, Queue, Transfer, Usage,
    WaitingRow,
};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

/// Lists the lab's devices.
pub async fn devices(local: &dyn Local, args: ListArgs, ui: Ui) -> Result<Exit, CliError> {
    if args.all_labs {
        let labs = ask_all::<Devices>(local, &args.login, lending::DEVICES, &()).await?;
        let rows = labs.iter().filter_map(|lab| Some((&lab.lab, lab.answer.as_ref().ok()?)));
        if args.json.json {
            for (lab, (_, answer)) in rows {
                answer.devices.iter().try_for_each(|row| ui.json(&OfLab { lab, row }))?;
            }
        } else {
            let all: Vec<_> = rows.flat_map(|(_, (_, answer))| answer.devices.iter().cloned()).collect();
            ui.data(&device_table(&all, clock::wall_ms()))?;
        }
        return tell_away(&labs, args.json, ui);
    }
    let client = connect(local, &args.login).await?;
    let Devices { devices } = client.ask(lending::DEVICES, &()).await?;
    if args.json.json {
        devices.iter().try_for_each(|row| ui.json(row))?;
    } else {
        ui.data(&device_table(&devices, clock::wall_ms()))?;
        for line in devices.iter().filter_map(worn) {
            ui.note(&line);
        }
        for row in &devices {
            let Some(pending) = row.pending else { continue };
            let what = match pending {
                Pending::Changed => "wired otherwise once it is back",
                Pending::Removed => "leaves the lab once it is back",
            };
            ui.note(&format!("{}: {what}", row.device.id));
        }
    }
    Ok(Exit::Ok)
}

/// Lists the leases and the requests that wait.
pub async fn queue(local: &dyn Local, args: ListArgs, ui: Ui) -> Result<Exit, CliError> {
    if args.all_labs {
        let labs = ask_all::<Queue>(local, &args.login, lending::QUEUE, &()).await?;
        for (lab, (_, queue)) in labs.iter().filter_map(|lab| Some((&lab.lab, lab.answer.as_ref().ok()?))) {
            let Queue { leases, waiting } = queue;
            if args.json.json {
                let granted = leases.iter().cloned().map(LeaseState::Granted);
                let mut all = granted.chain(waiting.iter().cloned().map(LeaseState::Waiting));
                all.try_for_each(|row| ui.json(&OfLab { lab, row: &row }))?;
            } else {
                ui.data(&format!("lab {lab}\n{}", lease_table(leases)))?;
                if !waiting.is_empty() {
                    ui.data(&format!("\n{}", waiting_table(waiting)))?;
                }
                ui.data("\n")?;
            }
        }
        return tell_away(&labs, args.json, ui);
    }
    let client = connect(local, &args.login).await?;
    let Queue { leases, waiting } = client.ask(lending::QUEUE, &()).await?;
    if args.json.json {
        let granted = leases.into_iter().map(LeaseState::Granted);
        let all: Vec<_> = granted.chain(waiting.into_iter().map(LeaseState::Waiting)).collect();
        all.iter().try_for_each(|state| ui.json(state))?;
    } else {
        ui.data(&lease_table(&leases))?;
        if !waiting.is_empty() {
            ui.data(&format!("\n{}", waiting_table(&waiting)))?;
        }
    }
    Ok(Exit::Ok)
}

/// A row, and whose it is.
#[derive(Serialize)]
struct OfLab<'a, T> {
    lab: &'a LabName,
    #[serde(flatten)]
    row: &'a T,
}

/// Names the labs that have not answered; it is a fault only when none has.
fn tell_away<T>(labs: &[Answer<T>], json: JsonArgs, ui: Ui) -> Result<Exit, CliError> {
    for lab in labs {
        match &lab.answer {
            Ok(_) => {}
            Err(_) if json.json => ui.json(&lab.away())?,
            Err(cause) => ui.data(&format!("lab {} is away: {}\n", lab.lab, printable(cause)))?,
        }
    }
    Ok(if labs.iter().any(|lab| lab.answer.is_ok()) { Exit::Ok } else { Exit::Lab })
}

/// Lets a lease last longer.
pub async fn extend(local: &dyn Local, args: ExtendArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    // Under one number it is one extension, however often it is asked for.
    let body = Extend { lease: args.lease, longer: args.longer, once: Some(rand::random()) };
    let mut asked = client.ask(lending::EXTEND, &body).await;
    if let Err(CliError::Request { .. }) = asked {
        ui.note("the coordinator did not answer; asking once more");
        asked = client.ask(lending::EXTEND, &body).await;
    }
    show(&asked?, args.json, ui)
}

/// Gives a lease to another user.
pub async fn transfer(local: &dyn Local, args: TransferArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let body = Transfer { lease: args.lease, to: args.to };
    show(&client.ask(lending::TRANSFER, &body).await?, args.json, ui)
}

/// Gives devices back.
pub async fn release(local: &dyn Local, args: ReleaseArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    for lease in args.leases {
        let body = LeaseRef { lease };
        let () = client.ask(lending::RELEASE, &body).await?;
        if args.json.json {
            ui.json(&json!({ "lease": body.lease, "state": "ended" }))?;
        } else {
            ui.note(&format!("{} is released", body.lease));
        }
    }
    Ok(Exit::Ok)
}

/// Prints how a lease stands.
pub(super) fn show(state: &LeaseState, json: JsonArgs, ui: Ui) -> Result<Exit, CliError> {
    match state {
        state if json.json => ui.json(state)?,
        LeaseState::Granted(row) => ui.data(&lease_table(std::slice::from_ref(row)))?,
        LeaseState::Waiting(row) => ui.data(&waiting_table(std::slice::from_ref(row)))?,
        LeaseState::Ended => ui.note("it has ended"),
    }
    Ok(Exit::Ok)
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// What is to be said of the wear of a device's relay.
pub(super) fn worn(row: &DeviceRow) -> Option<String> {
    let rated = row.rated_cycles?;
    let part = power::worn(row.switched, rated)?;
    let cycles = row.switched / 2;
    Some(format!(
        "{}: its relay has {part} % of its life behind it: {cycles} of {rated} cycles",
        row.device.id
    ))
}

pub(super) fn device_table(devices: &[DeviceRow], now_ms: u64) -> String {
    let mut rows = vec![row([
        "device", "model", "power", "boot", "stage", "health", "faults", "who", "left", "what for",
    ])];
    rows.extend(devices.iter().map(|device| {
        let (who, left, purpose) = match &device.usage {
            Usage::Free => (String::new(), String::new(), String::new()),
            Usage::Handover => ("handover".to_owned(), String::new(), String::new()),
            Usage::Leased { holder, until_ms, purpose, .. } => {
                let left = Duration::from_millis(until_ms.saturating_sub(now_ms));
                (holder.to_string(), whole(left), printable(purpose.as_str()))
            }
        };
        let stage = device.stage.map(|stage| stage.to_string()).unwrap_or_default();
        vec![
            device.device.id.to_string(),
            device.device.model.to_string(),
            device.power.to_string(),
            device.attempt.to_string(),
            stage,
            device.health.to_string(),
            device.flakiness.map(|flaky| format!("{}/{}", flaky.bad, flaky.seen)).unwrap_or_default(),
            who,
            left,
            purpose,
        ]
    }));
    columns(&rows, &[Align::Left; 10], 0)
}

fn lease_table(leases: &[LeaseRow]) -> String {
    let mut rows = vec![row(["lease", "who", "left", "devices", "what for"])];
    rows.extend(leases.iter().map(|lease| {
        let devices: Vec<_> = lease.devices.iter().map(ToString::to_string).collect();
        vec![
            lease.lease.to_string(),
            lease.holder.to_string(),
            lease.left.map_or_else(|| "frozen".to_owned(), whole),
            devices.join(" "),
            printable(lease.purpose.as_str()),
        ]
    }));
    columns(&rows, &[Align::Left; 5], 0)
}

fn waiting_table(waiting: &[WaitingRow]) -> String {
    let mut rows = vec![row(["waits", "who", "place", "devices", "at the latest in", "for", "what for"])];
    rows.extend(waiting.iter().map(|request| {
        vec![
            request.lease.to_string(),
            request.holder.to_string(),
            request.position.map_or_else(|| "booked".to_owned(), |place| place.to_string()),
            request.devices.to_string(),
            request.estimate.map_or_else(|| "unknown".to_owned(), whole),
            printable(&request.blocker),
            printable(request.purpose.as_str()),
        ]
    }));
    columns(&rows, &[Align::Left; 7], 0)
}

/// Whole seconds, in the largest units: `1h 29m 3s`.
pub(super) fn whole(length: Duration) -> String {
    humantime::format_duration(Duration::from_secs(length.as_secs())).to_string()
}
