//! Requests to a coordinator, as any user of a lab makes them.

use super::error::CliError;
use crate::bus::connect::{Bus, BusOptions, Subscription};
use crate::bus::error::BusError;
use crate::bus::servers::Servers;
use crate::model::id::{DeviceId, LabName, RunId, UserName};
use crate::model::run::RunEvent;
use crate::model::scenario::Scenario;
use crate::wire::console;
use crate::wire::request::{
    self, BundleList, BundleRead, EventsPage, EventsRequest, REQUEST_VERSION, Reply, RunAccepted, RunOptions,
    RunRef, RunRequest,
};
use crate::wire::subject;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a coordinator may take to answer. It answers from memory; a slow disk or a loaded host is
/// what takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to answer with events: they are asked for again anyway, so a question that a
/// dying NATS server swallowed should not be waited for long.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(3);

/// A user of a lab. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Client {
    bus: Bus,
    lab: LabName,
    user: UserName,
}

impl Client {
    /// Connects as `user` with the text of a NATS creds file, trying until `patience` has passed.
    pub async fn connect(
        url: impl Into<Servers>,
        creds: &str,
        lab: &LabName,
        user: &UserName,
        patience: Duration,
    ) -> Result<Self, CliError> {
        let url: Servers = url.into();
        let options = BusOptions {
            url: url.clone(),
            creds: creds.to_owned(),
            name: format!("pilab {user}"),
            inbox_prefix: subject::inbox(user.as_str()),
        };
        let bus = Bus::connect(options, Some(patience))
            .await
            .map_err(|source| CliError::Connect { url: url.to_string(), source: source.into() })?;
        Ok(Self { bus, lab: lab.clone(), user: user.clone() })
    }

    /// The lab.
    pub fn lab(&self) -> &LabName {
        &self.lab
    }

    /// The events of all runs from now on. Subscribe before starting a run: what is published before is
    /// only to be had by [`Self::events`].
    pub async fn subscribe(&self) -> Result<Subscription, CliError> {
        let subject = subject::runs(&self.lab);
        self.bus
            .subscribe(subject)
            .await
            .map_err(|source| CliError::Request { verb: request::EVENTS, source: source.into() })
    }

    /// Queues a run.
    pub async fn start(&self, scenario: Scenario, options: RunOptions) -> Result<RunId, CliError> {
        let body = RunRequest { version: REQUEST_VERSION, scenario, options };
        let RunAccepted { run } = self.ask(request::RUN, &body).await?;
        Ok(run)
    }

    /// The events of a run from sequence number `from`: as many as fit a message.
    pub async fn events(&self, run: &RunId, from: u64) -> Result<Vec<RunEvent>, CliError> {
        let EventsPage { events } =
            self.ask(request::EVENTS, &EventsRequest { run: run.clone(), from }).await?;
        Ok(events)
    }

    /// Asks for a run to be stopped; its last event says when it has.
    pub async fn cancel(&self, run: &RunId) -> Result<(), CliError> {
        let _: serde_json::Value = self.ask(request::CANCEL, &RunRef { run: run.clone() }).await?;
        Ok(())
    }

    /// What the bundle of a run that has ended consists of.
    pub async fn bundle(&self, run: &RunId) -> Result<BundleList, CliError> {
        self.ask(request::BUNDLE, &RunRef { run: run.clone() }).await
    }

    /// A piece of a bundle's file; empty at its end.
    pub async fn bundle_read(&self, run: &RunId, path: &str, offset: u64) -> Result<Bytes, CliError> {
        let body = BundleRead { run: run.clone(), path: path.to_owned(), offset };
        self.exchange(request::BUNDLE_READ, &body, ANSWER_TIMEOUT).await
    }

    /// Everything that is published of a device's console from now on.
    pub async fn subscribe_console(&self, device: &DeviceId) -> Result<Subscription, CliError> {
        let failed =
            |source: BusError| CliError::Request { verb: console::CONSOLE_READ, source: source.into() };
        let subscription = self.bus.subscribe(subject::console(&self.lab, device)).await.map_err(failed)?;
        self.bus.flush().await.map_err(failed)?;
        Ok(subscription)
    }

    /// Done when the connection has been lost and is up again.
    pub(super) async fn reconnected(&self) {
        let mut connection = self.bus.connection();
        let before = connection.borrow_and_update().epoch;
        if connection.wait_for(|now| now.up && now.epoch != before).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sends a request and reads its answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let timeout = if verb == request::EVENTS { EVENTS_TIMEOUT } else { ANSWER_TIMEOUT };
        self.ask_within(verb, body, timeout).await
    }

    /// [`Self::ask`], with another bound than the usual.
    pub(super) async fn ask_within<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, CliError> {
        let answer = self.exchange(verb, body, timeout).await?;
        match serde_json::from_slice(&answer) {
            Ok(Reply::Ok { body }) => Ok(body),
            Ok(Reply::Refused { error, hint, .. }) => Err(CliError::Refused { verb, cause: error, hint }),
            Err(source) => Err(CliError::Request { verb, source: source.into() }),
        }
    }

    async fn exchange(
        &self,
        verb: &'static str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<Bytes, CliError> {
        let failed = |source| CliError::Request { verb, source };
        let body = serde_json::to_vec(body).map_err(|source| failed(source.into()))?;
        let subject = subject::request(&self.lab, &self.user, verb);
        self.bus.request(subject, body, timeout).await.map_err(|source| failed(source.into()))
    }
}
