//! Carries out the steps of one deployment: images, then init containers, then services.
//!
//! ```text
//!  images of what is to be made ──► left-over of a broken-off init container looked at and removed
//!    ──► each init container that has not succeeded in this set and boot, in order ──► services
//! ```
//!
//! Until the last init container has succeeded, nothing that runs is touched. The first failure ends the
//! act; the next plan starts from what is then seen, and from the ledger.
//!
//! An init container goes only after its end is in the ledger, however it ended. So an agent that is killed at any
//! point finds the end in the one or the other: what has succeeded is not run again, and what has failed counts as
//! a try, which the ledger says until it has been answered. Services that are made anew because they fail go only after what is known of them is in the ledger, too.

use super::ledger::Ledger;
use super::ports::{Completed, ContainerRuntime, InitSpec, LeftOver, RunOutcome, RuntimeError, ServiceSpec};
use super::score::{Reason, Refusal};
use super::store::Store;
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::{ContainerEnd, PullPolicy};
use crate::plan::reconcile::Step;
use crate::support::chain::Chain;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// What is to be done for one deployment.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) deployment: DeploymentName,
    pub(super) services: Vec<ServiceSpec>,
    pub(super) inits: Vec<InitSpec>,
    pub(super) steps: Vec<Step>,
    /// The services' containers that go because they fail, by their ids.
    pub(super) failing: BTreeMap<String, ContainerName>,
    /// Hash of the whole set, and the boot of the device.
    pub(super) set: String,
    pub(super) boot_id: String,
    /// It is what a failed change goes back to, not what is wanted.
    pub(super) undo: bool,
    /// Owned by the act while it lasts.
    pub(super) ledger: Ledger,
}

impl Work {
    /// Going back takes the images that ran then: fetching would bring what a name stands for today, or fail
    /// where the registry is away. Without a record of them (ledgers of earlier agents) it takes what has the
    /// name on the device.
    fn pin(&mut self) {
        let images = &self.ledger.good_images;
        for service in &mut self.services {
            service.pull = PullPolicy::Never;
            if let Some(id) = images.get(&service.name) {
                service.image.clone_from(id);
            }
        }
        for init in &mut self.inits {
            if let Some(id) = images.get(&init.name) {
                init.image.clone_from(id);
            }
        }
    }
}

/// How an act is getting on.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) deployment: DeploymentName,
    pub(super) ledger: Ledger,
    /// One line for people, and the cause when it tells of a failure.
    pub(super) line: String,
    pub(super) reason: Option<Reason>,
}

/// An init container or service could not be brought to where it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterpretError {
    /// The init container ended by itself, and not with code 0.
    #[error("init container {container} exited with code {exit_code}{}", words(last_words))]
    InitContainerFailed {
        /// Which.
        container: ContainerName,
        /// Its exit code.
        exit_code: i32,
        /// The last line it wrote; empty when it wrote none.
        last_words: String,
    },
    /// The init container's time was up.
    #[error("init container {container} did not end within {} s{}", waited.as_secs(), words(last_words))]
    InitContainerTimedOut {
        /// Which.
        container: ContainerName,
        /// How long it was waited for.
        waited: Duration,
        /// The last line it wrote; empty when it wrote none.
        last_words: String,
    },
    /// The container could not be run at all.
    #[error("{container}: {cause}")]
    Runtime {
        /// Which; the deployment's name where no one container is to blame.
        container: String,
        /// The kind of the cause.
        reason: Reason,
        /// The cause, one line.
        cause: String,
        /// Whether the runtime refused this very container, rather than not being there or not answering.
        refused: bool,
    },
    /// What was done could not be kept on disk.
    #[error("cannot keep the ledger: {cause}")]
    Ledger {
        /// Why, one line.
        cause: String,
    },
}

