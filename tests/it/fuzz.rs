//! What comes from outside, damaged: every reader of it answers or refuses, and never panics.
//!
//! Good inputs are changed step by step, at random, from a seed that a failure names; each target is tried for a moment, the
//! same way each time. A longer hunt:
//!
//! ```sh
//! PILAB_FUZZ_SECONDS=600 cargo nextest run --features vm,agent,sim --test it -E 'test(fuzz)' --no-capture
//! ```

mod harness;

use harness::TARGETS;
use pilab::agent::score;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use tokio::time::Instant;

/// The seed, so that each run of the tests tries the same. With a time given, the next ones follow.
const SEED: u64 = 1;
/// The longest input that is made, in bytes.
const MAX_LEN: usize = 64 * 1024;

/// What has made parsers fall over, as pieces to put in.
const PIECES: [&[u8]; 20] = [
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
    b"../",
    b"//",
    b"\0\0",
    b"\xff\xff",
    b"\x1b[",
    b"\r\n",
    b"= ",
    b"[[",
];

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

/// Tries so many damaged inputs of one target, or hunts for as long as the environment says.
#[expect(clippy::print_stderr, reason = "a hunt tells how far it got")]
fn try_damaged(name: &str, rounds: usize) {
    let hunt = std::env::var("PILAB_FUZZ_SECONDS").ok();
    let hunt = hunt.map(|text| Duration::from_secs(text.parse().expect("PILAB_FUZZ_SECONDS is a number")));
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let (corpus, began) = ((target.corpus)(), Instant::now());
    for input in &corpus {
        (target.run)(input);
    }
    let mut seed = SEED;
    loop {
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..rounds {
            let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
            for _ in 0..random.random_range(1..8) {
                damage(&mut bytes, &corpus, &mut random);
            }
            let borne = catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes)));
            assert!(borne.is_ok(), "{name}, seed {seed}: {:?}", bytes.escape_ascii().to_string());
        }
        if hunt.is_none_or(|hunt| began.elapsed() >= hunt) {
            break;
        }
        seed += 1;
    }
    let tried = (seed - SEED + 1) * rounds as u64;
    eprintln!("{name}: {tried} inputs in {:.1} s", began.elapsed().as_secs_f64());
}

#[test]
fn no_body_of_a_request_makes_a_decoder_panic() {
    try_damaged("requests", 10_000);
    let (corpus, named) = (harness::requests::corpus(), "the corpus is what it says");
    score::decode(&corpus[0]).expect(named);
}

#[test]
fn whatever_comes_by_dhcp_is_borne() {
    try_damaged("dhcp", 2_000);
}

#[test]
fn whatever_comes_by_tftp_is_borne() {
    try_damaged("tftp", 1_000);
}

#[test]
fn whatever_a_console_says_is_borne() {
    try_damaged("stages", 100);
}

#[test]
fn whatever_a_plug_answers_is_borne() {
    try_damaged("plug", 100);
}

#[test]
fn whatever_a_lab_s_files_say_is_read_or_refused() {
    try_damaged("files", 300);
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
