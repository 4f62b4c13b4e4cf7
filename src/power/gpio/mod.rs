//! Pins of a Raspberry Pi's header: relays without a box between.
//!
//! A line that is taken stays at the level it has: that is read first, and the pin becomes an output at that level. The
//! pull of the pin is left alone. What becomes of a pin when the process is gone is the driver's own
//! ([`crate::model::relay::GpioDriver::on_crash`]); a line of the kernel's outlives it in the service manager's store
//! ([`crate::support::fdstore`]), so that a restart releases none.
//!
//! ```text
//!  gpio-cdev:  from the store ──────────────────────────────────────────────┐
//!              requested as it is ─ level read ─ output at that level ─ into the store ─► taken
//!  gpio-rppal: level read ─ output register set to it ─ made an output ─────────────────► taken, stays for ever
//! ```
//!
//! Without the feature `gpio` the same functions exist and answer [`GpioError::NotEnabled`].

mod error;

#[cfg(feature = "gpio")]
mod chip;
#[cfg(feature = "gpio")]
mod line;
#[cfg(feature = "gpio")]
mod registers;
#[cfg(feature = "gpio")]
mod request;
#[cfg(feature = "gpio")]
pub use line::{Line, look};

#[cfg(not(feature = "gpio"))]
mod disabled;
#[cfg(not(feature = "gpio"))]
pub use disabled::{Line, look};

pub use error::GpioError;

use crate::support::fdstore;

/// What the kernel calls the user of our lines.
pub const CONSUMER: &str = "pilab";

/// What the names of lines in the service manager's store begin with; the pin's number follows.
const STORE_NAME: &str = "pilab-gpio-";

#[cfg(feature = "gpio")]
fn store_name(pin: u8) -> String {
    format!("{STORE_NAME}{pin}")
}

/// Lets go of the lines that the last process of this service left in the store and that this one has not taken: their
/// devices are no longer in the lab file. Answers their pins.
pub fn release_rest() -> Vec<String> {
    let names = fdstore::drop_rest(STORE_NAME);
    names.iter().map(|name| name.trim_start_matches(STORE_NAME).to_owned()).collect()
}
