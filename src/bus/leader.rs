//! Reading a key where it is written.
//!
//! In a cluster any server that keeps a bucket answers `DIRECT.GET`, also one that has not come to the last writes. What the
//! ledger decides must not rest on that, so whoever may, asks the bucket's leader: `STREAM.MSG.GET`.

use super::connect::Bus;
use super::error::BusError;
use super::kv::{Entry, KV_OPERATION, written_ns};
use crate::wire::subject;
use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::json;

/// JetStream's `no message found`.
const NO_MESSAGE: u64 = 10_037;

#[derive(Deserialize)]
struct Answer {
    message: Stored,
}

#[derive(Deserialize)]
struct Stored {
    seq: u64,
    time: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl Bus {
    /// [`Bus::kv_get`], answered by the leader of the bucket alone.
    pub(super) async fn kv_get_from_leader(
        &self,
        bucket: &str,
        key: &str,
    ) -> Result<Option<Entry>, BusError> {
        let call = format!("STREAM.MSG.GET.{}", subject::stream(bucket));
        let ask = json!({ "last_by_subj": subject::key(bucket, key) });
        let stored = match self.look::<Answer>(&call, &ask).await {
            Ok(Answer { message }) => message,
            Err(BusError::Refused { err_code: NO_MESSAGE, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let malformed =
            |problem: &str| BusError::Malformed { subject: call.clone(), problem: problem.into() };
        let decode = |text: &str| BASE64.decode(text.as_bytes()).map_err(|_| malformed("it is not base64"));
        let value: Bytes = decode(&stored.data)?.into();
        let headers = decode(&stored.hdrs)?;
        let written_ns = written_ns(&stored.time).ok_or_else(|| malformed("its time is none"))?;
        Ok(Some(Entry { revision: stored.seq, written_ns, value, deleted: is_deletion(&headers) }))
    }
}

/// Whether headers as they are on the wire (`NATS/1.0`, then lines) mark a deletion.
fn is_deletion(headers: &[u8]) -> bool {
    let text = String::from_utf8_lossy(headers);
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.any(|(name, value)| {
        name.eq_ignore_ascii_case(KV_OPERATION) && matches!(value.trim(), "DEL" | "PURGE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_of_a_deletion_is_known_in_its_headers() {
        assert!(is_deletion(b"NATS/1.0\r\nNats-Expected-Last-Sequence: 7\r\nKV-Operation: DEL\r\n\r\n"));
        for other in [&b""[..], b"NATS/1.0\r\nKV-Operation: PUT\r\n\r\n", b"NATS/1.0\r\nX: DEL\r\n\r\n"] {
            assert!(!is_deletion(other));
        }
    }
}
