//! A look at all services, though one of them may be stuck.
//!
//! podman's list takes each container's lock in turn, so one call that hangs with a lock (a frozen OCI
//! runtime, a mount that does not answer, a stopped process of podman's) holds up the list of all. What is
//! known of containers needs no list: each is then asked for by itself, and the silent one is `stuck`. The
//! filters are applied before the locks are taken.
//!
//! A call that did not answer is kept and not made again while it is open: each occupies a thread of
//! podman's.

use super::api::Listed;
use super::http::{Answer, Call};
use super::topology::{PodmanTopology, decode, query, succeeded};
use crate::agent::ports::{ManagedService, RuntimeError, ServiceState};
use crate::model::workload::label;
use crate::support::lock::lock;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use hyper::Method;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

/// How long the list may take before containers are asked for one by one: as long as podman itself holds a
/// lock, in vain, for a container that it has killed.
const LIST_PATIENCE: Duration = Duration::from_secs(5);
/// How long one container may take to tell of itself.
const ONE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a call is kept open that has not been answered.
const OPEN: Duration = Duration::from_secs(120);
/// The state of a container that does not answer.
const STUCK: &str = "stuck";

type Open = BoxFuture<'static, Result<Answer, RuntimeError>>;

/// What is known of the services between two looks.
#[derive(Default)]
pub(super) struct Looks {
    /// By container id.
    known: Mutex<BTreeMap<String, Known>>,
    /// Also lets one look happen at a time.
    unanswered: tokio::sync::Mutex<Unanswered>,
}

#[derive(Debug)]
struct Known {
    service: ManagedService,
    /// A list has shown it. The list that is under way may have begun before it was made.
    listed: bool,
}

/// The calls that have not been answered yet.
#[derive(Default)]
struct Unanswered {
    list: Option<Open>,
    /// By container id.
    one: BTreeMap<String, Open>,
}

impl fmt::Debug for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Looks {
    /// Takes note of a container that was made.
    pub(super) fn made(&self, service: ManagedService) {
        lock(&self.known).insert(service.id.clone(), Known { service, listed: false });
    }

    /// Takes note that a container is gone.
    pub(super) fn removed(&self, id: &str) {
        lock(&self.known).remove(id);
    }

    /// Takes note of what was seen before this agent began.
    pub(super) fn recall(&self, services: Vec<ManagedService>) {
        let known = services.into_iter().map(|service| (service.id.clone(), Known { service, listed: true }));
        lock(&self.known).extend(known);
    }

    fn all(&self) -> Vec<ManagedService> {
        lock(&self.known).values().map(|known| known.service.clone()).collect()
    }

    fn listed(&self, services: &[ManagedService]) {
        let mut known = lock(&self.known);
        known.retain(|_, known| !known.listed);
        for service in services {
            known.insert(service.id.clone(), Known { service: service.clone(), listed: true });
        }
    }
}

impl PodmanTopology {
    /// All services, by the list or one by one.
    pub(super) async fn look(&self) -> Result<Vec<ManagedService>, RuntimeError> {
        let mut unanswered = self.looks.unanswered.lock().await;
        let Unanswered { list, one } = &mut *unanswered;
        if let Some(open) = list {
            if open.now_or_never().is_none() {
                return self.one_by_one(one).await;
            }
            // What it says is from a look that is over.
            *list = None;
        }
        let mut open = self.list_call("list containers".to_owned(), None);
        let known = !self.looks.all().is_empty();
        let answer = match tokio::time::timeout(LIST_PATIENCE, &mut open).await {
            Ok(answer) => answer?,
            Err(_) if known => {
                tracing::warn!("podman does not list its containers; asking for each");
                *list = Some(open);
                return self.one_by_one(one).await;
            }
            // Nothing can be asked for: there is nothing, or the agent before this one did not say.
            Err(_) => open.await?,
        };
        one.clear();
        let listed = services(&answer, "list containers")?;
        self.looks.listed(&listed);
        Ok(listed)
    }

    async fn one_by_one(
        &self,
        open: &mut BTreeMap<String, Open>,
    ) -> Result<Vec<ManagedService>, RuntimeError> {
        let known = self.looks.all();
        open.retain(|id, call| {
            known.iter().any(|service| service.id == *id) && call.now_or_never().is_none()
        });
        let (silent, asked): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|service| open.contains_key(&service.id));
        let ask = |service: ManagedService| async {
            let mut call = self.list_call(format!("look at container {}", service.id), Some(&service.id));
            let answer = tokio::time::timeout(ONE_PATIENCE, &mut call).await;
            (service, answer.map_err(|_| call))
        };
        let mut found: Vec<ManagedService> = silent.into_iter().map(stuck).collect();
        for (service, answer) in join_all(asked.into_iter().map(ask)).await {
            match answer {
                Ok(answer) => match services(&answer?, "look at a container")?.pop() {
                    Some(seen) => found.push(seen),
                    None => self.looks.removed(&service.id),
                },
                Err(call) => {
                    tracing::warn!(id = service.id, "a container does not answer");
                    open.insert(service.id.clone(), call);
                    found.push(stuck(service));
                }
            }
        }
        Ok(found)
    }

    /// Asks for all services, or for the one with this id. Init containers carry no such label.
    fn list_call(&self, operation: String, id: Option<&str>) -> Open {
        let labels = [
            format!("{}={}", label::MANAGED_BY, label::AGENT),
            format!("{}={}", label::DEVICE, self.device),
            label::SERVICE.to_owned(),
        ];
        let filters = match id {
            Some(id) => serde_json::json!({ "label": labels, "id": [id] }),
            None => serde_json::json!({ "label": labels }),
        };
        let path = format!("/containers/json?all=true&filters={}", query(&filters.to_string()));
        let call = Call { operation, method: Method::GET, path, body: Vec::new(), timeout: OPEN };
        let socket = self.socket.clone();
        async move { socket.call(call).await }.boxed()
    }
}

fn services(answer: &Answer, operation: &str) -> Result<Vec<ManagedService>, RuntimeError> {
    succeeded(answer, operation)?;
    // podman answers `null` for none.
    let listed: Option<Vec<Listed>> = decode(answer, operation)?;
    Ok(listed.into_iter().flatten().filter_map(Listed::managed).collect())
}

fn stuck(service: ManagedService) -> ManagedService {
    ManagedService { state: ServiceState::Other(STUCK.to_owned()), ..service }
}
