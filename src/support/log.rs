//! tracing to standard error.

use std::io::IsTerminal;
use tracing::Level;

/// Writes events of `level` and above to standard error, coloured only on a terminal and without
/// `NO_COLOR`. Does nothing when a subscriber is set already.
pub fn init(level: Level) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(colour)
        .with_writer(std::io::stderr)
        .with_target(false)
        .finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
}
