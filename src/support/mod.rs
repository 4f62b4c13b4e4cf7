//! No domain words here: error chains, shutdown, child processes, atomic files, locks, clocks, terms, logs, the
//! machine's network, the service manager.

pub mod atomic_file;
pub mod chain;
pub mod clock;
#[cfg(feature = "coordinator")]
pub mod command;
#[cfg(feature = "coordinator")]
pub mod fdstore;
pub mod lock;
pub mod log;
pub mod notify;
#[cfg(feature = "coordinator")]
pub mod segment;
pub mod shutdown;
#[cfg(test)]
pub mod skip;
#[cfg(feature = "coordinator")]
pub mod term;
