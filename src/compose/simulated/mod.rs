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
use crate::cli::error::CliError;
use crate::config::lab::Lab;

/// Whether the lab's devices are what was asked for: simulated ones only where that was said, so that nobody takes them for
/// real ones by mistake.
pub(super) fn check(lab: &Lab, asked: bool) -> Result<bool, CliError> {
    let simulated: Vec<_> = lab.wired.iter().filter(|wired| wired.simulation.is_some()).collect();
    match (simulated.first(), asked) {
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
        (first, _) => Ok(first.is_some()),
    }
}
