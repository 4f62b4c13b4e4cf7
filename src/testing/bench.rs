//! Devices that are a test's until it ends, however it ends.

use super::device::Device;
use super::error::TestingError;
use super::lab::{ANSWER, Lab};
use crate::model::id::{DeviceId, LeaseId};
use crate::support::chain::Chain;
use crate::wire::lending::{HEARTBEAT, LeaseRef, RELEASE};
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// How often the process says that it lives. After three beats in a row that nobody heard the lease ends.
pub(super) const BEAT: Duration = Duration::from_secs(5);

/// A lease, held by this process. Dropping it gives the devices back and waits for that for some seconds, since after a
/// test its runtime may be gone; [`Self::release`] does so without holding up the thread.
#[derive(Debug)]
pub struct Bench {
    lab: Lab,
    lease: LeaseId,
    devices: Vec<(String, DeviceId)>,
    released: bool,
    /// They end with this.
    _beats: JoinSet<()>,
}

impl Bench {
    pub(super) fn new(lab: Lab, lease: LeaseId) -> Self {
        let mut beats = JoinSet::new();
        let (heart, body) = (lab.clone(), LeaseRef { lease: lease.clone() });
        beats.spawn(async move {
            let mut ticks = interval(BEAT);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // Before the request is known, and after its end, it is refused.
                if let Err(error) = heart.ask::<()>(HEARTBEAT, &body, ANSWER).await {
                    tracing::debug!(error = %Chain(&error), "a beat was not heard");
                }
            }
        });
        Self { lab, lease, devices: Vec::new(), released: false, _beats: beats }
    }

    pub(super) fn granted(&mut self, devices: Vec<(String, DeviceId)>) {
        self.devices = devices;
    }

    /// The lease's id, as `pilab queue` shows it.
    pub fn lease(&self) -> &LeaseId {
        &self.lease
    }

    /// The device in this role.
    pub fn device(&self, role: &str) -> Result<Device<'_>, TestingError> {
        let found = self.devices.iter().find(|(of, _)| of == role);
        let (_, id) = found.ok_or_else(|| TestingError::NoRole { role: role.to_owned() })?;
        Ok(Device::new(&self.lab, id))
    }

    /// Gives the devices back.
    pub async fn release(mut self) -> Result<(), TestingError> {
        self.released = true;
        self.lab.ask(RELEASE, &LeaseRef { lease: self.lease.clone() }, ANSWER).await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let (login, lease) = (self.lab.login().to_owned(), self.lease.clone());
        // A thread and a runtime of its own: the test's may be ending, or be the one that this is dropped in.
        let released = std::thread::spawn(move || release_by(login, lease)).join();
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!(lease = %self.lease, "not given back: the lab takes the devices back once it misses the beats");
        }
    }
}

fn release_by(login: PathBuf, lease: LeaseId) -> Result<(), TestingError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| TestingError::Runtime { source })?;
    runtime.block_on(async {
        let lab = Lab::open(&login).await?;
        lab.ask(RELEASE, &LeaseRef { lease }, ANSWER).await
    })
}