impl InterpretError {
    /// Whether trying the same set again is to no purpose while there is a good one to go back to.
    pub(super) fn condemns(&self) -> bool {
        match self {
            Self::InitContainerFailed { .. } | Self::InitContainerTimedOut { .. } => true,
            Self::Runtime { refused, .. } => *refused,
            Self::Ledger { .. } => false,
        }
    }

    /// Its form in a status.
    pub(super) fn refusal(&self) -> Refusal {
        let reason = match self {
            Self::InitContainerFailed { .. } => Reason::InitContainerFailed,
            Self::InitContainerTimedOut { .. } => Reason::InitContainerTimedOut,
            Self::Runtime { reason, .. } => *reason,
            Self::Ledger { .. } => Reason::RuntimeFailed,
        };
        Refusal { reason, message: self.to_string() }
    }
}

/// Last words behind what they belong to.
pub(super) fn words(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!(": {last}") }
}

/// The last line that a container wrote and that says something, cut to a message's length.
pub(super) fn last_words(end: &ContainerEnd) -> String {
    let line = end.log_tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.chars().take(200).collect()
}

/// One act. It owns the ledger and hands it back.
pub(super) struct Act<'a, R> {
    pub(super) runtime: &'a R,
    pub(super) store: &'a Store,
    pub(super) progress: &'a mpsc::Sender<Progress>,
}

