//! What the writer tells the readers: how far the files go, and the last batch itself.

use super::record::Record;
use super::segment::Segment;
use std::sync::Arc;

/// What readers may know of the files.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// The length of the last one is [`Self::length`]; that of the others is in them.
    pub(super) segments: Arc<Vec<Segment>>,
    pub(super) length: u64,
    pub(super) next_sequence: u64,
    pub(super) console_offset: u64,
    pub(super) tail: Arc<Tail>,
}

/// What was written last, for readers that have read all before it: they need no file.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// All records from this sequence number on.
    pub(super) first: u64,
    pub(super) records: Vec<Record>,
}
