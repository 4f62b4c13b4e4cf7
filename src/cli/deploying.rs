//! `pilab deploy`, `undeploy`, `status`, `verify`: what a device runs.

use super::args::{DeployArgs, StatusArgs, UndeployArgs, VerifyArgs};
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::login::connect;
use super::table::{Align, columns, printable};
use super::ui::Ui;
use crate::config;
use crate::wire::deploying::{
    self, Deploy, Deployed, StatusAsked, Statuses, Undeploy, Verified, VerifyAsked,
};
use serde_json::json;
use std::time::Duration;

/// How much longer than it waits for agreement a verification may take: `podman ps` on the device, over SSH.
const LOOK: Duration = Duration::from_secs(30);

/// Puts a deployment on a device.
pub async fn deploy(local: &dyn Local, args: DeployArgs, ui: Ui) -> Result<Exit, CliError> {
    let spec = config::deployment::load(&args.file)?;
    let client = connect(local, &args.login).await?;
    let body = Deploy { device: args.device, deployment: spec.name, score: spec.score };
    let Deployed { generation, .. } = client.ask(deploying::DEPLOY, &body).await?;
    let generation = generation.unwrap_or_default();
    let Deploy { device, deployment, .. } = &body;
    if args.json.json {
        ui.json(&json!({ "device": device, "deployment": deployment, "generation": generation }))?;
    } else {
        ui.note(&format!("{device} is to run {deployment} at generation {generation}"));
    }
    Ok(Exit::Ok)
}

/// Takes a deployment off a device.
pub async fn undeploy(local: &dyn Local, args: UndeployArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let body = Undeploy { device: args.device, deployment: args.deployment };
    let Deployed { revision, .. } = client.ask(deploying::UNDEPLOY, &body).await?;
    let (device, deployment) = (&body.device, &body.deployment);
    if args.json.json {
        ui.json(&json!({ "device": device, "deployment": deployment, "was_there": revision.is_some() }))?;
        return Ok(Exit::Ok);
    }
    ui.note(&match revision {
        Some(_) => format!("{device} is no longer to run {deployment}"),
        None => format!("{device} was not to run {deployment}"),
    });
    Ok(Exit::Ok)
}

/// Says what the agent says.
pub async fn status(local: &dyn Local, args: StatusArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let Statuses { deployments } =
        client.ask(deploying::STATUS, &StatusAsked { device: args.device }).await?;
    if args.json.json {
        for (deployment, status) in &deployments {
            ui.json(&json!({ "deployment": deployment, "status": status }))?;
        }
        return Ok(Exit::Ok);
    }
    let mut rows =
        vec![["deployment", "phase", "generation", "reason", "message"].map(str::to_owned).to_vec()];
    rows.extend(deployments.iter().map(|(deployment, status)| {
        vec![
            deployment.to_string(),
            status.phase.to_string(),
            status.generation.to_string(),
            printable(&status.reason),
            printable(&status.message),
        ]
    }));
    ui.data(&columns(&rows, &[Align::Left, Align::Left, Align::Right], 0))?;
    Ok(Exit::Ok)
}

/// Checks that all agree.
pub async fn verify(local: &dyn Local, args: VerifyArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let body = VerifyAsked { device: args.device, within: args.within };
    let verified: Verified = client.ask_within(deploying::VERIFY, &body, args.within + LOOK).await?;
    let Verified { deployments, containers, mismatches } = &verified;
    if args.json.json {
        ui.json(&verified)?;
    } else if mismatches.is_empty() {
        ui.data(&format!("{deployments} deployments and {containers} containers are as desired\n"))?;
    } else {
        mismatches.iter().try_for_each(|mismatch| ui.data(&format!("{}\n", printable(mismatch))))?;
    }
    Ok(if mismatches.is_empty() { Exit::Ok } else { Exit::Failed })
}
