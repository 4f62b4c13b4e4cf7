//! A lease is given on: what its last holder has begun ends, and her SSH key goes, before anybody is told or soon after.
//!
//! Between two leases the handover does all this. Here the devices stay as they are, on or off.

use super::lending::{Lending, over};
use super::refusal::Refusal;
use crate::bus::provision;
use crate::model::lease::Lease;
use crate::plan::lease::Caller;
use crate::support::chain::Chain;
use crate::wire::lending::{LeaseState, Transfer};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long what is under way on a device may take to end when it is given on: whoever asks waits for it.
const FENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(5);

impl Lending {
    pub(super) async fn transfer(
        self: &Arc<Self>,
        by: Caller,
        asked: Transfer,
    ) -> Result<LeaseState, Refusal> {
        let Transfer { lease, to } = asked;
        let given = self.ledger.transfer(by, lease.clone(), to.clone()).await?;
        // Before anybody is told: from then on nothing of the one before happens.
        let fenced = self.fence(&given).await;
        // sshd on a slow device takes longer than an answer may.
        let (this, is_fenced) = (Arc::clone(self), fenced.is_ok());
        self.spawn(async move { this.settle_transfer(&given, is_fenced).await });
        match fenced {
            Ok(()) => self.stands(&lease).await,
            Err(cause) => Err(Refusal::hinted(
                format!(
                    "{lease} is {to}'s now, but what its last holder has begun may not have ended: {cause}"
                ),
                "the coordinator tries again until it has; nothing new of the last holder's is begun",
            )),
        }
    }

    /// Tries what is left to do for a lease that was given on until it is done, or the lease is no longer this one.
    pub(super) async fn settle_transfer(&self, given: &Lease, is_fenced: bool) {
        let settled = async {
            let (mut is_fenced, mut complained) = (is_fenced, String::new());
            loop {
                let fenced = if is_fenced { Ok(()) } else { self.fence(given).await };
                is_fenced = fenced.is_ok();
                let Err(cause) = fenced.and(self.dismiss_keys(given).await) else { return };
                if cause != complained {
                    tracing::warn!(lease = %given.request.id, cause, "whoever had a lease may still reach its devices");
                    complained = cause;
                }
                sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = settled => {}
            _ = over(self.ledger.clone(), given.held()) => {}
        }
    }

    /// Fences off whoever had the devices of this lease before it was given on.
    ///
    /// The fence stands at once; what is told is whether all that was under way has ended, and whether NATS has it.
    async fn fence(&self, lease: &Lease) -> Result<(), String> {
        let fences = lease.devices.iter().filter_map(|id| self.device(id)).map(|device| async move {
            let id = device.handle.id();
            let fenced = async {
                device.handle.fence(lease.token).await.map_err(|e| Chain(&e).to_string())?;
                let kept = provision::fence(&self.parts.bus, id, lease.token).await;
                kept.map_err(|e| Chain(&e).to_string())
            };
            match timeout(FENCE_TIMEOUT, fenced).await {
                Ok(fenced) => fenced.map_err(|cause| format!("{id}: {cause}")),
                Err(_) => Err(format!("{id}: something is still under way")),
            }
        });
        let mut failed: Vec<_> = join_all(fences).await.into_iter().filter_map(Result::err).collect();
        match timeout(FENCE_TIMEOUT, self.operator.look()).await {
            Ok(given) => failed.extend(given.err().map(|e| Chain(&e).to_string())),
            Err(_) => failed.push("its deployments of files are still looked after".to_owned()),
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }
}
