//! A registry of one image, as much of the OCI distribution specification as a pull takes. The image is a directory
//! in the OCI layout and can be put in another's place.

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The registry. It ends when it is dropped.
pub struct Registry {
    port: u16,
    state: Arc<Mutex<State>>,
    _stop: DropGuard,
}

#[derive(Default)]
struct State {
    layout: PathBuf,
    asked: usize,
}

impl Registry {
    /// Starts one on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, stop) = (listener.local_addr().unwrap().port(), CancellationToken::new());
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let app = Router::new().fallback(move |uri: Uri| async move { answer(&shared, uri.path()) });
        let serve = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
        TaskTracker::new().spawn(async move { serve.await.unwrap() });
        Self { port, state, _stop: stop.drop_guard() }
    }

    /// From now on the image is the one in this directory.
    pub fn offer(&self, layout: &Path) {
        self.state.lock().unwrap().layout = layout.to_owned();
    }

    /// The image's name.
    pub fn image(&self) -> String {
        format!("127.0.0.1:{}/web:1", self.port)
    }

    /// How many requests there were.
    pub fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    /// registries.conf(5) for it: it speaks HTTP.
    pub fn config(&self) -> String {
        format!("[[registry]]\nlocation = \"127.0.0.1:{}\"\ninsecure = true\n", self.port)
    }
}

fn answer(state: &Mutex<State>, path: &str) -> Response {
    let mut state = state.lock().unwrap();
    state.asked += 1;
    let blob = |digest: &str| std::fs::read(state.layout.join("blobs").join(digest.replace(':', "/"))).ok();
    let manifest = |tag: &str| {
        let index: Value =
            serde_json::from_slice(&std::fs::read(state.layout.join("index.json")).ok()?).ok()?;
        let of_tag = index["manifests"][0]["digest"].as_str()?.to_owned();
        let digest = if tag.starts_with("sha256:") { tag.to_owned() } else { of_tag };
        let kind = "application/vnd.oci.image.manifest.v1+json".to_owned();
        Some((
            [(header::CONTENT_TYPE.as_str(), kind), ("docker-content-digest", digest.clone())],
            blob(&digest)?,
        ))
    };
    let found = match path.rsplit_once('/') {
        Some(("/v2", "")) => Some(StatusCode::OK.into_response()),
        Some(("/v2/web/manifests", tag)) => manifest(tag).map(IntoResponse::into_response),
        Some(("/v2/web/blobs", digest)) => blob(digest).map(IntoResponse::into_response),
        _ => None,
    };
    found.unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}