impl<R: ContainerRuntime> Act<'_, R> {
    /// Does what was planned.
    pub(super) async fn run(&self, mut work: Work) -> (Ledger, Result<(), InterpretError>) {
        if work.undo {
            work.pin();
        }
        let done = self.all(&mut work).await;
        (work.ledger, done)
    }

    async fn all(&self, work: &mut Work) -> Result<(), InterpretError> {
        let made = |name: &ContainerName| {
            work.steps.iter().any(|step| matches!(step, Step::Create { service, .. } if service == name))
        };
        let starts = work.steps.iter().any(|step| matches!(step, Step::Create { .. } | Step::Start { .. }));
        let goes_on = work.ledger.inits.is_of(&work.set, &work.boot_id);
        if starts {
            // What is gone back to is told with how the failed change ended.
            if work.ledger.inits.set != work.set && !work.undo {
                let stays = |name: &ContainerName| {
                    work.services.iter().any(|service| service.name == *name) && !made(name)
                };
                work.ledger.ends.retain(|name, _| stays(name));
            }
            work.ledger.inits.enter(&work.set, &work.boot_id);
            let inits = work.inits.iter().filter(|init| !work.ledger.inits.has_done(&init.name));
            let policy = if work.undo { PullPolicy::Never } else { PullPolicy::IfMissing };
            let mut images: BTreeMap<String, PullPolicy> =
                inits.map(|init| (init.image.clone(), policy)).collect();
            for service in work.services.iter().filter(|service| made(&service.name)) {
                images.insert(service.image.clone(), service.pull);
            }
            for (image, policy) in images {
                self.image(work, &image, policy).await?;
            }
        }
        let failed = self.clear(work, goes_on).await?;
        if starts {
            failed.map_or(Ok(()), Err)?;
            for at in 0..work.inits.len() {
                self.init(work, at).await?;
            }
        }
        let steps = std::mem::take(&mut work.steps);
        for step in &steps {
            self.step(work, step).await?;
        }
        Ok(())
    }

    async fn image(&self, work: &Work, image: &str, policy: PullPolicy) -> Result<(), InterpretError> {
        let tell = |line: &str| {
            let progress = Progress {
                deployment: work.deployment.clone(),
                ledger: work.ledger.clone(),
                line: format!("fetching {image}: {}", line.trim()),
                reason: None,
            };
            // A line that finds the queue full is followed by others.
            let _ = self.progress.try_send(progress);
        };
        let there = self.runtime.ensure_image(image, policy, &tell).await;
        there.map_err(|error| failure(work.deployment.as_str(), &error))
    }

    /// Removes what an act that was broken off left of an init container. If this act goes on where the other was,
    /// what came of it counts: a success as such, and a failure, which is answered, as that of this try.
    /// One that has not ended runs again from its start.
    async fn clear(&self, work: &mut Work, goes_on: bool) -> Result<Option<InterpretError>, InterpretError> {
        let Some(broken_off) = work.ledger.inits.running.clone() else { return Ok(None) };
        let runtime = |error| failure(broken_off.as_str(), &error);
        let left_over = self.runtime.list_init_containers(&work.deployment).await.map_err(runtime)?;
        let Ledger { inits, ends, .. } = &work.ledger;
        let counts = goes_on && !inits.abandoned;
        let known = inits.failed.filter(|_| goes_on).zip(ends.get(&broken_off));
        let mut failed = known.and_then(|(outcome, end)| verdict(&broken_off, outcome, end));
        for LeftOver { name, completed, .. } in &left_over {
            let Some(completed) = completed else {
                work.ledger.inits.abandoned = true;
                continue;
            };
            if counts && failed.is_none() && *name == broken_off && !work.ledger.inits.has_done(name) {
                failed = verdict(name, completed.outcome, &completed.end);
                work.ledger.inits.ended(name, completed, failed.is_none());
            }
            work.ledger.ends.insert(name.clone(), completed.end.clone());
        }
        self.keep(work)?;
        for LeftOver { id, .. } in &left_over {
            self.runtime.remove(id).await.map_err(runtime)?;
        }
        work.ledger.inits.cleared();
        if failed.is_none() {
            self.keep(work)?;
        }
        Ok(failed)
    }

    async fn init(&self, work: &mut Work, at: usize) -> Result<(), InterpretError> {
        let Some(spec) = work.inits.get(at).cloned() else { return Ok(()) };
        if work.ledger.inits.has_done(&spec.name) {
            return Ok(());
        }
        work.ledger.inits.begin(&spec.name);
        self.keep(work)?;
        let (number, count) = (at + 1, work.inits.len());
        self.tell(work, format!("init container {number} of {count}: {}", spec.name), None).await;
        let ran = self.runtime.run_to_completion(&spec, spec.timeout).await;
        let ran = ran.map_err(|error| failure(spec.name.as_str(), &error))?;
        let failed = verdict(&spec.name, ran.outcome, &ran.end);
        work.ledger.inits.ended(&spec.name, &ran, failed.is_none());
        let Completed { id, outcome, end, .. } = ran;
        work.ledger.ends.insert(spec.name.clone(), end);
        if failed.is_none() {
            tracing::info!(deployment = %work.deployment, container = %spec.name, "init container completed");
        }
        self.keep(work)?;
        // podman may take seconds to remove it.
        if let (RunOutcome::Lost, Some(error)) = (outcome, &failed) {
            let Refusal { reason, message } = error.refusal();
            self.tell(work, message, Some(reason)).await;
        }
        let removed = self.runtime.remove(&id).await;
        removed.map_err(|error| failure(spec.name.as_str(), &error))?;
        work.ledger.inits.cleared();
        // The next one's beginning is kept anyway, and so is the answer to a failure.
        if failed.is_none() && number == count {
            self.keep(work)?;
        }
        failed.map_or(Ok(()), Err)
    }

    async fn step(&self, work: &mut Work, step: &Step) -> Result<(), InterpretError> {
        match step {
            Step::Remove { id } => {
                self.keep_evidence(work, id).await?;
                let ended = self.end(id).await;
                ended.map_err(|error| failure(work.deployment.as_str(), &error))
            }
            Step::Discard { id } => {
                tracing::warn!(deployment = %work.deployment, id, "the runtime lost it; removing it");
                self.keep_evidence(work, id).await?;
                let removed = self.runtime.remove(id).await;
                removed.map_err(|error| failure(work.deployment.as_str(), &error))
            }
            Step::Start { id } => {
                let started = self.runtime.start(id).await;
                started.map_err(|error| failure(work.deployment.as_str(), &error))
            }
            Step::Create { service, replaces } => {
                for id in replaces {
                    self.keep_evidence(work, id).await?;
                }
                let Some(spec) = work.services.iter().find(|spec| spec.name == *service) else {
                    return Ok(());
                };
                let created = self.replace(spec, replaces).await;
                let limits = created.map_err(|error| failure(service.as_str(), &error))?;
                let others = |line: &String| !line.starts_with(&format!("{service}: "));
                work.ledger.limits_not_enforced.retain(others);
                let limits = limits.into_iter().map(|limit| format!("{service}: {limit}"));
                work.ledger.limits_not_enforced.extend(limits);
                self.keep(work)
            }
        }
    }

    /// Puts what is known of a container that goes because it fails into the ledger.
    async fn keep_evidence(&self, work: &mut Work, id: &str) -> Result<(), InterpretError> {
        let Some(name) = work.failing.remove(id) else { return Ok(()) };
        match self.runtime.end_of(id).await {
            Ok(Some(end)) => {
                work.ledger.ends.insert(name, end);
                self.keep(work)
            }
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::warn!(id, error = %Chain(&error), "nothing can be read of a container that goes");
                Ok(())
            }
        }
    }

    /// Answers the limits that are not enforced.
    async fn replace(&self, spec: &ServiceSpec, replaces: &[String]) -> Result<Vec<String>, RuntimeError> {
        for id in replaces {
            self.end(id).await?;
        }
        let started = self.runtime.create(spec).await?;
        let (image, id) = (&spec.image, started.id);
        tracing::info!(deployment = %spec.deployment, service = %spec.name, image, id, "started");
        Ok(started.limits_not_enforced)
    }

    async fn end(&self, id: &str) -> Result<(), RuntimeError> {
        if let Err(error) = self.runtime.stop(id).await {
            tracing::warn!(id, error = %Chain(&error), "cannot be stopped; removing it all the same");
        }
        self.runtime.remove(id).await?;
        tracing::info!(id, "removed");
        Ok(())
    }

    fn keep(&self, work: &Work) -> Result<(), InterpretError> {
        let kept = self.store.put_ledger(&work.deployment, &work.ledger);
        kept.map_err(|error| InterpretError::Ledger { cause: Chain(&error).to_string() })
    }

    async fn tell(&self, work: &Work, line: String, reason: Option<Reason>) {
        let (deployment, ledger) = (work.deployment.clone(), work.ledger.clone());
        // The reconciler is gone only when the agent ends.
        let _ = self.progress.send(Progress { deployment, ledger, line, reason }).await;
    }
}

