//! Signals to a token.

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels `token` at the first SIGINT, SIGTERM or SIGHUP, and answers the signal's number. Ends
/// without a signal when the token is cancelled by somebody else.
pub async fn on_signal(token: CancellationToken) -> io::Result<Option<i32>> {
    on_signal_but(token, false).await
}

/// [`on_signal`]; SIGHUP is another's to hear, where `hangup_is_other`.
pub async fn on_signal_but(token: CancellationToken, hangup_is_other: bool) -> io::Result<Option<i32>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let number = tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
        _ = hangup.recv(), if !hangup_is_other => SignalKind::hangup().as_raw_value(),
        () = token.cancelled() => return Ok(None),
    };
    token.cancel();
    Ok(Some(number))
}
