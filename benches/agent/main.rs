//! Measures the device agent on this machine: the program as it ships (profile `agent`), a real nats-server and
//! a real podman, in the same run as bare podman.
//!
//! ```text
//! cargo bench --profile dev --features vm,agent,sim --bench agent [-- --write]
//! ```
//!
//! Prints a table; `--write` puts it into `docs/performance.md` as well. `PILAB_BENCH_QUICK=1` takes few samples,
//! `PILAB_BENCH_AGENT` names another program than the one that `lab/agent` builds. What is measured is the agent's
//! process: that this program itself is built without optimisation makes no figure smaller.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "who asked is told why there is no table")]

#[path = "../../tests/it/agent/away.rs"]
mod away;
#[path = "../shared/document.rs"]
mod document;
#[expect(dead_code, reason = "shared with the tests")]
#[path = "../../tests/it/agent/lab.rs"]
mod lab;
#[expect(dead_code, unused_macros, unused_imports, reason = "shared with the tests")]
#[path = "../../tests/it/podman_host.rs"]
mod podman_host;
mod suite;

/// Where the tests have the same module.
mod agent {
    pub(crate) use crate::lab;
}

use pilab::support::command::Command;
use std::path::{Path, PathBuf};
use std::time::Duration;
use suite::{Plan, table};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Called by `cargo test`, which asks for no measurement.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let quick = std::env::var_os("PILAB_BENCH_QUICK").is_some();
    let plan = Plan::new(program().await, quick);
    let Some(figures) = suite::run(&plan).await else {
        eprintln!("nothing was measured: podman, runc, busybox and nats-server are needed");
        return;
    };
    let text = table::markdown(&figures);
    document::tell("measured", &text);
}

/// The agent as it ships.
async fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("PILAB_BENCH_AGENT") {
        return program.into();
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/agent");
    let build = Command::new(build.to_str().unwrap()).arg(std::env::consts::ARCH);
    let output = build.timeout(Duration::from_secs(1800)).output().await.unwrap();
    let path = String::from_utf8(output).unwrap();
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path.trim())
}
