//! A lab as a test knows it: one login, one connection, requests.

use super::bench::{self, Bench};
use super::error::TestingError;
use crate::bus::connect::{Bus, BusOptions};
use crate::bus::servers::Servers;
use crate::config::login::Login;
use crate::model::device::{Capability, Model};
use crate::model::id::{DeviceId, LabName, LeaseId};
use crate::model::lease::{Priority, Purpose};
use crate::model::scenario::Need;
use crate::wire::lending::{LEASE, LeaseAsked, LeaseState, RESERVE, Reserve};
use crate::wire::request::{REQUEST_VERSION, Reply};
use crate::wire::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a lab may take to let the test in.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a coordinator may take to answer; switching a device takes longer and says so.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// How long a coordinator may hold an answer back while a request waits in its queue.
const WATCH: Duration = Duration::from_secs(5);
/// Pause before a coordinator that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// A lab. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Lab {
    bus: Bus,
    login: Login,
    path: PathBuf,
}

/// What devices a test needs: all of them or none.
#[derive(Debug, Clone)]
pub struct Needs {
    needs: Vec<Need>,
    purpose: String,
    duration: Option<Duration>,
    patience: Duration,
}

impl Needs {
    /// Any one device, which the test calls `role`.
    pub fn one(role: &str) -> Self {
        let none = Self {
            needs: Vec::new(),
            purpose: "a test".to_owned(),
            duration: None,
            patience: Duration::from_secs(600),
        };
        none.and(role)
    }

    /// One more device. What is said after this is said of it.
    #[must_use]
    pub fn and(mut self, role: &str) -> Self {
        self.needs.push(Need { role: role.to_owned(), ..Need::default() });
        self
    }

    fn last(mut self, change: impl FnOnce(&mut Need)) -> Self {
        if let Some(need) = self.needs.last_mut() {
            change(need);
        }
        self
    }

    /// The last named is this very device.
    #[must_use]
    pub fn device(self, device: DeviceId) -> Self {
        self.last(|need| need.device = Some(device))
    }

    /// The last named is of this model.
    #[must_use]
    pub fn model(self, model: Model) -> Self {
        self.last(|need| need.model = Some(model))
    }

    /// The last named has this label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.last(|need| {
            need.labels.insert(key.to_owned(), value.to_owned());
        })
    }

    /// The last named can do this.
    #[must_use]
    pub fn capability(self, capability: Capability) -> Self {
        self.last(|need| {
            need.capabilities.insert(capability);
        })
    }

    /// What for, one line that others read in the queue; `a test` when nobody says.
    #[must_use]
    pub fn purpose(mut self, purpose: &str) -> Self {
        purpose.clone_into(&mut self.purpose);
        self
    }

    /// For so long at the most; as long as the lab lends when nobody says.
    #[must_use]
    pub fn at_most(mut self, duration: Duration) -> Self {
        self.duration = Some(duration);
        self
    }

    /// How long to wait in the queue, 10 minutes when nobody says.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl Lab {
    /// The lab of the login file that `PILAB_LOGIN` names.
    pub async fn from_env() -> Result<Self, TestingError> {
        match std::env::var_os("PILAB_LOGIN").filter(|path| !path.is_empty()) {
            Some(path) => Self::open(Path::new(&path)).await,
            None => Err(TestingError::NoLogin),
        }
    }

    /// The lab of this login file.
    pub async fn open(login: &Path) -> Result<Self, TestingError> {
        let path = login.to_owned();
        let login = Login::read(login)?;
        let options = BusOptions {
            url: Servers::from(login.url.as_str()).with_tls(login.tls.clone()),
            creds: login.creds.clone(),
            name: format!("pilab test of {}", login.user),
            inbox_prefix: subject::inbox(login.user.as_str()),
        };
        let bus = Bus::connect(options, Some(PATIENCE)).await.map_err(|source| {
            let (lab, url) = (login.lab.to_string(), login.url.clone());
            TestingError::Connect { lab, url, source }
        })?;
        Ok(Self { bus, login, path })
    }

    /// Its name.
    pub fn name(&self) -> &LabName {
        &self.login.lab
    }

    /// The login file.
    pub(super) fn login(&self) -> &Path {
        &self.path
    }

    /// Waits for devices; they are this process's until the bench is dropped.
    pub async fn reserve(&self, needs: Needs) -> Result<Bench, TestingError> {
        let Needs { needs, purpose, duration, patience } = needs;
        let roles: Vec<String> = needs.iter().map(|need| need.role.clone()).collect();
        let name = |error: &dyn std::fmt::Display| TestingError::Name(error.to_string());
        let id = LeaseId::new(format!("t-{:08x}", rand::random::<u32>())).map_err(|e| name(&e))?;
        let asked = Reserve {
            version: REQUEST_VERSION,
            id: id.clone(),
            purpose: Purpose::new(purpose).map_err(|e| name(&e))?,
            needs,
            duration,
            priority: Priority::Normal,
            hold_by_process: Some(bench::BEAT),
            start_ms: None,
            no_wait: false,
        };
        // From here on whatever happens gives it back.
        let mut bench = Bench::new(self.clone(), id.clone());
        let deadline = Instant::now() + patience;
        let mut state: LeaseState = self.ask(RESERVE, &asked, ANSWER).await?;
        loop {
            match state {
                LeaseState::Granted(row) => {
                    bench.granted(roles.into_iter().zip(row.devices).collect());
                    return Ok(bench);
                }
                LeaseState::Ended => {
                    let cause = "the request was withdrawn while it waited".to_owned();
                    return Err(TestingError::Refused { verb: RESERVE, cause, hint: None });
                }
                LeaseState::Waiting(row) if Instant::now() >= deadline => {
                    let what = format!("the turn of {}", row.lease);
                    return Err(TestingError::Late { what, within: patience, last: row.blocker });
                }
                LeaseState::Waiting(row) => state = LeaseState::Waiting(row),
            }
            let asked = LeaseAsked { lease: id.clone(), wait: WATCH.min(deadline - Instant::now()) };
            match self.ask(LEASE, &asked, ANSWER).await {
                Ok(now) => state = now,
                // The request is in the ledger: it waits on while the coordinator is started anew.
                Err(TestingError::Request { .. }) => sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request and reads its answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, TestingError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| TestingError::Request { verb, source };
        let body = serde_json::to_vec(body).map_err(|e| failed(e.into()))?;
        let to = subject::request(&self.login.lab, &self.login.user, verb);
        let answer = self.bus.request(to, body, within).await.map_err(|e| failed(e.into()))?;
        match serde_json::from_slice(&answer).map_err(|e| failed(e.into()))? {
            Reply::Ok { body } => Ok(body),
            Reply::Refused { error: cause, hint, .. } => Err(TestingError::Refused { verb, cause, hint }),
        }
    }
}
