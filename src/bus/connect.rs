//! One connection to NATS: connect and reconnect, publish, request, subscribe. A handle is cheap to clone.

mod link;

pub use self::link::{Connection, Denial};

use self::link::{denials, observe};
use super::error::{BusError, NatsError};
use super::servers::Servers;
use crate::model::workload::{Denied, DeniedAction};
use async_nats::header::HeaderMap;
use async_nats::{Client, ConnectOptions, Request, RequestErrorKind};
use bytes::Bytes;
use futures_util::StreamExt;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often the server is pinged. A half-open link is noticed after two unanswered pings, so after
/// some 10 to 15 s; async-nats' own 60 s would make it minutes.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// The longest pause between two attempts to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(4);
/// The shortest: a server that restarts is back within tenths of a second.
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(50);
/// How long a publish or flush may wait: the connection's outgoing queue is full only while it is down.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// How to connect.
#[derive(Clone)]
pub struct BusOptions {
    /// Where the server is, or each of a cluster's.
    pub url: Servers,
    /// A NATS creds file's text (user JWT and seed); empty when the server asks for none.
    pub creds: String,
    /// The connection's name, shown by the server's monitoring.
    pub name: String,
    /// What this connection's inboxes begin with: `wire::subject::inbox`.
    pub inbox_prefix: String,
}

impl fmt::Debug for BusOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusOptions")
            .field("url", &self.url)
            .field("name", &self.name)
            .field("inbox_prefix", &self.inbox_prefix)
            .finish_non_exhaustive()
    }
}

/// A connection. Clones share it.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    connection: watch::Receiver<Connection>,
    /// Whether what is kept may be changed.
    #[cfg(feature = "coordinator")]
    term: crate::support::term::Term,
    /// On how many servers each bucket is kept.
    #[cfg(feature = "coordinator")]
    replicas: u8,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("connection", &*self.connection.borrow()).finish_non_exhaustive()
    }
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub subject: String,
    /// Where an answer is awaited.
    pub reply: Option<String>,
    /// What it says.
    pub payload: Bytes,
}

