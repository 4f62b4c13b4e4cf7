//! Tells others how a night went: a program with arguments, never a shell's line, and an HTTP POST.

use super::words::{Told, told};
use crate::cli::error::CliError;
use crate::config::nightly::Nightly;
use crate::model::night::Record;
use crate::plan::night::compare::Comparison;
use crate::support::command::Command;
use std::path::Path;
use std::time::Duration;

/// How long whoever is told may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells all that the plan names; answers what went wrong with any of them.
pub(super) async fn tell(plan: &Nightly, night: &Record, changes: &Comparison, page: &Path) -> Vec<CliError> {
    let mut failed = Vec::new();
    let told = told(night, changes);
    if let Some((program, args)) = plan.command.split_first() {
        let command = Command::new(program.clone())
            .args(args.iter().cloned())
            .arg(page)
            .env("PILAB_NIGHT", told.state)
            .env("PILAB_NIGHT_SUMMARY", told.summary.clone())
            .own_group()
            .timeout(PATIENCE);
        if let Err(error) = command.output().await {
            failed.push(CliError::local(format!("tell {program} of the night"), error));
        }
    }
    if let Some(url) = &plan.webhook
        && let Err(error) = post(url, &told).await
    {
        failed.push(CliError::local("tell the webhook of the night", error));
    }
    failed
}

async fn post(url: &str, told: &Told<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
    let body = serde_json::to_vec(told)?;
    client
        .post(url)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}
