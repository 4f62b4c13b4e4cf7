//! What is remembered of a save that could not be made.

use std::time::Duration;
use tokio::time::Instant;

/// For how long it is not tried again: each try boots the device twice, and a full disk or a busy host is often over by then.
const PAUSE: Duration = Duration::from_secs(600);

/// The last save of a device that could not be made.
pub struct Unsaved {
    key: String,
    cause: String,
    at: Instant,
}

impl Unsaved {
    /// The save with this key could not be made just now.
    pub fn now(key: String, cause: String) -> Self {
        Self { key, cause, at: Instant::now() }
    }

    /// Why the save with this key is not tried yet.
    pub fn keeps_from(&self, key: &str) -> Option<&str> {
        (self.key == key && self.at.elapsed() < PAUSE).then_some(&self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_save_that_failed_is_tried_again_after_a_pause_and_another_at_once() {
        let unsaved = Unsaved::now("a".into(), "the disk is full".into());
        tokio::time::advance(PAUSE - Duration::from_secs(1)).await;
        assert_eq!((unsaved.keeps_from("a"), unsaved.keeps_from("b")), (Some("the disk is full"), None));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(unsaved.keeps_from("a"), None);
    }
}
