//! When the devices of one lab may switch on: one after another, since each draws its greatest current then.

use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// A gate that lets one pass in each interval, in the order they came.
#[derive(Debug, Default)]
pub struct Stagger {
    interval: Duration,
    /// When the next may pass. Who holds it is the next; the others queue for it, first come first served.
    next: Mutex<Option<Instant>>,
}

impl Stagger {
    /// A gate with this interval; zero lets all pass.
    pub fn new(interval: Duration) -> Self {
        Self { interval, next: Mutex::default() }
    }

    /// Waits for one's turn. Who stops waiting takes nobody's turn.
    pub async fn pass(&self) {
        let mut next = self.next.lock().await;
        if let Some(at) = *next {
            sleep_until(at).await;
        }
        *next = Some(Instant::now() + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::task::JoinSet;

    #[tokio::test(start_paused = true)]
    async fn one_passes_in_each_interval_in_the_order_they_came() {
        let (gate, begun) = (Arc::new(Stagger::new(Duration::from_secs(1))), Instant::now());
        let mut waiting = JoinSet::new();
        let mut aborts = Vec::new();
        for number in 0..5_u32 {
            let gate = Arc::clone(&gate);
            aborts.push(waiting.spawn(async move {
                gate.pass().await;
                (number, begun.elapsed().as_millis())
            }));
            tokio::task::yield_now().await;
        }
        // One that is next, and one that queues, go away.
        aborts[1].abort();
        aborts[3].abort();
        let mut passed = Vec::new();
        while let Some(done) = waiting.join_next().await {
            passed.extend(done.ok());
        }
        assert_eq!(passed, [(0, 0), (2, 1000), (4, 2000)]);
        tokio::time::advance(Duration::from_secs(9)).await;
        let begun = Instant::now();
        gate.pass().await;
        assert!(begun.elapsed().is_zero(), "nobody passed for long");
        let free = Stagger::default();
        for _ in 0..3 {
            free.pass().await;
        }
        assert!(begun.elapsed().is_zero());
    }
}
