//! `pilab doctor`: looks at every part that a lab needs of this machine, and says what to do about what is wrong.

use super::args::DoctorArgs;
use super::error::CliError;
use super::exit::Exit;
use super::lending::worn;
use super::local::Local;
use super::login;
use super::table::{Align, columns, printable};
use super::ui::Ui;
use crate::config;
use crate::wire::lending::{DEVICES, DeviceRow, Devices};
use serde::Serialize;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// As it should be.
    Good,
    /// It does, but not for all or not for long.
    Doubtful,
    /// A lab cannot do without.
    Bad,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub part: String,
    /// How it is.
    pub condition: Condition,
    /// What was seen, one line.
    pub seen: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    /// It is as it should be.
    pub fn good(part: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { part: part.into(), condition: Condition::Good, seen: seen.into(), hint: None }
    }

    /// It could be better.
    pub fn doubtful(part: impl Into<String>, seen: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { condition: Condition::Doubtful, hint: Some(hint.into()), ..Self::good(part, seen) }
    }

    /// It will not do.
    pub fn bad(part: impl Into<String>, seen: impl Into<String>, hint: Option<String>) -> Self {
        Self { condition: Condition::Bad, hint, ..Self::good(part, seen) }
    }
}

/// Looks at everything, whatever is found on the way.
pub async fn doctor(local: &dyn Local, args: DoctorArgs, ui: Ui) -> Result<Exit, CliError> {
    let mut findings = local.examine(&args.lab).await;
    findings.extend(coordinator(local, &args).await);
    if args.json.json {
        findings.iter().try_for_each(|finding| ui.json(finding))?;
    } else {
        ui.data(&table(&findings))?;
        for finding in &findings {
            if let Some(hint) = &finding.hint {
                ui.hint(&format!("{}: {hint}", finding.part));
            }
        }
    }
    let is_bad = findings.iter().any(|finding| finding.condition == Condition::Bad);
    Ok(if is_bad { Exit::Lab } else { Exit::Ok })
}

fn table(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let condition = match finding.condition {
                Condition::Good => "ok",
                Condition::Doubtful => "?",
                Condition::Bad => "BAD",
            };
            vec![condition.to_owned(), finding.part.clone(), printable(&finding.seen)]
        })
        .collect();
    columns(&rows, &[Align::Left; 3], 0)
}

/// The lab's coordinator on this machine, where there is one, and its devices.
async fn coordinator(local: &dyn Local, args: &DoctorArgs) -> Vec<Finding> {
    const PART: &str = "coordinator";
    // What is wrong with the file has been told.
    let Ok(lab) = config::lab::load(&args.lab, None, None) else { return Vec::new() };
    let client = match login::connect_here(local, &lab.name).await {
        Ok(Some(client)) => client,
        Ok(None) => return vec![Finding::good(PART, format!("none runs for lab {} here", lab.name))],
        Err(error) => return vec![Finding::bad(PART, error.to_string(), error.hint().map(str::to_owned))],
    };
    let asked: Result<Devices, CliError> = client.ask(DEVICES, &()).await;
    let devices = match asked {
        Ok(Devices { devices }) => devices,
        Err(error) => {
            return vec![Finding::bad(PART, error.to_string(), Some("its log says why".to_owned()))];
        }
    };
    let unwell = devices.iter().filter(|row| !row.reason.is_empty() && !row.health.is_good());
    let unwell: Vec<_> =
        unwell.map(|row| format!("{} is {}: {}", row.device.id, row.health, row.reason)).collect();
    let answers = if unwell.is_empty() {
        Finding::good(PART, format!("lab {} answers; devices: {}", lab.name, devices.len()))
    } else {
        Finding::doubtful(PART, unwell.join("; "), "see its console: pilab console DEVICE --from boot")
    };
    let mut findings = vec![answers];
    findings.extend(devices.iter().filter_map(relay));
    findings
}

/// The relay of a device, once its wear is to be told. It is counted by the coordinator, and so only seen where one runs.
fn relay(row: &DeviceRow) -> Option<Finding> {
    let part = format!("relay of {}", row.device.id);
    let hint = "put another relay in before this one fails, then add what this one has done to `rated_cycles` of the device \
                in the lab file: the count goes on";
    Some(Finding::doubtful(part, worn(row)?, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bad_stands_out() {
        let findings = [
            Finding::good("clock", "synchronised"),
            Finding::bad("nats-server", "not installed", Some("install it".to_owned())),
        ];
        assert_eq!(table(&findings), "ok   clock        synchronised\nBAD  nats-server  not installed\n");
        let json = serde_json::to_string(&findings[0]).unwrap();
        assert_eq!(json, r#"{"part":"clock","condition":"good","seen":"synchronised"}"#);
    }
}
