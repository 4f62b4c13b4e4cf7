//! Takes messages from a durable pull consumer that somebody else made, with two rights only:
//! `$JS.API.CONSUMER.MSG.NEXT.<stream>.<durable>` and `$JS.ACK.<stream>.<durable>.>`.

use super::connect::Bus;
use super::error::BusError;
use super::kv::{Entry, is_deletion};
use crate::wire::subject;
use bytes::Bytes;
use std::time::Duration;

/// How much longer than the server holds a pull its answer may take: the way there and back on a slow device.
const PULL_GRACE: Duration = Duration::from_secs(2);

/// A durable pull consumer on a bucket.
#[derive(Debug, Clone)]
pub struct Durable {
    bus: Bus,
    bucket: String,
    name: String,
}

/// A key's entry as the consumer delivers it. Not acknowledged, it is delivered again.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The key.
    pub key: String,
    /// The entry.
    pub entry: Entry,
    ack: String,
}

/// What a pull ended with.
#[derive(Debug, Clone)]
pub enum Pulled {
    /// An entry.
    Delivery(Delivery),
    /// Nothing new.
    Nothing,
}

impl Durable {
    /// The consumer `name` on `bucket`.
    pub fn new(bus: Bus, bucket: impl Into<String>, name: impl Into<String>) -> Self {
        Self { bus, bucket: bucket.into(), name: name.into() }
    }

    /// Waits for the next entry; the server holds the pull for `expires`, when it has nothing to deliver. [`BusError::Refused`] tells that the consumer
    /// was deleted meanwhile. Where there is none, a device is not answered at all ([`BusError::TimedOut`]):
    /// its account only imports the consumer, and nats-server 2.9 does not tell across accounts that nobody listens.
    ///
    /// Dropped before it ends, or cut off by a lost connection, an entry under way to it comes again only
    /// after the consumer's acknowledgement wait: read the keys once after a reconnect.
    pub async fn pull(&self, expires: Duration) -> Result<Pulled, BusError> {
        let stream = subject::stream(&self.bucket);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", self.name);
        let body = format!(r#"{{"batch":1,"expires":{}}}"#, expires.as_nanos());
        let pull = self.bus.exchange_delivery(subject.clone(), body.into(), expires + PULL_GRACE);
        let message = pull.await?;
        if let Some(status) = message.status {
            // 404: no messages; 408: the pull expired (ADR-13).
            return match status.as_u16() {
                404 | 408 => Ok(Pulled::Nothing),
                code => Err(BusError::Refused {
                    subject,
                    code: u64::from(code),
                    err_code: 0,
                    description: message.description.unwrap_or_default(),
                }),
            };
        }
        let malformed = |problem: &str| BusError::Malformed { subject, problem: problem.to_owned() };
        let Some(ack) = message.reply else { return Err(malformed("no reply subject")) };
        let prefix = subject::key(&self.bucket, "");
        let Some(key) = message.subject.strip_prefix(&prefix) else {
            return Err(malformed("not of this bucket"));
        };
        let Some((revision, written_ns)) = revision_and_time(&ack) else {
            return Err(malformed("no stream sequence and time"));
        };
        let deleted = message.headers.as_ref().is_some_and(is_deletion);
        let entry = Entry { revision, written_ns, value: message.payload, deleted };
        Ok(Pulled::Delivery(Delivery { key: key.to_owned(), entry, ack: ack.into_string() }))
    }

    /// Tells the server that the entry is safe here: its acknowledgement floor is the receipt.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), BusError> {
        self.bus.send(delivery.ack.clone(), None, Bytes::from_static(b"+ACK")).await
    }

    /// Asks for the entry again after a time (ADR-42 of NATS; in nanoseconds), sooner than the server would by itself.
    pub async fn again(&self, delivery: &Delivery, after: Duration) -> Result<(), BusError> {
        let body = format!("-NAK {{\"delay\": {}}}", after.as_nanos());
        self.bus.send(delivery.ack.clone(), None, body.into()).await
    }
}

/// The stream sequence in an acknowledgement subject, and when that was stored, in nanoseconds (ADR-15):
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, and since
/// nats-server 2.11 perhaps `$JS.ACK.<domain>.<account hash>.<stream>. …  .<random>`.
fn revision_and_time(ack: &str) -> Option<(u64, u64)> {
    let tokens: Vec<&str> = ack.split('.').collect();
    let at = match tokens.len() {
        9 => 5,
        11.. => 7,
        _ => return None,
    };
    Some((tokens.get(at)?.parse().ok()?, tokens.get(at + 2)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_and_time_are_in_the_acknowledgement_subject() {
        let told = Some((42, 1_700_000_000));
        assert_eq!(revision_and_time("$JS.ACK.KV_desired.d1.1.42.7.1700000000.0"), told);
        assert_eq!(revision_and_time("$JS.ACK.dom.hash.KV_desired.d1.1.42.7.1700000000.0"), told);
        assert_eq!(revision_and_time("$JS.ACK.dom.hash.KV_desired.d1.1.42.7.1700000000.0.rnd"), told);
        for bad in
            ["", "$JS.ACK", "$JS.ACK.KV_desired.d1.1.x.7.1700000000.0", "$JS.ACK.KV_desired.d1.1.42.7.x.0"]
        {
            assert_eq!(revision_and_time(bad), None, "{bad}");
        }
    }
}
