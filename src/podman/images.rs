//! Images: whether they are there, and how they are fetched.

use super::api::PullLine;
use super::http::{Answer, Call};
use super::topology::{PodmanTopology, problem, succeeded};
use crate::agent::ports::RuntimeError;
use crate::model::workload::PullPolicy;
use hyper::{Method, StatusCode};
use std::time::Duration;

/// How long fetching an image may take.
#[derive(Debug, Clone, Copy)]
pub struct PullTimes {
    /// In all.
    pub whole: Duration,
    /// Until podman begins to: it tries a registry that does not answer several times. Within a layer it says nothing,
    /// so later silence means nothing.
    pub begins: Duration,
}

impl Default for PullTimes {
    fn default() -> Self {
        Self { whole: Duration::from_secs(600), begins: Duration::from_secs(60) }
    }
}

/// The longest line of podman's answer that is read, in bytes.
const MAX_LINE: usize = 64 * 1024;
/// The longest error text kept, in characters.
const MAX_CAUSE: usize = 500;

/// Makes sure of an image; see the port.
pub(super) async fn ensure(
    podman: &PodmanTopology,
    image: &str,
    policy: PullPolicy,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), RuntimeError> {
    let there = exists(podman, image).await?;
    match policy {
        PullPolicy::IfMissing if there => Ok(()),
        PullPolicy::Never if there => Ok(()),
        PullPolicy::Never => Err(missing(image, "it is not on the device, and must not be fetched")),
        PullPolicy::IfMissing | PullPolicy::Always if can_be_fetched(image) => {
            match pull(podman, image, progress).await {
                Err(error) if there => {
                    progress(&format!("{error}; what is on the device is used"));
                    Ok(())
                }
                done => done,
            }
        }
        // Made here or loaded onto the device: there is nowhere to fetch it from.
        PullPolicy::Always if there => Ok(()),
        PullPolicy::IfMissing | PullPolicy::Always => {
            Err(missing(image, "it is not on the device, and its name does not say where to fetch it from"))
        }
    }
}

fn missing(image: &str, cause: &str) -> RuntimeError {
    RuntimeError::ImageMissing { image: image.to_owned(), cause: cause.chars().take(MAX_CAUSE).collect() }
}

/// Only a first part that is a host can be fetched from; `localhost` alone means made here.
fn can_be_fetched(image: &str) -> bool {
    image.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']))
}

async fn exists(podman: &PodmanTopology, image: &str) -> Result<bool, RuntimeError> {
    let operation = format!("look for image {image}");
    let answer = podman.call(Method::GET, format!("/images/{image}/exists"), operation.clone()).await?;
    match answer.status {
        StatusCode::NOT_FOUND => Ok(false),
        _ => succeeded(&answer, &operation).map(|()| true),
    }
}

/// Fetches an image. A failure is an answer with status 200 and an error among its lines.
async fn pull(
    podman: &PodmanTopology,
    image: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), RuntimeError> {
    let operation = format!("pull image {image}");
    let call = Call {
        operation: operation.clone(),
        method: Method::POST,
        path: format!("/images/pull?quiet=false&reference={image}"),
        body: Vec::new(),
        timeout: podman.pull.begins,
    };
    let mut line = Vec::new();
    let mut error = String::new();
    let mut read = |line: &[u8]| {
        let Ok(said) = serde_json::from_slice::<PullLine>(line) else { return };
        if !said.error.is_empty() {
            error = said.error;
        }
        let text = said.stream.trim();
        if !text.is_empty() {
            progress(text);
        }
    };
    let mut unread = Vec::new();
    let stream = podman.socket.stream(call, |piece| {
        for byte in piece {
            if *byte == b'\n' {
                read(&line);
                line.clear();
            } else if line.len() < MAX_LINE {
                line.push(*byte);
            }
        }
        if unread.len() < MAX_LINE {
            unread.extend_from_slice(piece);
        }
        Ok(())
    });
    let whole = podman.pull.whole;
    let timed_out = RuntimeError::TimedOut { operation, timeout: whole };
    let status = tokio::time::timeout(whole, stream).await.map_err(|_| timed_out)??;
    read(&line);
    if !error.is_empty() {
        return Err(missing(image, &error));
    }
    if status.is_success() {
        return Ok(());
    }
    Err(missing(image, &problem(&Answer { status, body: unread })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_can_be_fetched_from() {
        for image in ["registry.example/a:1", "127.0.0.1:5000/a", "localhost:5000/a"] {
            assert!(can_be_fetched(image), "{image}");
        }
        for image in ["localhost/a:1", "library/a", "a", "a:1.2"] {
            assert!(!can_be_fetched(image), "{image}");
        }
    }
}
