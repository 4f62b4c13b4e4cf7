//! Writes to a bucket that has one writer. Each write says which sequence the whole bucket must have, so it fails
//! when anybody has written anything in between, under whatever key; and so does each write after one
//! that failed. That is what lets them be sent one after another without waiting for the answers.

use super::connect::Bus;
use super::error::{BusError, NatsError};
use super::kv::{Entry, KV_OPERATION};
use crate::wire::subject;
use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SEQUENCE};
use async_nats::jetstream::context::{Context, ContextBuilder, PublishAckFuture, PublishErrorKind};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many keys are read at a time: enough to hide the way there and back.
const READS: usize = 128;

/// The one writer of a bucket.
#[derive(Debug, Clone)]
pub struct SoleWriter {
    context: Context,
    bus: Bus,
    bucket: String,
    last: u64,
}

/// A write that is on its way.
#[derive(Debug)]
pub struct Sent {
    bucket: String,
    key: String,
    sequence: u64,
    answer: PublishAckFuture,
}

/// All that a bucket holds.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Its keys with their entries, deletion marks among them.
    pub entries: Vec<(String, Entry)>,
}

impl Bus {
    /// The sequence of the last write to a bucket; 0 when nothing was ever written.
    pub async fn kv_last(&self, bucket: &str) -> Result<u64, BusError> {
        #[derive(Deserialize)]
        struct Info {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            last_seq: u64,
        }
        let stream = subject::stream(bucket);
        let info: Info = self.look(&format!("STREAM.INFO.{stream}"), &serde_json::Value::Null).await?;
        Ok(info.state.last_seq)
    }

    /// Reads a whole bucket. What is written meanwhile is in it or not: its writer reads it before it writes.
    pub async fn kv_snapshot(&self, bucket: &str) -> Result<Snapshot, BusError> {
        let prefix = subject::key(bucket, "");
        let subjects = self.kv_subjects(bucket).await?;
        let keys = subjects.iter().filter_map(|subject| subject.strip_prefix(&prefix));
        let keys: Vec<String> = keys.map(str::to_owned).collect();
        let reads = keys.into_iter().map(|key| async move {
            let entry = self.kv_get(bucket, &key).await?;
            Ok((key, entry))
        });
        let mut reads = stream::iter(reads).buffered(READS);
        let mut snapshot = Snapshot::default();
        while let Some(read) = reads.next().await {
            if let (key, Some(entry)) = read? {
                snapshot.entries.push((key, entry));
            }
        }
        Ok(snapshot)
    }

    /// The subjects of all keys. The server tells 100,000 at a time.
    async fn kv_subjects(&self, bucket: &str) -> Result<Vec<String>, BusError> {
        #[derive(Deserialize)]
        struct Info {
            #[serde(default)]
            total: usize,
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: Option<BTreeMap<String, u64>>,
        }
        let call = format!("STREAM.INFO.{}", subject::stream(bucket));
        let mut subjects = Vec::new();
        loop {
            let ask = json!({ "subjects_filter": subject::key(bucket, ">"), "offset": subjects.len() });
            let info: Info = self.look(&call, &ask).await?;
            let page = info.state.subjects.unwrap_or_default();
            let is_last = page.is_empty();
            subjects.extend(page.into_keys());
            if is_last || subjects.len() >= info.total {
                return Ok(subjects);
            }
        }
    }

    /// The writer of a bucket whose last write has the sequence `last`.
    pub fn sole_writer(&self, bucket: impl Into<String>, last: u64) -> SoleWriter {
        let context = ContextBuilder::new().timeout(WRITE_TIMEOUT).build(self.client().clone());
        SoleWriter { context, bus: self.clone(), bucket: bucket.into(), last }
    }
}

impl SoleWriter {
    /// The sequence that the next write will have, if all before it succeed.
    pub fn next(&self) -> u64 {
        self.last + 1
    }

    /// Hands a write of `key` to the connection.
    pub async fn put(&mut self, key: impl Into<String>, value: Vec<u8>) -> Result<Sent, BusError> {
        self.send(key.into(), HeaderMap::new(), value.into()).await
    }

    /// Hands a deletion of `key` to the connection. What remains is a mark, which [`SoleWriter::erase`] removes.
    pub async fn delete(&mut self, key: impl Into<String>) -> Result<Sent, BusError> {
        let mut headers = HeaderMap::new();
        headers.insert(KV_OPERATION, "DEL");
        self.send(key.into(), headers, Bytes::new()).await
    }

    /// Removes the message with this sequence from the bucket: the mark of a deletion. The bucket's last sequence is
    /// not to be removed, for an old server forgets it with the message.
    pub async fn erase(&self, sequence: u64) -> Result<(), BusError> {
        let call = format!("STREAM.MSG.DELETE.{}", subject::stream(&self.bucket));
        self.bus.api::<serde_json::Value>(&call, &json!({ "seq": sequence, "no_erase": true })).await?;
        Ok(())
    }

    async fn send(&mut self, key: String, mut headers: HeaderMap, value: Bytes) -> Result<Sent, BusError> {
        headers.insert(NATS_EXPECTED_LAST_SEQUENCE, self.last.to_string().as_str());
        let subject = subject::key(&self.bucket, &key);
        let answer = self.context.publish_with_headers(subject.clone(), headers, value).await;
        let answer = answer.map_err(|error| BusError::Publish { subject, source: NatsError::new(&error) })?;
        self.last += 1;
        Ok(Sent { bucket: self.bucket.clone(), key, sequence: self.last, answer })
    }
}

impl Sent {
    /// The sequence of the write, once the server has stored it; [`BusError::Conflict`] when somebody else
    /// wrote to the bucket.
    pub async fn stored(self) -> Result<u64, BusError> {
        let Self { bucket, key, sequence, answer } = self;
        match answer.await {
            Ok(stored) if stored.sequence == sequence => Ok(sequence),
            Ok(stored) => Err(BusError::Malformed {
                subject: subject::key(&bucket, &key),
                problem: format!("stored as {}, expected as {sequence}", stored.sequence),
            }),
            Err(error) => Err(match error.kind() {
                PublishErrorKind::WrongLastSequence => {
                    BusError::Conflict { bucket, key, expected: sequence - 1 }
                }
                PublishErrorKind::TimedOut => {
                    let subject = subject::key(&bucket, &key);
                    BusError::TimedOut { subject, timeout: WRITE_TIMEOUT }
                }
                _ => {
                    let subject = subject::key(&bucket, &key);
                    BusError::Publish { subject, source: NatsError::new(&error) }
                }
            }),
        }
    }
}
