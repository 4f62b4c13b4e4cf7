//! The host's clocks.

#[cfg(feature = "coordinator")]
use crate::model::time::Stamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, on both clocks.
#[cfg(feature = "coordinator")]
pub fn stamp() -> Stamp {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(boot.tv_nsec).unwrap_or_default();
    Stamp { boot_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanos), wall_ms: wall_ms() }
}

/// Milliseconds since 1970-01-01 UTC; 0 when the clock stands before it.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The id of this boot of the host, `/proc/sys/kernel/random/boot_id` (random(4)); empty when it cannot
/// be read.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Where systemd-timesyncd says that the clock is synchronised (systemd-timesyncd.service(8)).
#[cfg(feature = "coordinator")]
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// Whether the wall clock can be trusted over a reboot: systemd-timesyncd says so, or `PILAB_CLOCK=trusted` does, for
/// hosts that have their time from elsewhere.
#[cfg(feature = "coordinator")]
pub fn is_synchronised() -> bool {
    std::env::var_os("PILAB_CLOCK").is_some_and(|value| value == "trusted")
        || std::path::Path::new(SYNCHRONISED).exists()
}
