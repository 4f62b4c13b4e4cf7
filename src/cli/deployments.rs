//! `pilab apply`, `withdraw`, `deployments`: what files say is to run, kept by the coordinator.

use super::args::{ApplyArgs, DeploymentsArgs, JsonArgs, KeepArgs, WithdrawArgs};
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::login::connect;
use super::table::{columns, printable};
use super::ui::Ui;
use crate::config;
use crate::model::deployment::{DeploymentReport, DeviceState};
use crate::model::id::{DeploymentName, LeaseId};
use crate::wire::deploying::{self, Applied, Apply, DeploymentRow, Deployments, Withdraw};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is asked whether it is so: the coordinator looks five times a second while something is under way.
const PAUSE: Duration = Duration::from_millis(200);
/// What is said of a deployment of which nothing is known.
const UNSEEN: &str = "not looked at yet; where it stays so, the coordinator's log says why";

/// Has the coordinator keep what the files say.
pub async fn apply(local: &dyn Local, args: ApplyArgs, ui: Ui) -> Result<Exit, CliError> {
    let ApplyArgs { paths, prune, keep } = args;
    let specs = config::deployment::load_all(&paths)?;
    if specs.is_empty() && !(prune && keep.lease.is_some()) {
        let what = "there is no deployment's file, NAME.toml".to_owned();
        let hint = "--prune with --lease withdraws all that was applied under it".to_owned();
        return Err(CliError::Usage { what, hint: Some(hint) });
    }
    let client = connect(local, &keep.login).await?;
    let (mut lease, mut names) = (keep.lease.clone(), BTreeSet::new());
    for spec in specs {
        let name = spec.name.clone();
        let body = Apply { lease: lease.clone(), spec };
        let Applied { lease: under, devices } = client.ask(deploying::APPLY, &body).await?;
        if devices.is_some_and(|devices| devices.is_empty()) {
            ui.note(&format!("{name} selects none of the devices of {under}"));
        }
        lease = Some(under);
        names.insert(name);
    }
    let mut pruned = BTreeSet::new();
    if prune {
        for DeploymentRow { lease: of, deployment, .. } in rows(&client).await? {
            if lease.as_ref() == Some(&of) && !names.contains(&deployment) {
                let body = Withdraw { lease: lease.clone(), deployment: deployment.clone(), force: false };
                client.ask::<Applied>(deploying::WITHDRAW, &body).await?;
                ui.note(&format!("{deployment} is withdrawn"));
                pruned.insert(deployment);
            }
        }
    }
    let Some(lease) = lease else { return Ok(Exit::Ok) };
    settle(&client, &lease, &names, &pruned, &keep, ui).await
}

/// Has the coordinator take deployments off all devices.
pub async fn withdraw(local: &dyn Local, args: WithdrawArgs, ui: Ui) -> Result<Exit, CliError> {
    let WithdrawArgs { deployments, force, keep } = args;
    let client = connect(local, &keep.login).await?;
    let mut lease = keep.lease.clone();
    for deployment in &deployments {
        let body = Withdraw { lease: lease.clone(), deployment: deployment.clone(), force };
        lease = Some(client.ask::<Applied>(deploying::WITHDRAW, &body).await?.lease);
    }
    let Some(lease) = lease else { return Ok(Exit::Ok) };
    settle(&client, &lease, &BTreeSet::new(), &deployments.into_iter().collect(), &keep, ui).await
}

/// Says where all of them stand.
pub async fn list(local: &dyn Local, args: DeploymentsArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    print(&rows(&client).await?, args.json, ui)?;
    Ok(Exit::Ok)
}

async fn rows(client: &Client) -> Result<Vec<DeploymentRow>, CliError> {
    let Deployments { deployments } = client.ask(deploying::DEPLOYMENTS, &()).await?;
    Ok(deployments)
}

