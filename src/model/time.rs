//! When something happened, on two clocks.

use serde::{Deserialize, Serialize};

/// One instant on the coordinator's host. Within one boot of the host the boot clock orders; wall
/// time is for people, and for ordering across boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Nanoseconds of `CLOCK_BOOTTIME` (clock_gettime(2)): never set back, counts suspend.
    pub boot_ns: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub wall_ms: u64,
}

impl Stamp {
    /// Seconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn seconds_since(&self, earlier: &Stamp) -> f64 {
        std::time::Duration::from_nanos(self.boot_ns.saturating_sub(earlier.boot_ns)).as_secs_f64()
    }
}
