//! Standing by: waiting while another coordinator has the lab.
//!
//! Whoever has the ledger writes to it three times in each term. So a bucket in which nothing has come for a term and the longest
//! act tells that nobody may act any more, whatever has become of him: he was killed, he stands still, or he cannot reach
//! NATS. The time is this host's own, from when the last write was first seen, which was after it was sent.

use super::options::Clock;
use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::model::id::LabName;
use crate::model::ledger::Epoch;
use crate::support::chain::Chain;
use crate::wire::subject;
use std::time::Duration;
use tokio::time::sleep;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// JetStream's `stream not found`.
const NO_STREAM: u64 = 10_059;

/// Nothing was written to the ledger for some time.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// The sequence of the last write.
    last: u64,
    /// Since when at the latest, on the boot clock in nanoseconds.
    since_ns: u64,
}

impl Silence {
    /// How long it has lasted, where the last write is still that.
    pub(super) fn lasted(&self, last: u64, now_ns: u64) -> Duration {
        if self.last == last {
            Duration::from_nanos(now_ns.saturating_sub(self.since_ns))
        } else {
            Duration::ZERO
        }
    }
}

/// Waits until nobody may act as the lab's coordinator. Answers what was seen, for whoever takes the ledger then.
pub async fn stand_by(bus: &Bus, lab: &LabName, clock: &Clock) -> Silence {
    let mut seen: Option<Silence> = None;
    loop {
        match look(bus, lab).await {
            Ok((last, epoch)) => {
                let now_ns = clock().at.boot_ns;
                let silence = match seen {
                    Some(silence) if silence.last == last => silence,
                    _ => Silence { last, since_ns: now_ns },
                };
                seen = Some(silence);
                let over = epoch
                    .is_none_or(|epoch| epoch.resigned || silence.lasted(last, now_ns) >= epoch.acts_for);
                if over {
                    return silence;
                }
            }
            // What is not heard proves nothing. Once it is heard again, a sequence that is still the same proves that nothing came.
            Err(error) => tracing::info!(error = %Chain(&error), "the ledger cannot be looked at"),
        }
        sleep(LOOK).await;
    }
}

/// The last write's sequence, and who has the ledger; none when nobody ever had.
async fn look(bus: &Bus, lab: &LabName) -> Result<(u64, Option<Epoch>), BusError> {
    let bucket = subject::ledger_bucket(lab);
    let last = match bus.kv_last(&bucket).await {
        Err(BusError::Refused { err_code: NO_STREAM, .. }) => return Ok((0, None)),
        last => last?,
    };
    let Some(entry) = bus.kv_get(&bucket, subject::EPOCH_KEY).await?.filter(|entry| !entry.deleted) else {
        return Ok((last, None));
    };
    let epoch = serde_json::from_slice(&entry.value).map_err(|error| BusError::Malformed {
        subject: subject::key(&bucket, subject::EPOCH_KEY),
        problem: error.to_string(),
    });
    Ok((last, Some(epoch?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_that_was_broken_has_not_lasted() {
        let silence = Silence { last: 7, since_ns: 1_000 };
        assert_eq!(silence.lasted(7, 3_000), Duration::from_nanos(2_000));
        assert_eq!(silence.lasted(8, 3_000), Duration::ZERO);
        assert_eq!(silence.lasted(7, 500), Duration::ZERO);
    }
}
