//! `pilab reserve`: asks for devices, waits for them, and with `--hold-by-process` keeps them until it ends.

use super::args::ReserveArgs;
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::labs::{Answer, ask_all};
use super::lending::{show, whole};
use super::local::Local;
use super::login::connect;
use super::run::Interrupts;
use super::table::printable;
use super::ui::Ui;
use crate::model::id::{DeviceId, LeaseId};
use crate::model::lease::{Priority, Purpose};
use crate::model::scenario::Need;
use crate::wire::lending::{self, LeaseAsked, LeaseRef, LeaseState, Reserve, WaitingRow};
use crate::wire::request::REQUEST_VERSION;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How often a process that holds a lease lets itself be heard. After three beats in a row that nobody heard the
/// lease ends.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The least pause between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause after a question that nobody answered.
const RETRY: Duration = Duration::from_secs(1);
/// How long the coordinator may hold an answer back while nothing changes.
const WATCH: Duration = Duration::from_secs(5);

/// Reserves devices.
pub async fn reserve(local: &dyn Local, args: ReserveArgs, ui: Ui) -> Result<Exit, CliError> {
    let interrupts = Interrupts::listen();
    let id = lease_id()?;
    let body = request(&id, &args);
    let client = if args.any_lab {
        soonest(local, &args, &body, ui).await?
    } else {
        connect(local, &args.login).await?
    };
    let asked: LeaseState = client.ask(lending::RESERVE, &body).await?;
    let granted = tokio::select! {
        granted = wait(&client, &id, asked, ui) => granted?,
        () = interrupts.stop.cancelled() => {
            withdraw(&client, &id).await?;
            return Err(CliError::Cancelled);
        }
    };
    show(&granted, args.json, ui)?;
    if matches!(granted, LeaseState::Granted(_)) && args.hold_by_process {
        ui.note("held until this command ends (Ctrl-C)");
        return hold(&client, &id, &interrupts, ui).await;
    }
    Ok(Exit::Ok)
}

/// The lab that would serve the request first, of all that could. It waits in that one's queue and no other.
async fn soonest(local: &dyn Local, args: &ReserveArgs, body: &Reserve, ui: Ui) -> Result<Client, CliError> {
    let answers = ask_all::<LeaseState>(local, &args.login, lending::ESTIMATE, body).await?;
    let mut reasons = Vec::new();
    let mut best: Option<(Duration, Client, PathBuf)> = None;
    for Answer { lab, login, answer } in answers {
        match answer {
            Ok((client, state)) => {
                let wait = match &state {
                    LeaseState::Granted(_) => Duration::ZERO,
                    LeaseState::Waiting(row) => row.estimate.unwrap_or(Duration::MAX),
                    LeaseState::Ended => continue,
                };
                if best.as_ref().is_none_or(|(before, ..)| wait < *before) {
                    best = Some((wait, client, login));
                }
            }
            Err(cause) => reasons.push(format!("{lab}: {cause}")),
        }
    }
    let Some((_, client, login)) = best else {
        let cause = reasons.join("; ");
        return Err(CliError::Refused { verb: lending::RESERVE, cause, hint: None });
    };
    ui.note(&format!("lab {}: --login {}", client.lab(), login.display()));
    Ok(client)
}

fn request(id: &LeaseId, args: &ReserveArgs) -> Reserve {
    let need = |role: String, device: Option<DeviceId>| Need {
        role,
        device,
        model: args.model,
        labels: args.label.iter().cloned().collect(),
        ..Need::default()
    };
    let needs = if args.devices.is_empty() {
        (1..=args.count).map(|number| need(number.to_string(), None)).collect()
    } else {
        args.devices.iter().map(|device| need(device.to_string(), Some(device.clone()))).collect()
    };
    let start = args.at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Reserve {
        version: REQUEST_VERSION,
        id: id.clone(),
        purpose: args.purpose.clone(),
        needs,
        duration: args.duration,
        priority: args.priority,
        hold_by_process: args.hold_by_process.then_some(HEARTBEAT),
        start_ms: start.and_then(|start| u64::try_from(start.as_millis()).ok()),
        no_wait: args.no_wait,
    }
}

