//! What was issued and revoked, where the next coordinator of a lab finds it, whose disk is another: in the lab's bucket.

use super::issued::Holders;
use super::{Issuer, IssuerError, Revocations, SiteError};
use crate::bus::connect::Bus;
use crate::wire::subject;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
/// The largest record, in bytes: a message has at most 1 MB.
const MAX_RECORD: usize = 900 * 1024;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    issued: Holders,
    revoked: Revocations,
}

impl Issuer {
    /// Reads what the coordinators before this one have issued and revoked, and from now on writes there what it does itself.
    /// Nothing is done for a lab with a server of its own, whose coordinators all have one disk.
    pub async fn share_through(&self, bus: &Bus) -> Result<(), IssuerError> {
        if !self.keys.is_site() {
            return Ok(());
        }
        let bucket = subject::lab_bucket(&self.lab);
        let entry = bus.kv_get(&bucket, subject::ISSUED_KEY).await.map_err(SiteError::Share)?;
        if let Some(entry) = entry.filter(|entry| !entry.deleted) {
            let record: Record = serde_json::from_slice(&entry.value).map_err(SiteError::Record)?;
            if record.version != VERSION {
                return Err(SiteError::RecordVersion { version: record.version, known: VERSION }.into());
            }
            self.issued.merge(record.issued, super::seconds_now())?;
            self.revoked.lock().await.extend(record.revoked);
        }
        // Set once, by the coordinator that it belongs to. What it has issued until now goes with what it issues next.
        let _ = self.shared.set(bus.clone());
        Ok(())
    }

    /// Makes sure that the next coordinator knows what this one has issued: before it is handed out.
    pub async fn remember(&self) -> Result<(), IssuerError> {
        let revoked = self.revoked.lock().await;
        self.share(&revoked).await
    }

    /// The lock on what is revoked is held over the write, so that the record never goes back.
    pub(super) async fn share(&self, revoked: &Revocations) -> Result<(), IssuerError> {
        let Some(bus) = self.shared.get() else { return Ok(()) };
        let record = Record { version: VERSION, issued: self.issued.all(), revoked: revoked.clone() };
        let value = serde_json::to_vec(&record).map_err(SiteError::Record)?;
        if value.len() > MAX_RECORD {
            return Err(SiteError::RecordTooLarge { size: value.len(), limit: MAX_RECORD }.into());
        }
        bus.kv_put(&subject::lab_bucket(&self.lab), subject::ISSUED_KEY, value)
            .await
            .map_err(SiteError::Share)?;
        Ok(())
    }
}
