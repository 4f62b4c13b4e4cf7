//! Keys by their raw subjects, so that a client needs no more rights than its own keys: a read is
//! `DIRECT.GET` of one key, a write is one publish with its acknowledgement awaited.
//!
//! async-nats' own key-value store asks for `STREAM.INFO` (which lists every key) and watches through
//! consumers whose filter no permission can confine.

use super::connect::Bus;
use super::error::BusError;
use crate::wire::subject;
use async_nats::StatusCode;
use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use bytes::Bytes;
use serde::Deserialize;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How long one key operation may take.
pub(super) const KV_TIMEOUT: Duration = Duration::from_secs(5);
/// Header that marks a deletion (ADR-8).
pub(super) const KV_OPERATION: &str = "KV-Operation";
/// JetStream's `wrong last sequence`.
const WRONG_LAST_SEQUENCE: u64 = 10_071;

/// A key's value at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The sequence number of the bucket's stream: grows with each write of any key.
    pub revision: u64,
    /// When it was written, by the server's clock, in nanoseconds since 1970-01-01 UTC. In a bucket that was made anew revisions
    /// begin anew; this goes on.
    pub written_ns: u64,
    /// The value; empty when deleted.
    pub value: Bytes,
    /// Whether the key was deleted at this revision.
    pub deleted: bool,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Failure {
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct PubAck {
    seq: u64,
}

impl Bus {
    /// The last entry of a key, a deletion included; none when it was never written.
    pub async fn kv_get(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BusError> {
        #[cfg(feature = "coordinator")]
        if self.replicas() > 1 {
            return self.kv_get_from_leader(bucket, key).await;
        }
        let subject = format!("$JS.API.DIRECT.GET.{}.{}", subject::stream(bucket), subject::key(bucket, key));
        let message = self.read(&subject, &Bytes::new()).await?;
        let headers = message.headers.unwrap_or_default();
        let revision = headers.get("Nats-Sequence").and_then(|value| value.as_str().parse().ok());
        // An entry first: one may have been stored with a status of its own, when somebody named this key
        // as the reply subject of another request.
        let Some(revision) = revision else {
            let description = message.description.unwrap_or_default();
            return match message.status {
                Some(StatusCode::NOT_FOUND) => Ok(None),
                Some(status) => {
                    let code = u64::from(status.as_u16());
                    Err(BusError::Refused { subject, code, err_code: 0, description })
                }
                None => Err(BusError::Malformed { subject, problem: "no Nats-Sequence header".into() }),
            };
        };
        let written = headers.get("Nats-Time-Stamp").and_then(|value| written_ns(value.as_str()));
        let Some(written_ns) = written else {
            return Err(BusError::Malformed { subject, problem: "no time in Nats-Time-Stamp".into() });
        };
        Ok(Some(Entry { revision, written_ns, value: message.payload, deleted: is_deletion(&headers) }))
    }

    /// Writes a key; answers its revision.
    pub async fn kv_put(&self, bucket: &str, key: &str, value: impl Into<Bytes>) -> Result<u64, BusError> {
        self.store(subject::key(bucket, key), HeaderMap::new(), value.into()).await
    }

    /// Writes a key if its last revision is `expected`, 0 for a key that was never written; answers the
    /// new revision, or [`BusError::Conflict`].
    pub async fn kv_put_if(
        &self,
        bucket: &str,
        key: &str,
        value: impl Into<Bytes>,
        expected: u64,
    ) -> Result<u64, BusError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string().as_str());
        match self.store(subject::key(bucket, key), headers, value.into()).await {
            Err(BusError::Refused { err_code: WRONG_LAST_SEQUENCE, .. }) => {
                Err(BusError::Conflict { bucket: bucket.to_owned(), key: key.to_owned(), expected })
            }
            other => other,
        }
    }

    /// Deletes a key: what remains is a mark of the deletion, at the answered revision.
    pub async fn kv_delete(&self, bucket: &str, key: &str) -> Result<u64, BusError> {
        let mut headers = HeaderMap::new();
        headers.insert(KV_OPERATION, "DEL");
        self.store(subject::key(bucket, key), headers, Bytes::new()).await
    }

    /// Deletes a key if its last revision is `expected`; [`BusError::Conflict`] otherwise.
    pub async fn kv_delete_if(&self, bucket: &str, key: &str, expected: u64) -> Result<u64, BusError> {
        let mut headers = HeaderMap::new();
        headers.insert(KV_OPERATION, "DEL");
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string().as_str());
        match self.store(subject::key(bucket, key), headers, Bytes::new()).await {
            Err(BusError::Refused { err_code: WRONG_LAST_SEQUENCE, .. }) => {
                Err(BusError::Conflict { bucket: bucket.to_owned(), key: key.to_owned(), expected })
            }
            other => other,
        }
    }

    /// Removes a key and all that is known of it: it is as if it had never been written.
    pub async fn kv_purge(&self, bucket: &str, key: &str) -> Result<(), BusError> {
        self.may_write()?;
        let call = format!("STREAM.PURGE.{}", subject::stream(bucket));
        let filter = serde_json::json!({ "filter": subject::key(bucket, key) });
        self.api::<serde_json::Value>(&call, &filter).await.map(drop)
    }

    /// The keys that match `filter` (`>` for all) and are not deleted, sorted. Needs the right to ask for
    /// the stream's info, which shows every key: not for devices.
    pub async fn kv_keys(&self, bucket: &str, filter: &str) -> Result<Vec<String>, BusError> {
        #[derive(Deserialize)]
        struct Info {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: Option<std::collections::BTreeMap<String, u64>>,
        }
        let prefix = subject::key(bucket, "");
        let ask = serde_json::json!({ "subjects_filter": subject::key(bucket, filter) });
        let info: Info = self.look(&format!("STREAM.INFO.{}", subject::stream(bucket)), &ask).await?;
        let mut keys = Vec::new();
        for subject in info.state.subjects.unwrap_or_default().into_keys() {
            let Some(key) = subject.strip_prefix(&prefix) else { continue };
            if self.kv_get(bucket, key).await?.is_some_and(|entry| !entry.deleted) {
                keys.push(key.to_owned());
            }
        }
        Ok(keys)
    }

    /// Publishes into a stream and waits for its acknowledgement; answers the sequence number.
    async fn store(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<u64, BusError> {
        self.may_write()?;
        let answer = self.exchange(subject.clone(), headers, payload, KV_TIMEOUT).await?;
        let ack: PubAck = understand(&subject, &answer.payload)?;
        Ok(ack.seq)
    }

    /// Calls `$JS.API.<call>` with a JSON body; an error in the answer becomes [`BusError::Refused`].
    pub async fn api<T: serde::de::DeserializeOwned>(
        &self,
        call: &str,
        body: &serde_json::Value,
    ) -> Result<T, BusError> {
        self.api_within(call, body, KV_TIMEOUT).await
    }

    /// [`Self::api`], for a call that changes nothing: it is made again when the connection is lost under it.
    pub async fn look<T: serde::de::DeserializeOwned>(
        &self,
        call: &str,
        body: &serde_json::Value,
    ) -> Result<T, BusError> {
        let subject = format!("$JS.API.{call}");
        let answer = self.read(&subject, &encode(body)).await?;
        understand(&subject, &answer.payload)
    }

    /// [`Self::api`], with another bound than the usual.
    pub(super) async fn api_within<T: serde::de::DeserializeOwned>(
        &self,
        call: &str,
        body: &serde_json::Value,
        timeout: Duration,
    ) -> Result<T, BusError> {
        let subject = format!("$JS.API.{call}");
        let answer = self.request(subject.clone(), encode(body), timeout).await?;
        understand(&subject, &answer)
    }
}

