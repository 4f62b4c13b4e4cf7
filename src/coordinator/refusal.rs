//! Why a request was not met, in the words of the answer.

use super::ledger::LedgerError;
use super::parts::NoImage;
use crate::model::lease::LeaseLost;
use crate::plan::lease as plan;
use crate::support::chain::Chain;
use crate::wire::request::Reply;
use std::time::{Duration, UNIX_EPOCH};

/// Why a request was not met, in the words of the answer.
#[derive(Default)]
pub(super) struct Refusal {
    pub(super) error: String,
    pub(super) hint: Option<String>,
    /// The caller has lost the lease under which it asks. Boxed: most refusals are short words.
    pub(super) lost: Option<Box<LeaseLost>>,
}

impl Refusal {
    pub(super) fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), ..Self::default() }
    }

    /// With what to try.
    pub(super) fn hinted(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { error: error.into(), hint: Some(hint.into()), lost: None }
    }
}

impl From<Refusal> for Reply<()> {
    fn from(refusal: Refusal) -> Self {
        let Refusal { error, hint, lost } = refusal;
        Self::Refused { error, hint, lost: lost.map(|lost| *lost) }
    }
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Refused(plan::Refusal::LeaseLost(lost)) => lost.into(),
            error => Self::new(Chain(&error).to_string()),
        }
    }
}

impl From<NoImage> for Refusal {
    fn from(NoImage { error, hint }: NoImage) -> Self {
        Self { error, hint, lost: None }
    }
}

impl From<LeaseLost> for Refusal {
    fn from(lost: LeaseLost) -> Self {
        let until = lost.present.as_ref().map(|now| UNIX_EPOCH + Duration::from_millis(now.until_ms));
        let until = until.map(|at| format!(" until {}", humantime::format_rfc3339_seconds(at)));
        let hint = Some("pilab queue shows who has what, pilab reserve asks for it".to_owned());
        Self { error: format!("{lost}{}", until.unwrap_or_default()), hint, lost: Some(Box::new(lost)) }
    }
}
