//! When what comes round again and again is done: all of it together, so that an idle device is woken seldom.
//!
//! To be woken costs more than the little that is done then, and a timer of some seconds wakes more than once (a timing
//! wheel sorts it anew on its way). So the heartbeat, the look at podman, the ends of pulls and the question whether the
//! bucket of statuses is still there fall on whole multiples of their intervals since the agent began. The devices of a
//! fleet do not come in step by that: each began at its own time.

use std::time::Duration;
use tokio::time::Instant;

/// The clock of one agent's idle life.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    began: Instant,
}

impl Pace {
    /// Counts from now.
    pub fn begin() -> Self {
        Self { began: Instant::now() }
    }

    /// Since when it counts.
    pub(super) fn began(self) -> Instant {
        self.began
    }

    /// The next whole multiple of `every`: later than now, by `every` at the most.
    pub(super) fn next(self, every: Duration) -> Instant {
        let since = self.began.elapsed();
        let into = since.as_nanos() % every.as_nanos().max(1);
        let into = Duration::from_nanos(u64::try_from(into).unwrap_or_default());
        Instant::now() + every.saturating_sub(into)
    }

    /// How long until [`Pace::next`], and at least a second: what is nearer than that is left out.
    pub(super) fn until_next(self, every: Duration) -> Duration {
        let left = self.next(every).saturating_duration_since(Instant::now());
        if left < Duration::from_secs(1) { left + every } else { left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn intervals_meet() {
        let (pace, second) = (Pace::begin(), Duration::from_secs(1));
        tokio::time::advance(second * 11).await;
        let in_seconds = |at: Instant| (at - Instant::now()).as_secs();
        assert_eq!([5, 10, 15].map(|every| in_seconds(pace.next(second * every))), [4, 9, 4]);
        tokio::time::advance(second * 4).await;
        assert_eq!([5, 10, 15].map(|every| in_seconds(pace.next(second * every))), [5, 5, 15], "never now");
        tokio::time::advance(Duration::from_millis(4_500)).await;
        assert_eq!(pace.until_next(second * 5), Duration::from_millis(5_500));
    }
}
