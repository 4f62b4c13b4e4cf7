//! What comes from outside, damaged: every decoder of the wire answers or refuses, and never panics.
//!
//! Good payloads are changed step by step, at random, from a seed that a failure names. `tests/run` makes some thousands
//! of them; a longer hunt:
//!
//! ```sh
//! PILAB_FUZZ_SECONDS=600 cargo nextest run --features vm,agent,sim --test it -E 'test(fuzz)' --no-capture
//! ```

use pilab::agent::score;
use pilab::model::identity::Identity;
use pilab::model::ledger::Record;
use pilab::model::workload::{Index, Presence, Status};
use pilab::wire::console::{ConsoleChunk, ConsoleRead, ConsoleWrite};
use pilab::wire::deploying::Deploy;
use pilab::wire::fleet::{ExecRequest, LogsRequest, Pong};
use pilab::wire::lending::{Extend, LeaseAsked, Power, Reserve};
use pilab::wire::request::{BundleRead, EventsRequest, RunRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use tokio::time::Instant;

/// How many damaged payloads are tried when no time is given.
const ROUNDS: usize = 20_000;
/// The seed, so that each run of the tests tries the same. With a time given, the next ones follow.
const SEED: u64 = 1;
/// The longest payload that is made, in bytes: larger ones are refused by their length.
const MAX_LEN: usize = 64 * 1024;

/// What has made parsers fall over, as pieces to put in.
const PIECES: [&[u8]; 12] = [
    b"{",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\"",
    b"\\ud800",
    b"\\u0000",
    b"\0",
    b"\xff\xfe",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"null",
    b",",
];

fn corpus() -> Vec<Vec<u8>> {
    let token = json!({ "epoch": 1, "sequence": 3 });
    let service = json!({
        "name": "web", "image": "localhost/web:1", "args": ["-v"], "env": { "A": "b" },
        "volumes": ["/srv:/srv:ro", "data:/data"], "ports": ["127.0.0.1:8080:80/tcp", "[::1]:53:53/udp"],
        "restart": "always", "limits": { "memory": 67_108_864, "cpu_millis": 500, "pids": 20 },
        "health": { "command": ["true"], "interval": 5, "timeout": 2, "retries": 3, "start_period": 0 },
        "stop_timeout": 10, "pull": "if-missing"
    });
    let init = json!({ "name": "migrate", "image": "localhost/m:1", "timeout": 30 });
    let data = json!({ "init_containers": [init], "services": [service], "probation": 10 });
    let desired = json!({
        "version": 1, "generation": 2, "token": token, "score": { "type": "PodmanV0", "data": data }
    });
    let values = [
        desired,
        json!({ "version": 1, "deployments": { "web": 2, "db": 7 } }),
        json!({ "version": 1, "device": "lab-vm-1", "attempt": 2, "nats_url": "nats://192.0.2.1:4222" }),
        json!({ "deployment": "web", "container": "hello", "from": 0, "wait_ms": 100 }),
        json!({ "deployment": "web", "container": "hello", "command": ["id"], "timeout": 5 }),
        json!({ "version": 1, "run": "ping-1-1", "from": 3 }),
        json!({
            "version": 1, "id": "l-1", "purpose": "p", "duration": { "secs": 60, "nanos": 0 }, "priority": "normal",
            "hold_by_process": null, "start_ms": null, "no_wait": false,
            "needs": [{ "role": "dut", "device": "lab-vm-1", "model": "vm-aarch64", "labels": { "a": "b" } }]
        }),
        json!({ "device": "lab-vm-1", "act": "cycle", "force": "why" }),
        json!({ "device": "lab-vm-1", "from": { "offset": 7 } }),
        json!({ "device": "lab-vm-1", "bytes": "AP8K" }),
        json!({ "lease": "l-1", "longer": { "secs": 60, "nanos": 0 } }),
    ];
    values.iter().map(|value: &Value| value.to_string().into_bytes()).collect()
}

/// One step of damage.
fn damage(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    match random.random_range(0..7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = random.random(),
        2 => bytes.truncate(at),
        3 => {
            let piece = PIECES[random.random_range(0..PIECES.len())];
            bytes.splice(at..at, piece.iter().copied());
        }
        4 => {
            let end = random.random_range(at..=bytes.len());
            bytes.drain(at..end);
        }
        5 => {
            let other = &corpus[random.random_range(0..corpus.len())];
            let from = random.random_range(0..other.len());
            bytes.splice(at.., other[from..].iter().copied());
        }
        _ => {
            // The same again and again: long lists, deep nests.
            let end = random.random_range(at..=bytes.len());
            let part = bytes[at..end].to_vec();
            for _ in 0..random.random_range(1..40) {
                bytes.splice(at..at, part.iter().copied());
            }
        }
    }
    bytes.truncate(MAX_LEN);
}

fn reads<T: DeserializeOwned>(bytes: &[u8]) {
    let _ = serde_json::from_slice::<T>(bytes);
}

/// All decoders: whatever they are given, they answer.
fn decode(bytes: &[u8]) {
    if let Ok(desired) = score::decode(bytes) {
        // What was let through can be worked with.
        let name = pilab::model::id::DeploymentName::new("web").unwrap();
        score::services(&name, &desired);
        let again = serde_json::to_vec(&desired).unwrap();
        assert_eq!(score::decode(&again).unwrap(), desired, "what is written reads back");
    }
    reads::<Index>(bytes);
    reads::<Status>(bytes);
    reads::<Presence>(bytes);
    reads::<Identity>(bytes);
    reads::<Pong>(bytes);
    reads::<LogsRequest>(bytes);
    reads::<ExecRequest>(bytes);
    reads::<RunRequest>(bytes);
    reads::<EventsRequest>(bytes);
    reads::<BundleRead>(bytes);
    reads::<Reserve>(bytes);
    reads::<Extend>(bytes);
    reads::<LeaseAsked>(bytes);
    reads::<Power>(bytes);
    reads::<ConsoleRead>(bytes);
    reads::<ConsoleWrite>(bytes);
    reads::<ConsoleChunk>(bytes);
    reads::<Deploy>(bytes);
    reads::<Record>(bytes);
}

#[test]
fn no_payload_makes_a_decoder_panic() {
    let hunt = std::env::var("PILAB_FUZZ_SECONDS").ok();
    let hunt = hunt.map(|text| Duration::from_secs(text.parse().expect("PILAB_FUZZ_SECONDS is a number")));
    let (corpus, began) = (corpus(), Instant::now());
    score::decode(&corpus[0]).expect("the corpus is what it says");
    let mut seed = SEED;
    loop {
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..ROUNDS {
            let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
            for _ in 0..random.random_range(1..8) {
                damage(&mut bytes, &corpus, &mut random);
            }
            let decoded = catch_unwind(AssertUnwindSafe(|| decode(&bytes)));
            assert!(decoded.is_ok(), "seed {seed}: {:?}", String::from_utf8_lossy(&bytes));
        }
        if hunt.is_none_or(|hunt| began.elapsed() >= hunt) {
            break;
        }
        seed += 1;
    }
    eprintln!("{} payloads in {:.1} s", (seed - SEED + 1) * ROUNDS as u64, began.elapsed().as_secs_f64());
}

#[test]
fn a_hundred_megabytes_are_refused_by_their_length() {
    let huge = vec![b'['; 100 << 20];
    let began = Instant::now();
    let refused = score::decode(&huge).unwrap_err();
    assert_eq!(refused.reason, score::Reason::TooLarge);
    assert!(refused.message.starts_with("104857600 bytes are more than"), "{refused}");
    eprintln!("refused in {:?}", began.elapsed());
}