/// Gets one device for a command's own use, until [`withdraw`]: it waits its turn like everybody.
pub(super) async fn borrow(
    client: &Client,
    device: &DeviceId,
    purpose: Purpose,
    ui: Ui,
) -> Result<LeaseId, CliError> {
    let id = lease_id()?;
    let need = Need { role: device.to_string(), device: Some(device.clone()), ..Need::default() };
    let body = Reserve {
        version: REQUEST_VERSION,
        id: id.clone(),
        purpose,
        needs: vec![need],
        duration: None,
        priority: Priority::default(),
        // One that is killed gives it back.
        hold_by_process: Some(HEARTBEAT),
        start_ms: None,
        no_wait: false,
    };
    let asked: LeaseState = client.ask(lending::RESERVE, &body).await?;
    match wait(client, &id, asked, ui).await {
        Ok(_) => Ok(id),
        Err(error) => {
            // The first error is the one to tell.
            let _ = withdraw(client, &id).await;
            Err(error)
        }
    }
}

/// Lets itself be heard under such a lease, for ever.
pub(super) async fn beat(client: &Client, id: &LeaseId) {
    let mut beats = interval(HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        // That the lease has ended shows in what is asked under it.
        let _ = client.ask::<()>(lending::HEARTBEAT, &LeaseRef { lease: id.clone() }).await;
    }
}

/// Chosen here, so that a request which is sent again is known for the same.
fn lease_id() -> Result<LeaseId, CliError> {
    LeaseId::new(format!("l-{:08x}", rand::random::<u32>())).map_err(|e| CliError::local("name the lease", e))
}

/// Until it does not wait any more, or is booked for later.
async fn wait(client: &Client, id: &LeaseId, mut state: LeaseState, ui: Ui) -> Result<LeaseState, CliError> {
    let mut told = String::new();
    loop {
        match &state {
            LeaseState::Waiting(row) if row.position.is_some() => {
                let line = waiting_line(row);
                if line != told {
                    ui.note(&line);
                    told = line;
                }
            }
            LeaseState::Waiting(_) | LeaseState::Granted(_) => return Ok(state),
            LeaseState::Ended => {
                let cause = "the request was withdrawn while it waited".to_owned();
                return Err(CliError::Refused { verb: lending::RESERVE, cause, hint: None });
            }
        }
        state = match client.ask(lending::LEASE, &LeaseAsked { lease: id.clone(), wait: WATCH }).await {
            // The request is in the ledger: it waits on while the coordinator is started anew.
            Err(error @ CliError::Request { .. }) => {
                ui.note(&format!("the coordinator does not answer; asking again: {error}"));
                sleep(RETRY).await;
                continue;
            }
            answered => answered?,
        };
        // A coordinator for which too many wait answers at once.
        sleep(PAUSE).await;
    }
}

fn waiting_line(row: &WaitingRow) -> String {
    let place = row.position.unwrap_or_default();
    let estimate = row.estimate.map_or_else(
        || "nobody knows how long that takes".to_owned(),
        |left| {
            format!("at the latest in {}", whole(Duration::from_secs(left.as_secs().next_multiple_of(10))))
        },
    );
    format!("{} waits in place {place}: {}; {estimate}", row.lease, printable(&row.blocker))
}

pub(super) async fn withdraw(client: &Client, id: &LeaseId) -> Result<(), CliError> {
    client.ask(lending::RELEASE, &LeaseRef { lease: id.clone() }).await
}

/// Lets itself be heard until it is told to end, or the lease has.
async fn hold(client: &Client, id: &LeaseId, interrupts: &Interrupts, ui: Ui) -> Result<Exit, CliError> {
    let mut beats = interval(HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beats.tick() => {}
            () = interrupts.stop.cancelled() => {
                withdraw(client, id).await?;
                ui.note(&format!("{id} is released"));
                return Ok(Exit::Ok);
            }
        }
        match client.ask::<()>(lending::HEARTBEAT, &LeaseRef { lease: id.clone() }).await {
            Ok(()) => {}
            // It has ended, or is another's: there is nothing to hold.
            Err(error @ CliError::Refused { .. }) => return Err(error),
            // Nobody heard it: the next beat may be.
            Err(error) => ui.note(&format!("not heard: {error}")),
        }
    }
}
