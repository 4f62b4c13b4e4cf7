//! How an agent reports a status: with when it was so, for it may be told much later.

use super::workload::Status;
use serde::{Deserialize, Serialize};

/// What an agent writes to KV `status`: a [`Status`], which reads as one, and when it was so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The status.
    #[serde(flatten)]
    pub status: Status,
    /// When it became so: milliseconds since 1970-01-01 UTC by the device's clock.
    #[serde(default)]
    pub at_ms: u64,
    /// In which boot of the device (`/proc/sys/kernel/random/boot_id`).
    #[serde(default)]
    pub boot_id: String,
    /// How many reports of this device, just before this one, could not be kept until they could be
    /// published.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