fn encode(body: &serde_json::Value) -> Bytes {
    if body.is_null() { Bytes::new() } else { body.to_string().into() }
}

/// Whether a message's headers mark a deletion.
pub(super) fn is_deletion(headers: &HeaderMap) -> bool {
    headers.get(KV_OPERATION).is_some_and(|value| matches!(value.as_str(), "DEL" | "PURGE"))
}

/// A server's time of a message (RFC 3339, to the nanosecond where it has any), in nanoseconds since 1970-01-01 UTC.
pub(super) fn written_ns(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos()).ok()
}

fn understand<T: serde::de::DeserializeOwned>(subject: &str, answer: &[u8]) -> Result<T, BusError> {
    let malformed = |error: serde_json::Error| BusError::Malformed {
        subject: subject.to_owned(),
        problem: error.to_string(),
    };
    let failure: Failure = serde_json::from_slice(answer).map_err(malformed)?;
    if let Some(ApiError { code, err_code, description }) = failure.error {
        return Err(BusError::Refused { subject: subject.to_owned(), code, err_code, description });
    }
    serde_json::from_slice(answer).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_an_answer_is_typed() {
        let answer = br#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"}}"#;
        let error = understand::<PubAck>("s", answer).err().unwrap();
        assert!(matches!(error, BusError::Refused { err_code: WRONG_LAST_SEQUENCE, .. }), "{error}");
        assert_eq!(understand::<PubAck>("s", br#"{"stream":"KV_x","seq":7}"#).unwrap().seq, 7);
        assert!(matches!(understand::<PubAck>("s", b"x"), Err(BusError::Malformed { .. })));
    }
}
