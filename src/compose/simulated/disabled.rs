//! The same functions in a build without simulated parts. A [`Simulated`] never exists here.

use crate::cli::error::CliError;
use crate::compose::failed;
use crate::compose::instance::Instance;
use crate::config::lab::Lab;
use crate::device::ports::Power;
use crate::model::id::DeviceId;
use crate::model::wiring::ConsoleLine;
use std::sync::Arc;

/// Never exists in this build.
pub(in crate::compose) enum Simulated {}

impl Simulated {
    /// Answers that this build has none.
    pub(in crate::compose) async fn start(lab: &mut Lab, _: &Instance) -> Result<Self, CliError> {
        let hint = "build with --features sim".to_owned();
        let cause = "simulated devices are not enabled in this build";
        Err(failed(format!("simulate the devices of {}", lab.name), Some(hint), cause))
    }

    pub(in crate::compose) fn power(&self, _: &DeviceId) -> Option<Arc<dyn Power>> {
        match *self {}
    }

    pub(in crate::compose) fn console(&self, _: &DeviceId) -> Option<ConsoleLine> {
        match *self {}
    }

    pub(in crate::compose) async fn end(self) {
        match self {}
    }
}
