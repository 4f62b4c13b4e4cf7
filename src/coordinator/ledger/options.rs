//! What a ledger needs from outside.

use super::points::Hook;
use super::standby::Silence;
use crate::bus::connect::Bus;
use crate::model::id::LabName;
use crate::model::time::Moment;
use crate::plan::lease::Policy;
use crate::support::term::Term;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// For how long after its last write a coordinator may act on devices. It writes three times as often, so that an answer of
/// NATS may take seconds.
pub const TERM: Duration = Duration::from_secs(10);
/// Starts a NATS server anew that hangs, if that is this coordinator's to do.
pub type Revive = Arc<dyn Fn() + Send + Sync>;
/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// What a ledger needs.
#[derive(Clone)]
pub struct LedgerOptions {
    /// The coordinator's connection.
    pub bus: Bus,
    /// The lab.
    pub lab: LabName,
    /// The rules.
    pub policy: Policy,
    /// The file with the greatest epoch that this coordinator has taken.
    pub epoch_file: PathBuf,
    /// The host's clocks.
    pub clock: Clock,
    /// Whether this coordinator may act on devices, on the boot clock of `clock`: the ledger's task renews it.
    pub term: Term,
    /// For how long after its last write it may: [`TERM`].
    pub tenure: Duration,
    /// The longest that an act may still take effect after it was begun.
    pub longest_act: Duration,
    /// Called when NATS is connected and its JetStream does not answer.
    pub revive: Revive,
    /// What a coordinator that stood by has seen: for so long it need not wait again.
    pub silence: Option<Silence>,
    /// For tests that kill the coordinator.
    pub hook: Option<Hook>,
}

impl fmt::Debug for LedgerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerOptions")
            .field("lab", &self.lab)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
