//! Carries out the steps of one deployment.

use super::ports::{ContainerRuntime, RuntimeError, ServiceSpec};
use super::score::{Reason, Refusal};
use crate::model::workload::PullPolicy;
use crate::plan::reconcile::Step;
use crate::support::chain::Chain;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a container may take to end after it was asked to: podman's own default.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// Does what was planned for one deployment. All images come first: until they are there, nothing that
/// runs is touched. Stops at the first failure; the next plan starts from what is then seen.
pub async fn act<R: ContainerRuntime>(
    runtime: &R,
    services: &[ServiceSpec],
    steps: &[Step],
) -> Result<(), Refusal> {
    let creations = steps.iter().filter_map(|step| match step {
        Step::Create { service, .. } => services.iter().find(|spec| spec.name == *service),
        Step::Remove { .. } | Step::Start { .. } => None,
    });
    let images: BTreeSet<&str> = creations.map(|spec| spec.image.as_str()).collect();
    for image in images {
        runtime.ensure_image(image, PullPolicy::IfMissing, &|_| {}).await.map_err(|error| failure(&error))?;
    }
    for step in steps {
        match step {
            Step::Remove { id } => end(runtime, id).await,
            Step::Start { id } => runtime.start(id).await,
            Step::Create { service, replaces } => {
                let Some(spec) = services.iter().find(|spec| spec.name == *service) else { continue };
                replace(runtime, spec, replaces).await
            }
        }
        .map_err(|error| failure(&error))?;
    }
    Ok(())
}

async fn replace<R: ContainerRuntime>(
    runtime: &R,
    spec: &ServiceSpec,
    replaces: &[String],
) -> Result<(), RuntimeError> {
    for id in replaces {
        end(runtime, id).await?;
    }
    let id = runtime.create(spec).await?.id;
    tracing::info!(deployment = %spec.deployment, service = %spec.name, image = spec.image, id, "started");
    Ok(())
}

async fn end<R: ContainerRuntime>(runtime: &R, id: &str) -> Result<(), RuntimeError> {
    if let Err(error) = runtime.stop(id, STOP_GRACE).await {
        tracing::warn!(id, error = %Chain(&error), "cannot be stopped; removing it all the same");
    }
    runtime.remove(id).await?;
    tracing::info!(id, "removed");
    Ok(())
}

fn failure(error: &RuntimeError) -> Refusal {
    let reason = match error {
        RuntimeError::ImageMissing { .. } => Reason::ImageMissing,
        _ => Reason::RuntimeFailed,
    };
    Refusal { reason, message: Chain(error).to_string() }
}
