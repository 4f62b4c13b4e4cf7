//! Brings desired state from the bus to the reconciler: what the durable delivers, acknowledged when it
//! lies on disk, and what the keys hold, read when a delivery may have been missed.
//!
//! Only deliveries would not do: a bucket that was made anew, or an entry under way to a connection that
//! was lost, is seen only by reading.

use super::intake::{KeyName, Source};
use super::pace::Pace;
use crate::bus::connect::Bus;
use crate::bus::consume::{Delivery, Durable, Pulled};
use crate::bus::error::BusError;
use crate::bus::kv::Entry;
use crate::model::id::{DeploymentName, DeviceId};
use crate::support::chain::Chain;
use crate::wire::subject;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the keys are read although nothing says that they must be.
const READ_INTERVAL: Duration = Duration::from_secs(60);
/// How long a pull is held at the server, within a second. One that reaches the server while the consumer is being made anew is lost
/// without a word (seen under load); this bounds for how long nobody notices, so that a bucket made anew is believed within 12 s.
const PULL: Duration = Duration::from_secs(5);
/// The pause after a pull or a reading that failed.
const RETRY: Duration = Duration::from_secs(1);

/// An entry for the reconciler.
#[derive(Debug)]
pub struct Offer {
    /// Which key.
    pub key: KeyName,
    /// What it holds.
    pub entry: Entry,
    /// How it was come by.
    pub source: Source,
    /// Told when the entry lies on disk: the deployments whose keys should be read. Dropped when it could
    /// not be kept.
    pub taken: oneshot::Sender<BTreeSet<DeploymentName>>,
}

/// Why the feed could not go on; it tries again.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("cannot read desired state")]
    Bus(#[from] BusError),
    #[error("desired state was not kept")]
    NotKept,
}

/// Feeds until the agent ends.
pub async fn run(
    device: DeviceId,
    bus: Bus,
    offers: mpsc::Sender<Offer>,
    pace: Pace,
    shutdown: CancellationToken,
) {
    let durable = Durable::new(bus.clone(), subject::DESIRED, subject::durable(&device));
    let feed = Feed { device, bus, durable, offers, pace };
    tokio::select! {
        () = feed.run() => {}
        () = shutdown.cancelled() => {}
    }
}

struct Feed {
    device: DeviceId,
    bus: Bus,
    durable: Durable,
    offers: mpsc::Sender<Offer>,
    pace: Pace,
}

impl Feed {
    async fn run(&self) {
        let mut connection = self.bus.connection();
        let mut read_at = Instant::now();
        let mut complained = String::new();
        loop {
            let epoch = connection.borrow_and_update().epoch;
            let done = async {
                if Instant::now() >= read_at {
                    self.read_all().await?;
                    read_at = Instant::now() + READ_INTERVAL;
                }
                match self.durable.pull(self.pace.until_next(PULL)).await? {
                    Pulled::Delivery(delivery) => self.deliver(delivery).await,
                    Pulled::Nothing => Ok(()),
                }
            };
            // A pull does not outlive its connection.
            let reconnected = async {
                if connection.wait_for(|now| now.epoch > epoch).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let done = tokio::select! {
                done = done => done,
                () = reconnected => {
                    read_at = Instant::now();
                    continue;
                }
            };
            let Err(error) = done else {
                complained.clear();
                continue;
            };
            let text = Chain(&error).to_string();
            if text != complained {
                tracing::warn!(error = text, "will read desired state again");
                complained = text;
            }
            read_at = Instant::now();
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reads the index, and then every key that it names or that is known here.
    async fn read_all(&self) -> Result<(), FeedError> {
        let Some(index) = self.bus.kv_get(subject::DESIRED, &subject::index_key(&self.device)).await? else {
            return Ok(());
        };
        let names = self.offer(KeyName::Index, index, Source::Read).await?;
        self.read(names).await
    }

    async fn read(&self, names: BTreeSet<DeploymentName>) -> Result<(), FeedError> {
        for name in names {
            let key = subject::deployment_key(&self.device, &name);
            if let Some(entry) = self.bus.kv_get(subject::DESIRED, &key).await? {
                self.offer(KeyName::Deployment(name), entry, Source::Read).await?;
            }
        }
        Ok(())
    }

    async fn deliver(&self, delivery: Delivery) -> Result<(), FeedError> {
        match parse_key(&self.device, &delivery.key) {
            Some(key) => {
                let names = match self.offer(key, delivery.entry.clone(), Source::Delivered).await {
                    Err(FeedError::NotKept) => {
                        self.durable.again(&delivery, RETRY).await?;
                        return Err(FeedError::NotKept);
                    }
                    offered => offered?,
                };
                self.durable.ack(&delivery).await?;
                self.read(names).await
            }
            None => {
                tracing::warn!(key = delivery.key, "not the key of an index or deployment: passed over");
                Ok(self.durable.ack(&delivery).await?)
            }
        }
    }

    async fn offer(
        &self,
        key: KeyName,
        entry: Entry,
        source: Source,
    ) -> Result<BTreeSet<DeploymentName>, FeedError> {
        let (taken, answer) = oneshot::channel();
        let offer = Offer { key, entry, source, taken };
        self.offers.send(offer).await.map_err(|_| FeedError::NotKept)?;
        answer.await.map_err(|_| FeedError::NotKept)
    }
}

fn parse_key(device: &DeviceId, key: &str) -> Option<KeyName> {
    let name = key.strip_prefix(device.as_str())?.strip_prefix('.')?;
    if name == subject::INDEX {
        return Some(KeyName::Index);
    }
    DeploymentName::new(name).ok().map(KeyName::Deployment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_of_this_device_and_well_named() {
        let device = DeviceId::new("lab-1").unwrap();
        assert_eq!(parse_key(&device, "lab-1._index"), Some(KeyName::Index));
        let web = KeyName::Deployment(DeploymentName::new("web").unwrap());
        assert_eq!(parse_key(&device, "lab-1.web"), Some(web));
        for bad in ["lab-1", "lab-1.", "lab-12.web", "lab-1.Web", "lab-1.a.b", "lab-1.._index"] {
            assert_eq!(parse_key(&device, bad), None, "{bad}");
        }
    }
}
