//! Questions whose asking changes nothing: one that a lost connection took along is asked again.
//!
//! NATS tells nobody that a server died with a request or its answer in hand: async-nats only waits until the time is
//! over. What writes must not be sent twice without looking; what reads may.

use super::connect::Bus;
use super::error::BusError;
use super::kv::KV_TIMEOUT;
use async_nats::header::HeaderMap;
use bytes::Bytes;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a question is asked in all, when the connection is lost under it: a server that dies is back within
/// seconds, also on a busy host.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// Pause where a server that has just come back does not serve its streams yet.
const AGAIN: Duration = Duration::from_millis(50);

impl Bus {
    /// Asks, and asks again when the connection was lost meanwhile. As long as it stands, the bound is that of every
    /// other request.
    pub(super) async fn read(&self, subject: &str, body: &Bytes) -> Result<async_nats::Message, BusError> {
        let deadline = Instant::now() + READ_WITHIN;
        let mut connection = self.connection();
        let first = connection.borrow().epoch;
        loop {
            let epoch = connection.borrow_and_update().epoch;
            let bound = KV_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
            let answer = tokio::select! {
                biased;
                answer = self.exchange(subject.to_owned(), HeaderMap::new(), body.clone(), bound) => answer,
                // What was under way is gone.
                Ok(_) = connection.wait_for(|now| now.epoch > epoch) => continue,
            };
            let lost = {
                let now = connection.borrow();
                !now.up || now.epoch > first
            };
            match answer {
                Err(BusError::TimedOut { subject, .. }) if lost && Instant::now() >= deadline => {
                    return Err(BusError::TimedOut { subject, timeout: READ_WITHIN });
                }
                Err(BusError::TimedOut { .. } | BusError::NoResponders { .. })
                    if lost && Instant::now() < deadline =>
                {
                    sleep(AGAIN).await;
                }
                answer => return answer,
            }
        }
    }
}
