//! A container runtime with state, and faults on request.

use pilab::agent::ports::{
    Completed, ContainerRuntime, InitSpec, LeftOver, ManagedService, RunOutcome, RuntimeError, ServiceSpec,
    ServiceState, Started,
};
use pilab::model::id::{ContainerName, DeploymentName};
use pilab::model::workload::{ContainerEnd, PullPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

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
    /// Each look takes one of these permits before it sees anything.
    looks: Option<Arc<Semaphore>>,
    made: u64,
    journal: Vec<String>,
    /// Outcomes of init containers by name; those that are not here exit with 0.
    outcomes: BTreeMap<String, RunOutcome>,
    /// The init containers that are there, and of which deployment.
    inits: Vec<(DeploymentName, LeftOver)>,
    /// How long init containers take.
    inits_take: Duration,
    /// When each init container began, and when each service was made or started.
    begun: Vec<Instant>,
    /// Services end with this code as soon as they run.
    crash: Option<i32>,
    /// How many more calls that change something are answered before all of them hang.
    calls_left: Option<usize>,
}

/// What every container of this runtime wrote.
const LOG: &str = "first\nlast words\n\n";

impl State {
    /// What a service does that was started.
    fn runs(&self) -> ServiceState {
        self.crash.map_or(ServiceState::Running, |code| ServiceState::Exited { code })
    }
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

    /// What becomes of an init container of this name from now on.
    pub(crate) fn outcome(&self, init: &str, outcome: RunOutcome) {
        self.change(|state| state.outcomes.insert(init.to_owned(), outcome));
    }

    /// How long each init container takes from now on.
    pub(crate) fn slow_inits(&self, time: Duration) {
        self.change(|state| state.inits_take = time);
    }

    /// Whether services end with a code as soon as they run.
    pub(crate) fn crash(&self, code: Option<i32>) {
        self.change(|state| state.crash = code);
    }

    /// When each init container began, and when each service was made or started.
    pub(crate) fn begun(&self) -> Vec<Instant> {
        self.state().begun.clone()
    }

    /// From now on `calls` calls that change something are answered; the next ones hang before they change
    /// anything.
    pub(crate) fn freeze_after(&self, calls: usize) {
        self.change(|state| state.calls_left = Some(calls));
    }

    /// Calls are answered again.
    pub(crate) fn thaw(&self) {
        self.change(|state| state.calls_left = None);
    }

    /// Whether a call hangs.
    pub(crate) fn is_frozen(&self) -> bool {
        self.state().calls_left == Some(0)
    }

    /// How many init containers are there.
    pub(crate) fn left_over(&self) -> usize {
        self.state().inits.len()
    }

    /// The init containers that are there have been killed.
    pub(crate) fn kill_left_over(&self) {
        let end = ContainerEnd { exit_code: 137, signal: Some(9), ..ContainerEnd::default() };
        let outcome = RunOutcome::Exited { exit_code: 137 };
        self.change(|state| {
            for (_, init) in &mut state.inits {
                let (id, end) = (init.id.clone(), end.clone());
                init.completed = Some(Completed { id, outcome, end, image_id: String::new() });
            }
        });
    }

    /// The init containers that are there are removed, and nobody is told.
    pub(crate) fn lose_left_over(&self) {
        self.change(|state| state.inits.clear());
    }

