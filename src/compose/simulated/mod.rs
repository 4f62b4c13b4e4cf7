//! The simulated devices of a lab: their rack, and what it gives them.
//!
//! Without the feature `sim` the same functions exist and answer that it is not enabled.

#[cfg(not(feature = "sim"))]
mod disabled;
#[cfg(feature = "sim")]
mod enabled;

#[cfg(not(feature = "sim"))]
pub(super) use disabled::Simulated;
#[cfg(feature = "sim")]
pub(super) use enabled::Simulated;

use super::failed;
use super::instance::Instance;
use crate::cli::error::CliError;
use crate::config::lab::Lab;

/// Refuses what was not asked for: simulated devices only where that was said, so that nobody takes them for real ones
/// by mistake.
pub(super) fn check(lab: &Lab, asked: bool) -> Result<(), CliError> {
    let first = lab.wired.iter().find(|wired| wired.simulation.is_some());
    match (first, asked) {
        (Some(first), false) => {
            let hint = "pilab coordinator --simulate starts it; then `pilab run` finds it".to_owned();
            let cause = format!("{} is a simulated device", first.device.id);
            Err(failed(format!("start the lab {}", lab.name), Some(hint), cause))
        }
        (None, true) => {
            let hint = "lab/virtual-rack.toml has some; docs/virtual-rack.md says how".to_owned();
            let cause = "--simulate is given, and no device has [devices.simulate]";
            Err(failed(format!("start the lab {}", lab.name), Some(hint), cause))
        }
        _ => Ok(()),
    }
}

/// Sets the rack up, where the lab has simulated devices: before its servers, which are to serve on the rack's network. No
/// device has power.
pub(super) async fn start(lab: &mut Lab, instance: &Instance) -> Result<Option<Simulated>, CliError> {
    if lab.wired.iter().all(|wired| wired.simulation.is_none()) {
        return Ok(None);
    }
    Simulated::start(lab, instance).await.map(Some)
}