/// Waits, if that is asked for, until `wanted` run and `unwanted` are gone, and says how they stand.
async fn settle(
    client: &Client,
    lease: &LeaseId,
    wanted: &BTreeSet<DeploymentName>,
    unwanted: &BTreeSet<DeploymentName>,
    keep: &KeepArgs,
    ui: Ui,
) -> Result<Exit, CliError> {
    let deadline = Instant::now() + keep.wait.unwrap_or_default();
    loop {
        let mut rows = rows(client).await?;
        let is_named = |name: &DeploymentName| wanted.contains(name) || unwanted.contains(name);
        rows.retain(|row| row.lease == *lease && is_named(&row.deployment));
        let standings =
            rows.iter().map(|row| standing(wanted.contains(&row.deployment), row.devices.as_ref()));
        let missing = wanted.iter().any(|name| !rows.iter().any(|row| row.deployment == *name));
        let worst = standings.max().unwrap_or(Standing::Done);
        let worst = if missing { worst.max(Standing::UnderWay) } else { worst };
        if worst == Standing::UnderWay && Instant::now() < deadline {
            sleep(PAUSE).await;
            continue;
        }
        print(&rows, keep.json, ui)?;
        return Ok(match (worst, keep.wait) {
            (Standing::Done, _) | (_, None) => Exit::Ok,
            (Standing::Wrong, Some(_)) => Exit::Failed,
            (Standing::UnderWay, Some(waited)) => {
                ui.note(&format!("not so within {} s", waited.as_secs()));
                Exit::Failed
            }
        });
    }
}

/// How far a deployment is from what is asked for, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Done,
    UnderWay,
    /// Waiting does not mend it.
    Wrong,
}

/// None has not been looked at yet.
fn standing(is_wanted: bool, devices: Option<&DeploymentReport>) -> Standing {
    let Some(devices) = devices else { return Standing::UnderWay };
    let of = |state| match (state, is_wanted) {
        (DeviceState::Running, true) | (DeviceState::Orphaned, _) => Standing::Done,
        (DeviceState::Failed | DeviceState::Conflict, true) => Standing::Wrong,
        _ => Standing::UnderWay,
    };
    devices.values().map(|device| of(device.state)).max().unwrap_or(Standing::Done)
}

fn print(rows: &[DeploymentRow], json: JsonArgs, ui: Ui) -> Result<(), CliError> {
    if json.json {
        return rows.iter().try_for_each(|row| ui.json(row));
    }
    let head = ["deployment", "lease", "device", "state", "message"].map(str::to_owned).to_vec();
    let mut lines = vec![head];
    for DeploymentRow { lease, deployment, devices } in rows {
        let Some(devices) = devices else {
            let unseen = [deployment.as_str(), lease.as_str(), "-", "-", UNSEEN];
            lines.push(unseen.map(str::to_owned).to_vec());
            continue;
        };
        lines.extend(devices.iter().map(|(device, told)| {
            let (state, message) = (format!("{:?}", told.state), printable(&told.message));
            vec![deployment.to_string(), lease.to_string(), device.to_string(), state, message]
        }));
    }
    ui.data(&columns(&lines, &[], 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deployment::DeviceReport;
    use crate::model::id::DeviceId;

    #[test]
    fn what_is_wrong_on_one_device_is_not_waited_for() {
        use DeviceState::{Conflict, Failed, Orphaned, Pending, Removing, Running};
        let table: [(bool, &[DeviceState], Standing); 8] = [
            (true, &[], Standing::Done),
            (true, &[Running, Running], Standing::Done),
            (true, &[Running, Pending], Standing::UnderWay),
            (true, &[Running, Removing], Standing::UnderWay),
            (true, &[Failed, Running], Standing::Wrong),
            (true, &[Conflict, Pending], Standing::Wrong),
            (false, &[Removing], Standing::UnderWay),
            (false, &[Orphaned], Standing::Done),
        ];
        for (is_wanted, states, expected) in table {
            let report = |(n, &state): (usize, &DeviceState)| {
                let id = DeviceId::new(format!("lab-{n}")).unwrap();
                (id, DeviceReport { state, message: String::new() })
            };
            let devices = states.iter().enumerate().map(report).collect();
            assert_eq!(standing(is_wanted, Some(&devices)), expected, "{is_wanted} {states:?}");
        }
        assert_eq!([true, false].map(|is_wanted| standing(is_wanted, None)), [Standing::UnderWay; 2]);
    }
}
