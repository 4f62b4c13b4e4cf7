//! From the beginning of a step to that of the next, less what the step itself took.

use crate::document::yes;
use crate::{percentile, pilab};
use serde_json::Value;
use std::path::Path;

pub(crate) async fn rows(dir: &Path, steps: usize) -> String {
    let lab = dir.join("lab.toml");
    std::fs::write(&lab, "name = \"bench\"\n[[pools]]\nname = \"box\"\nbackend = \"container\"\ncount = 1\n")
        .unwrap();
    let scenario = dir.join("pings.toml");
    let head = "summary = \"Many pings\"\nunder_test = \"agent\"\n[needs.dut]\n";
    std::fs::write(&scenario, head.to_owned() + &"[[steps]]\nping = { on = \"dut\" }\n".repeat(steps))
        .unwrap();
    let (lab, scenario) = (lab.to_str().unwrap(), scenario.to_str().unwrap());
    let args = ["run", scenario, "--lab", lab, "--on", "container", "--json"];
    let output = pilab(dir, &args).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let events: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    let of = |kind: &'static str| events.iter().filter(move |event| event["kind"] == kind);
    let at: Vec<f64> =
        of("step_started").map(|event| event["at"]["boot_ns"].as_u64().unwrap() as f64 / 1e6).collect();
    let took: Vec<f64> = of("step_ended").map(|event| event["took"].as_f64().unwrap() * 1e3).collect();
    let mut engine: Vec<f64> = at.windows(2).zip(&took).map(|(at, took)| at[1] - at[0] - took).collect();
    engine.sort_by(f64::total_cmp);
    let mut took = took;
    took.sort_by(f64::total_cmp);
    let (p50, p99) = (percentile(&engine, 50), percentile(&engine, 99));
    format!(
        "| a step of the engine (n {}) | p50 {p50:.2} ms, p99 {p99:.2} ms | < 5 ms | {} |\n\
         | a `ping` itself, agent's answer over NATS | p50 {:.2} ms, p99 {:.2} ms | | |\n",
        engine.len(),
        yes(p99 < 5.0),
        percentile(&took, 50),
        percentile(&took, 99),
    )
}
