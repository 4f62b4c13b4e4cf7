//! A container runtime with state, and faults on request.

use pilab::agent::ports::{
    Completed, ContainerRuntime, InitSpec, ManagedService, RunOutcome, RuntimeError, ServiceSpec,
    ServiceState, Started,
};
use pilab::model::id::{ContainerName, DeploymentName};
use pilab::model::workload::{ContainerEnd, PullPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, watch};

#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<String, ManagedService>,
    images: BTreeSet<String>,
    hanging_images: BTreeSet<String>,
    list_hangs: bool,
    made: u64,
    journal: Vec<String>,
}

impl Fake {
    pub(crate) fn with_images(images: &[&str]) -> Self {
        let images = images.iter().map(|&image| image.to_owned()).collect();
        let state = State { images, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(watch::channel(0).0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let result = act(&mut self.state());
        self.changed.send_modify(|changes| *changes += 1);
        result
    }

    /// Container ids by `deployment/service`.
    pub(crate) fn ids(&self) -> BTreeMap<String, String> {
        let state = self.state();
        state.containers.values().map(|c| (format!("{}/{}", c.deployment, c.name), c.id.clone())).collect()
    }

    pub(crate) fn journal(&self) -> Vec<String> {
        self.state().journal.clone()
    }

    pub(crate) fn add_image(&self, image: &str) {
        self.change(|state| state.images.insert(image.to_owned()));
    }

    pub(crate) fn hang_image(&self, image: &str) {
        self.change(|state| state.hanging_images.insert(image.to_owned()));
    }

    pub(crate) fn hang_list(&self) {
        self.change(|state| state.list_hangs = true);
    }

    /// Puts a container there that an earlier agent made.
    pub(crate) fn place(&self, deployment: &str, service: &str, hash: &str) {
        let container = ManagedService {
            id: format!("placed-{deployment}-{service}"),
            deployment: DeploymentName::new(deployment).unwrap(),
            name: ContainerName::new(service).unwrap(),
            hash: hash.into(),
            image: "localhost/old:1".into(),
            state: ServiceState::Running,
            started_at: 0,
        };
        self.change(|state| state.containers.insert(container.id.clone(), container));
    }

    fn id(&self, deployment: &str, service: &str) -> String {
        self.ids()[&format!("{deployment}/{service}")].clone()
    }

    pub(crate) fn end(&self, deployment: &str, service: &str, code: i32) {
        let id = self.id(deployment, service);
        self.change(|state| state.containers.get_mut(&id).unwrap().state = ServiceState::Exited { code });
    }

    pub(crate) fn remove_behind(&self, deployment: &str, service: &str) {
        let id = self.id(deployment, service);
        self.change(|state| state.containers.remove(&id));
    }

    /// Waits until the containers are as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&BTreeMap<String, String>) -> bool) {
        self.wait(|| wanted(&self.ids())).await;
    }

    /// Waits until the last act begins with `word`.
    pub(crate) async fn until_journal(&self, word: &str) {
        self.wait(|| self.journal().last().is_some_and(|last| last.starts_with(word))).await;
    }

    async fn wait(&self, wanted: impl Fn() -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = changed.wait_for(|_| wanted());
        if tokio::time::timeout(Duration::from_secs(20), waiting).await.is_err() {
            panic!("not in 20 s; containers {:?}, journal {:?}", self.ids(), self.journal());
        }
    }
}

impl ContainerRuntime for Fake {
    async fn list_managed_services(&self) -> Result<Vec<ManagedService>, RuntimeError> {
        if self.state().list_hangs {
            std::future::pending::<()>().await;
        }
        Ok(self.state().containers.values().cloned().collect())
    }

    async fn ensure_image(
        &self,
        image: &str,
        _: PullPolicy,
        _: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<(), RuntimeError> {
        if self.state().hanging_images.contains(image) {
            std::future::pending::<()>().await;
        }
        if self.state().images.contains(image) {
            return Ok(());
        }
        Err(RuntimeError::ImageMissing { image: image.to_owned(), cause: "not there".into() })
    }

    async fn create(&self, spec: &ServiceSpec) -> Result<Started, RuntimeError> {
        Ok(self.change(|state| {
            state.made += 1;
            let id = format!("c{}", state.made);
            state.journal.push(format!("create {id} {}", spec.name));
            let container = ManagedService {
                id: id.clone(),
                deployment: spec.deployment.clone(),
                name: spec.name.clone(),
                hash: spec.hash.clone(),
                image: spec.image.clone(),
                state: ServiceState::Running,
                started_at: 0,
            };
            state.containers.insert(id.clone(), container);
            Started { id, limits_not_enforced: Vec::new() }
        }))
    }

    async fn run_to_completion(&self, _: &InitSpec, _: Duration) -> Result<Completed, RuntimeError> {
        Ok(Completed { outcome: RunOutcome::Exited { exit_code: 0 }, end: ContainerEnd::default() })
    }

    async fn clear_init_containers(
        &self,
        _: &DeploymentName,
    ) -> Result<Vec<(ContainerName, ContainerEnd)>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn end_of(&self, _: &str) -> Result<Option<ContainerEnd>, RuntimeError> {
        Ok(None)
    }

    async fn check_health(&self, _: &str, _: Duration) -> Result<(bool, String), RuntimeError> {
        Ok((true, String::new()))
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.change(|state| {
            state.journal.push(format!("start {id}"));
            if let Some(container) = state.containers.get_mut(id) {
                container.state = ServiceState::Running;
            }
        });
        Ok(())
    }

    async fn stop(&self, id: &str, _grace: Duration) -> Result<(), RuntimeError> {
        self.change(|state| state.journal.push(format!("stop {id}")));
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.change(|state| {
            state.journal.push(format!("remove {id}"));
            state.containers.remove(id);
        });
        Ok(())
    }

    async fn logs(&self, _id: &str, _lines: usize) -> Result<String, RuntimeError> {
        Ok("first\nlast words\n\n".into())
    }

    async fn watch(&self, wake: &Notify) -> Result<(), RuntimeError> {
        let mut changed = self.changed.subscribe();
        while changed.changed().await.is_ok() {
            wake.notify_one();
        }
        Ok(())
    }
}
