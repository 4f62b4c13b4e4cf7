//! A run's devices, with the fallback of a scenario that would have a board and can do without: `plan::fallback` decides.

use super::lending::{Denied, Grant, Lending};
use crate::model::id::{LeaseId, UserName};
use crate::model::scenario::Need;
use crate::plan::fallback;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Pause before a request that was not found in the queue, for it is not stored yet, is looked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// Waits for devices that meet the needs, or their fallback once that is due; answers the needs that were met.
pub(super) async fn acquire(
    lending: &Arc<Lending>,
    holder: &UserName,
    lease: LeaseId,
    needs: &[Need],
    cancel: &CancellationToken,
) -> Result<(Grant, Vec<Need>), Denied> {
    let because = match wanted(lending, holder, &lease, needs, cancel).await {
        Ok(Ok(grant)) => return Ok((grant, needs.to_vec())),
        Ok(Err(because)) => because,
        Err(denied) => return Err(denied),
    };
    // `wanted` answers a reason for needs with a fallback alone.
    let needs = fallback::substitute(needs, &because).unwrap_or_else(|| needs.to_vec());
    let grant = lending.acquire(holder, lease, &needs, cancel).await.map_err(|denied| match denied {
        Denied::Never { role, cause } => {
            Denied::Never { role, cause: format!("{because}; and for its fallback: {cause}") }
        }
        other => other,
    })?;
    Ok((grant, needs))
}

/// The devices that were asked for, or why the fallback is due.
async fn wanted(
    lending: &Arc<Lending>,
    holder: &UserName,
    lease: &LeaseId,
    needs: &[Need],
    cancel: &CancellationToken,
) -> Result<Result<Grant, String>, Denied> {
    let Some(patience) = fallback::patience(needs) else {
        return lending.acquire(holder, lease.clone(), needs, cancel).await.map(Ok);
    };
    let turned = cancel.child_token();
    let asked = lending.acquire(holder, lease.clone(), needs, &turned);
    tokio::pin!(asked);
    let (answer, because) = tokio::select! {
        answer = &mut asked => (answer, None),
        because = due(lending, lease, patience) => {
            turned.cancel();
            // It may have been granted in this very moment.
            (asked.await, Some(because))
        }
    };
    match (answer, because) {
        (Ok(grant), _) => Ok(Ok(grant)),
        (Err(Denied::Cancelled), Some(because)) if !cancel.is_cancelled() => Ok(Err(because)),
        (Err(Denied::Never { cause, .. }), _) => Ok(Err(cause)),
        (Err(denied), _) => Err(denied),
    }
}

/// Why the fallback is due, once it is.
async fn due(lending: &Arc<Lending>, lease: &LeaseId, patience: Duration) -> String {
    let (begun, mut changes) = (Instant::now(), lending.ledger.changes());
    loop {
        changes.borrow_and_update();
        let id = lease.clone();
        let row = lending.ledger.read(move |book, now| {
            book.queue(&now.moment).into_iter().find(|row| row.request.id == id).map(|row| row.blocker)
        });
        // While NATS is away nobody is served either; the request itself finds that out.
        if let Ok(Some(blocker)) = row.await
            && let Some(because) = fallback::turns(&blocker, begun.elapsed(), patience)
        {
            return because;
        }
        let next = if begun.elapsed() < patience { begun + patience } else { Instant::now() + AGAIN };
        if let Ok(Err(_)) = timeout_at(next, changes.changed()).await {
            // The ledger has ended, and the request with it.
            std::future::pending::<()>().await;
        }
    }
}
