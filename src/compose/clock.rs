//! What a lab's start consists of, and how long each part takes.

use crate::cli::local::{Preparation, Progress};
use tokio::time::Instant;

/// Tells and times what is being prepared.
pub(super) struct Clock {
    progress: Progress,
    done: Vec<Preparation>,
    began: Instant,
}

impl Clock {
    pub(super) fn new(progress: Progress) -> Self {
        Self { progress, done: Vec::new(), began: Instant::now() }
    }

    /// What there was, in order.
    pub(super) fn done(self) -> Vec<Preparation> {
        self.done
    }

    /// Something begins.
    pub(super) fn begin(&mut self, what: &str) {
        self.progress.begin(what);
        self.began = Instant::now();
        self.done.push(Preparation { what: what.to_owned(), took: 0.0, note: String::new() });
    }

    /// It is done; a note on it.
    pub(super) fn end(&mut self, note: impl Into<String>) {
        if let Some(last) = self.done.last_mut() {
            last.took = self.began.elapsed().as_secs_f64();
            last.note = note.into();
        }
    }
}
