//! No domain words here: error chains, shutdown, child processes, atomic files, clocks, logs.

pub mod atomic_file;
pub mod chain;
pub mod clock;
#[cfg(feature = "coordinator")]
pub mod command;
pub mod log;
pub mod shutdown;
