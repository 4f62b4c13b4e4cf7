//! What would become of a request if it was made now.

use super::{Book, Caller, Input, Now, Refusal, decide};
use crate::model::lease::LeaseRequest;

/// How many decisions follow from one request at the most: its own, and grants.
const MAX_ROUNDS: usize = 16;

impl Book {
    /// The book as it would be. This one stays as it is.
    pub fn what_if(&self, by: Caller, request: LeaseRequest, now: &Now) -> Result<Self, Refusal> {
        let (mut book, mut now) = (self.clone(), *now);
        let mut changes = decide(&book, Input::Reserve { by, request }, &now)?;
        for _ in 0..MAX_ROUNDS {
            if changes.is_empty() {
                break;
            }
            for change in changes {
                book.apply(&change);
                now.next.sequence += 1;
            }
            changes = decide(&book, Input::Tick, &now)?;
        }
        Ok(book)
    }
}
