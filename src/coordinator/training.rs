//! `pilab device train`: a run of nothing but boots, on one device, whatever its health. What it comes to makes the device good.

use super::refusal::Refusal;
use super::runs::RunRecord;
use super::service::Shared;
use crate::model::device::Capability;
use crate::model::id::{RunId, ScenarioName, UserName};
use crate::model::scenario::{Action, Need, Scenario, Step, UnderTest};
use crate::support::clock;
use crate::wire::request::RunOptions;
use crate::wire::training::{Train, Training};
use std::sync::Arc;
use std::time::Duration;

/// The most boots of one training.
const MAX_BOOTS: u32 = 200;
/// The device's role.
const ROLE: &str = "device";

impl Shared {
    /// Begins a training, as a run that outlives its coordinator like any other.
    pub(super) async fn train(self: &Arc<Self>, user: &UserName, asked: Train) -> Result<Training, Refusal> {
        let id = asked.device.clone();
        let read = self.lending.ledger.read(move |book, _| {
            let record = book.device(&id)?;
            let rules = &book.policy().trust;
            Some((rules.wanted(&record.trust), rules.boot_timeout, record.device.capabilities.clone()))
        });
        let (wanted, boot_timeout, capabilities) =
            read.await?.ok_or_else(|| super::desk::no_such(&asked.device))?;
        if !capabilities.contains(&Capability::Boot) && !capabilities.contains(&Capability::Power) {
            return Err(Refusal::new(format!("{} cannot be switched by the lab", asked.device)));
        }
        let boots = asked.boots.unwrap_or(wanted);
        if !(1..=MAX_BOOTS).contains(&boots) {
            return Err(Refusal::new(format!("{boots} boots are not between 1 and {MAX_BOOTS}")));
        }
        let scenario = scenario(&asked, boots, boot_timeout)?;
        self.room_for_a_run(user)?;
        let (seconds, random) = (clock::wall_ms() / 1000, rand::random::<u16>());
        let run = RunId::new(format!("train-{seconds}-{random:04x}"));
        let run = run.map_err(|e| Refusal::new(e.to_string()))?;
        let record = RunRecord::new(run.clone(), user.clone(), scenario, RunOptions::default(), 1);
        self.accept(record.trains(Some(boots))).await?;
        Ok(Training { run, boots, wanted })
    }
}

/// The first boot is a run's own; each step is one more.
fn scenario(asked: &Train, boots: u32, boot_timeout: Duration) -> Result<Scenario, Refusal> {
    let step = |number: u32| Step {
        name: format!("boot {number}"),
        timeout: boot_timeout,
        action: Action::PowerCycle { on: ROLE.to_owned() },
    };
    Ok(Scenario {
        name: ScenarioName::new("train").map_err(|e| Refusal::new(e.to_string()))?,
        summary: format!("{boots} boots of {}, one after the other", asked.device),
        under_test: UnderTest::Workload,
        boot_timeout,
        needs: vec![Need { role: ROLE.to_owned(), device: Some(asked.device.clone()), ..Need::default() }],
        steps: (2..=boots).map(step).collect(),
        cleanup: Vec::new(),
    })
}
