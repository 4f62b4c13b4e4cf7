//! Who may still act on a device: the greatest token that was seen, and whether this process may act at all.
//!
//! An act is admitted with no wait before it, and holds the device until it is done. So once
//! [`DeviceFence::raise`] is done, nothing of an earlier holder is under way, nor begins.

use crate::model::lease::{Fence, Fenced, FencingToken};
use crate::support::term::{Lapsed, Term};
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard, watch};

/// The fence of one device. Clones share it.
#[derive(Clone)]
pub(super) struct DeviceFence {
    fence: Arc<watch::Sender<Fence>>,
    /// Held by whatever acts.
    acting: Arc<Mutex<()>>,
    term: Term,
}

/// Nobody else acts as long as this is there.
pub(super) struct Acting<'a> {
    _turn: MutexGuard<'a, ()>,
}

/// An act is refused.
#[derive(Debug)]
pub(super) enum Refused {
    Fenced(Fenced),
    Lapsed(Lapsed),
}

impl DeviceFence {
    pub(super) fn new(term: Term) -> Self {
        Self { fence: Arc::new(watch::Sender::default()), acting: Arc::default(), term }
    }

    /// Refuses a token that has passed, and remembers one that is greater than those before.
    pub(super) fn admit(&self, token: FencingToken) -> Result<(), Fenced> {
        let mut admitted = Ok(());
        self.fence.send_if_modified(|fence| {
            let before = *fence;
            admitted = fence.admit(token);
            *fence != before
        });
        admitted
    }

    /// For one act of this holder, when its turn has come.
    pub(super) async fn act(&self, token: FencingToken) -> Result<Acting<'_>, Refused> {
        let turn = self.acting.lock().await;
        self.admit(token).map_err(Refused::Fenced)?;
        self.term.check().map_err(Refused::Lapsed)?;
        Ok(Acting { _turn: turn })
    }

    /// Whether it may still be done, where something was waited for in between.
    pub(super) fn still(&self, _: &Acting<'_>, token: FencingToken) -> Result<(), Refused> {
        self.admit(token).map_err(Refused::Fenced)?;
        self.term.check().map_err(Refused::Lapsed)
    }

    /// From now on no act of a holder before this one begins; done when none is under way.
    pub(super) async fn raise(&self, token: FencingToken) -> Result<(), Fenced> {
        self.admit(token)?;
        drop(self.acting.lock().await);
        Ok(())
    }

    /// Ends when the holder of this token has lost the device.
    pub(super) async fn passed(&self, token: FencingToken) -> Fenced {
        let mut fence = self.fence.subscribe();
        let mut fenced = None;
        // It lives as long as this does.
        let _ = fence
            .wait_for(|fence| {
                fenced = fence.clone().admit(token).err();
                fenced.is_some()
            })
            .await;
        match fenced {
            Some(fenced) => fenced,
            None => std::future::pending().await,
        }
    }
}