/// What makes what came of an init container a failure, if it is one.
fn verdict(name: &ContainerName, outcome: RunOutcome, end: &ContainerEnd) -> Option<InterpretError> {
    let (container, last_words) = (name.clone(), last_words(end));
    match outcome {
        RunOutcome::Exited { exit_code: 0 } => None,
        RunOutcome::Exited { exit_code } => {
            Some(InterpretError::InitContainerFailed { container, exit_code, last_words })
        }
        RunOutcome::TimedOut { waited } => {
            Some(InterpretError::InitContainerTimedOut { container, waited, last_words })
        }
        RunOutcome::Lost => {
            let lost = RuntimeError::RuntimeLost { container: name.to_string() };
            Some(failure(name.as_str(), &lost))
        }
    }
}

fn failure(container: &str, error: &RuntimeError) -> InterpretError {
    let (reason, refused) = match error {
        RuntimeError::ImageMissing { .. } => (Reason::ImageMissing, false),
        RuntimeError::RuntimeLost { .. } => (Reason::RuntimeLost, false),
        RuntimeError::Refused { .. } => (Reason::RuntimeFailed, true),
        _ => (Reason::RuntimeFailed, false),
    };
    let cause = Chain(error).to_string();
    InterpretError::Runtime { container: container.to_owned(), reason, cause, refused }
}
