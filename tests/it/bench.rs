//! The measurements of `benches/agent` still work: a few samples of each, with the agent of this build. How
//! long anything takes is not judged here.

use std::path::PathBuf;

#[path = "../../benches/agent/suite/mod.rs"]
mod suite;

#[tokio::test]
async fn every_figure_is_measured() {
    let Some(figures) =
        suite::run(&suite::Plan::new(PathBuf::from(env!("CARGO_BIN_EXE_pilab-agent")), true)).await
    else {
        return;
    };
    assert!(!figures.idle.forked, "the agent starts no process");
    let text = suite::table::markdown(&figures);
    assert_eq!(text.lines().filter(|line| line.starts_with("| ")).count(), 12 + 3, "{text}");
}