impl Bus {
    /// Connects, trying again until `patience` has passed; without it, until the future is dropped.
    /// Once connected, a connection that is lost comes back by itself.
    pub async fn connect(options: BusOptions, patience: Option<Duration>) -> Result<Self, BusError> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let (state, connection) = watch::channel(Connection::default());
        let state = Arc::new(state);
        let mut attempt = 0_usize;
        let url = options.url.to_string();
        let addresses = options.url.addresses();
        let addresses = addresses
            .map_err(|error| BusError::Connect { url: url.clone(), source: NatsError::new(&error) })?;
        loop {
            attempt += 1;
            let error = match prepare(&options, &state)?.connect(&addresses[..]).await {
                Ok(client) => {
                    return Ok(Self {
                        client,
                        connection,
                        #[cfg(feature = "coordinator")]
                        term: crate::support::term::Term::endless(),
                        #[cfg(feature = "coordinator")]
                        replicas: 1,
                    });
                }
                Err(error) => error,
            };
            let pause = reconnect_delay(attempt);
            if deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
                #[cfg(feature = "coordinator")]
                if options.url.want_certificate().await {
                    return Err(BusError::NoCertificate { url });
                }
                return Err(BusError::Connect { url, source: NatsError::new(&error) });
            }
            // Told ever more rarely: a console is read by people.
            if attempt.is_power_of_two() {
                tracing::warn!(url, attempt, %error, "no NATS connection yet");
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The same connection, on which keys are written as long as `term` is held, and no longer.
    #[cfg(feature = "coordinator")]
    pub fn within(&self, term: crate::support::term::Term) -> Self {
        Self { term, ..self.clone() }
    }

    /// The same connection to a cluster that keeps each bucket on so many servers. What is read is then read where it is
    /// written: any of them answers to the quicker way, also one that has not come to the last writes.
    #[cfg(feature = "coordinator")]
    pub fn replicated(&self, replicas: u8) -> Self {
        Self { replicas, ..self.clone() }
    }

    /// On how many servers each bucket is kept.
    #[cfg(feature = "coordinator")]
    pub(super) fn replicas(&self) -> u8 {
        self.replicas
    }

    /// Whether keys may be written now.
    pub(super) fn may_write(&self) -> Result<(), BusError> {
        #[cfg(feature = "coordinator")]
        self.term.check().map_err(|lapsed| BusError::Lapsed { cause: lapsed.to_string() })?;
        Ok(())
    }

    /// How the connection stands, now and later.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// What the server has not permitted so far, by subject; bounded.
    pub fn denials(&self) -> Vec<Denied> {
        self.connection.borrow().denials.clone()
    }

    #[cfg(feature = "coordinator")]
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Publishes; done when the connection has taken it.
    pub async fn publish(
        &self,
        subject: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Result<(), BusError> {
        self.send(subject.into(), None, payload.into()).await
    }

    /// Publishes with a reply subject.
    pub(super) async fn send(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), BusError> {
        let sent = async {
            match reply {
                None => self.client.publish(subject.clone(), payload).await,
                Some(reply) => self.client.publish_with_reply(subject.clone(), reply, payload).await,
            }
        };
        match tokio::time::timeout(PUBLISH_TIMEOUT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(BusError::Publish { subject, source: NatsError::new(&error) }),
            Err(_) => Err(BusError::TimedOut { subject, timeout: PUBLISH_TIMEOUT }),
        }
    }

    /// Waits until the server has come to all that was sent on this connection, its subscriptions above all:
    /// from here on they hear what others publish. [`Self::flush`] ends once the bytes are in the socket. Asks the
    /// own inbox, where nobody listens; only the coordinator may.
    #[cfg(feature = "coordinator")]
    pub async fn settle(&self) -> Result<(), BusError> {
        match self.request(self.client.new_inbox(), Bytes::new(), PUBLISH_TIMEOUT).await {
            Ok(_) | Err(BusError::NoResponders { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until all that was published has been written to the socket.
    pub async fn flush(&self) -> Result<(), BusError> {
        match tokio::time::timeout(PUBLISH_TIMEOUT, self.client.flush()).await {
            Ok(done) => done.map_err(|error| BusError::Flush { source: NatsError::new(&error) }),
            Err(elapsed) => Err(BusError::Flush { source: NatsError::new(&elapsed) }),
        }
    }

    /// Asks and waits for one answer. A denial by the server is told at once, not as a time-out.
    pub async fn request(
        &self,
        subject: impl Into<String>,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, BusError> {
        let answer = self.exchange(subject.into(), HeaderMap::new(), payload.into(), timeout).await?;
        Ok(answer.payload)
    }

    /// Asks with headers; answers the whole message.
    pub(super) async fn exchange(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message, BusError> {
        let mut request = Request::new().payload(payload);
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        self.ask(subject, request, timeout).await
    }

    /// Asks through an inbox of its own. async-nats tells the answers of its shared inbox apart by their
    /// subject, but a consumer's delivery keeps the subject under which it was stored.
    pub(super) async fn exchange_delivery(
        &self,
        subject: String,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message, BusError> {
        let request = Request::new().payload(payload).inbox(self.client.new_inbox());
        self.ask(subject, request, timeout).await
    }

    async fn ask(
        &self,
        subject: String,
        request: Request,
        timeout: Duration,
    ) -> Result<async_nats::Message, BusError> {
        let request = request.timeout(Some(timeout));
        let mut connection = self.connection.clone();
        let before = denials(&connection.borrow_and_update());
        let denied = connection.wait_for(|now| {
            denials(now) > before
                && now
                    .denied
                    .as_ref()
                    .is_some_and(|denial| denial.action == DeniedAction::Publish && denial.subject == subject)
        });
        // The outer bound also covers a connection whose outgoing queue is full.
        let answer = tokio::time::timeout(timeout, self.client.send_request(subject.clone(), request));
        let answer = tokio::select! {
            answer = answer => answer,
            Ok(_) = denied => return Err(BusError::Denied { subject }),
        };
        match answer {
            Ok(Ok(message)) => Ok(message),
            Err(_) => Err(BusError::TimedOut { subject, timeout }),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::TimedOut => BusError::TimedOut { subject, timeout },
                RequestErrorKind::NoResponders => BusError::NoResponders { subject },
                _ => BusError::Request { subject, source: NatsError::new(&error) },
            }),
        }
    }

    /// Receives what is published on `subject` from now on, also after the connection was lost and came
    /// back. A reader that lags loses messages: the connection never waits for it.
    pub async fn subscribe(&self, subject: impl Into<String>) -> Result<Subscription, BusError> {
        let subject = subject.into();
        match self.client.subscribe(subject.clone()).await {
            Ok(inner) => Ok(Subscription { inner }),
            Err(error) => Err(BusError::Subscribe { subject, source: NatsError::new(&error) }),
        }
    }

    /// Ends the connection; what was published is written out first.
    pub async fn close(&self) -> Result<(), BusError> {
        self.flush().await?;
        self.client.drain().await.map_err(|error| BusError::Flush { source: NatsError::new(&error) })
    }
}

/// Messages of one subject. Dropped, it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    inner: async_nats::Subscriber,
}

impl Subscription {
    /// The next message; none when the connection has been closed.
    pub async fn next(&mut self) -> Option<Message> {
        let message = self.inner.next().await?;
        Some(Message {
            subject: message.subject.into_string(),
            reply: message.reply.map(async_nats::Subject::into_string),
            payload: message.payload,
        })
    }
}

fn prepare(options: &BusOptions, state: &Arc<watch::Sender<Connection>>) -> Result<ConnectOptions, BusError> {
    let state = Arc::clone(state);
    let prepared = ConnectOptions::new()
        .name(&options.name)
        .custom_inbox_prefix(&options.inbox_prefix)
        .ping_interval(PING_INTERVAL)
        // Only those that were named: others may not be reachable, and a device's way leads through its gate.
        .ignore_discovered_servers()
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            observe(&state, event);
            std::future::ready(())
        });
    #[cfg(feature = "coordinator")]
    let prepared = options.url.secure(prepared).map_err(BusError::Tls)?;
    if options.creds.is_empty() {
        return Ok(prepared);
    }
    prepared.credentials(&options.creds).map_err(|source| BusError::Credentials { source })
}

/// Doubles from the shortest to the longest pause, then takes a random part between half and all of it:
/// a hundred devices that lost one server do not come back in step.
fn reconnect_delay(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    let full = MIN_RECONNECT_DELAY.saturating_mul(1 << doublings).min(MAX_RECONNECT_DELAY);
    full.mul_f64(0.5 + 0.5 * random_fraction())
}

/// A number from 0 up to 1. std seeds each `RandomState` from the system's randomness, which is all that
/// jitter needs: no crate for it in the agent.
fn random_fraction() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let number = std::hash::RandomState::new().build_hasher().finish();
    f64::from(u16::try_from(number >> 48).unwrap_or_default()) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_to_its_cap_and_is_never_in_step() {
        for attempt in 1..40 {
            let pause = reconnect_delay(attempt);
            assert!(pause >= MIN_RECONNECT_DELAY / 2 && pause <= MAX_RECONNECT_DELAY, "{attempt}: {pause:?}");
        }
        let pauses: std::collections::BTreeSet<_> = (0..16).map(|_| reconnect_delay(20)).collect();
        assert!(pauses.len() > 1);
    }

    #[test]
    fn options_do_not_show_credentials() {
        let options = BusOptions {
            url: "nats://h:1".into(),
            creds: "SUSECRET".into(),
            name: "n".into(),
            inbox_prefix: "_INBOX.n".into(),
        };
        assert!(!format!("{options:?}").contains("SUSECRET"));
    }
}