    /// Takes one of the calls that are left, or hangs.
    async fn enter(&self) {
        let passes = self.change(|state| match &mut state.calls_left {
            None => true,
            Some(0) => false,
            Some(calls) => {
                *calls -= 1;
                true
            }
        });
        if !passes {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn hang_list(&self) {
        self.change(|state| state.list_hangs = true);
    }

    /// From now on a look sees what is there once it is let, with one permit.
    pub(crate) fn hold_looks(&self) -> Arc<Semaphore> {
        let looks = Arc::new(Semaphore::new(0));
        self.change(|state| state.looks = Some(Arc::clone(&looks)));
        looks
    }

    /// Puts a container there that an earlier agent made.
    pub(crate) fn place(&self, deployment: &str, service: &str, hash: &str) {
        let container = ManagedService {
            id: format!("placed-{deployment}-{service}"),
            deployment: DeploymentName::new(deployment).unwrap(),
            name: ContainerName::new(service).unwrap(),
            hash: hash.into(),
            image: "localhost/old:1".into(),
            image_id: String::new(),
            state: ServiceState::Running,
            started_at: 1,
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

    pub(crate) async fn wait(&self, wanted: impl Fn() -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = changed.wait_for(|_| wanted());
        if tokio::time::timeout(Duration::from_secs(20), waiting).await.is_err() {
            panic!("not in 20 s; containers {:?}, journal {:?}", self.ids(), self.journal());
        }
    }
}

impl ContainerRuntime for Fake {
    fn recall(&self, _: Vec<ManagedService>) {}

    async fn list_managed_services(&self) -> Result<Vec<ManagedService>, RuntimeError> {
        if self.state().list_hangs {
            std::future::pending::<()>().await;
        }
        let looks = self.state().looks.clone();
        if let Some(looks) = looks {
            looks.acquire().await.unwrap().forget();
        }
        Ok(self.state().containers.values().cloned().collect())
    }

    async fn ensure_image(
        &self,
        image: &str,
        _policy: PullPolicy,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<(), RuntimeError> {
        progress("looking");
        if self.state().hanging_images.contains(image) {
            std::future::pending::<()>().await;
        }
        if self.state().images.contains(image) {
            return Ok(());
        }
        Err(RuntimeError::ImageMissing { image: image.to_owned(), cause: "not there".into() })
    }

    async fn create(&self, spec: &ServiceSpec) -> Result<Started, RuntimeError> {
        self.enter().await;
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
                image_id: spec.image.clone(),
                state: state.runs(),
                started_at: state.made,
            };
            state.begun.push(Instant::now());
            state.containers.insert(id.clone(), container);
            Started { id, limits_not_enforced: Vec::new() }
        }))
    }

    async fn run_to_completion(&self, spec: &InitSpec, timeout: Duration) -> Result<Completed, RuntimeError> {
        assert_eq!(timeout, spec.timeout);
        let id = self.change(|state| {
            state.journal.push(format!("init {}", spec.name));
            state.made += 1;
            let id = format!("i{}", state.made);
            let init = LeftOver { id: id.clone(), name: spec.name.clone(), completed: None };
            state.inits.push((spec.deployment.clone(), init));
            state.begun.push(Instant::now());
            id
        });
        self.enter().await;
        let time = self.state().inits_take;
        tokio::time::sleep(time).await;
        Ok(self.change(|state| {
            let outcome = state.outcomes.get(spec.name.as_str()).copied();
            let outcome = outcome.unwrap_or(RunOutcome::Exited { exit_code: 0 });
            let (exit_code, timed_out) = match outcome {
                RunOutcome::Exited { exit_code } => (exit_code, false),
                RunOutcome::TimedOut { .. } => (-1, true),
                RunOutcome::Lost => (-1, false),
            };
            state.journal.push(format!("init {} ended {exit_code}", spec.name));
            let end = ContainerEnd { exit_code, timed_out, log_tail: LOG.into(), ..ContainerEnd::default() };
            let completed = Completed { id, outcome, end, image_id: spec.image.clone() };
            for (_, init) in state.inits.iter_mut().filter(|(_, init)| init.id == completed.id) {
                init.completed = Some(completed.clone());
            }
            completed
        }))
    }

    async fn list_init_containers(&self, deployment: &DeploymentName) -> Result<Vec<LeftOver>, RuntimeError> {
        let state = self.state();
        let of = state.inits.iter().filter(|(of, _)| of == deployment);
        Ok(of.map(|(_, init)| init.clone()).collect())
    }

    async fn end_of(&self, id: &str) -> Result<Option<ContainerEnd>, RuntimeError> {
        let state = self.state().containers.get(id).map(|container| container.state.clone());
        Ok(state.map(|state| ContainerEnd {
            exit_code: if let ServiceState::Exited { code } = state { code } else { 0 },
            log_tail: LOG.into(),
            ..ContainerEnd::default()
        }))
    }

    async fn check_health(&self, _id: &str, _timeout: Duration) -> Result<(bool, String), RuntimeError> {
        Ok((true, String::new()))
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.enter().await;
        self.change(|state| {
            state.journal.push(format!("start {id}"));
            state.begun.push(Instant::now());
            let runs = state.runs();
            if let Some(container) = state.containers.get_mut(id) {
                container.state = runs;
                container.started_at += 1;
            }
        });
        Ok(())
    }

    async fn stop(&self, id: &str) -> Result<(), RuntimeError> {
        self.enter().await;
        self.change(|state| state.journal.push(format!("stop {id}")));
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.enter().await;
        self.change(|state| {
            state.journal.push(format!("remove {id}"));
            state.containers.remove(id);
            state.inits.retain(|(_, init)| init.id != id);
        });
        Ok(())
    }

    async fn logs(&self, _id: &str, _lines: usize) -> Result<String, RuntimeError> {
        Ok(LOG.into())
    }

    async fn watch(&self, wake: &Notify) -> Result<(), RuntimeError> {
        let mut changed = self.changed.subscribe();
        while changed.changed().await.is_ok() {
            wake.notify_one();
        }
        Ok(())
    }
}
