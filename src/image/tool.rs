//! Runs one of the programs that a build is made of, until it is cancelled.

use super::error::ImageError;
use crate::support::command::Command;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// Runs `command`, of Debian's package `package`, for a step that writes below `into`. Cancelled, it is done when no
/// process of it is left that could write there.
pub(super) async fn run(
    command: Command,
    step: &'static str,
    package: &'static str,
    into: &Path,
    cancel: &CancellationToken,
) -> Result<(), ImageError> {
    let ended = command.output_unless(cancel).await;
    let ended = ended.map_err(|e| ImageError::tool(step, package, into, e))?;
    ended.map(drop).ok_or(ImageError::Cancelled)
}
