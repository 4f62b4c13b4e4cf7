//! The console over a fake line and a real journal.

mod holes;

use crate::journal::{Open, read_all, records};
use crate::support::console::Rig;
use pilab::console::{WaitError, WaitFrom, WriteError};
use pilab::journal::{Entry, Record, Since};
use pilab::model::boot::{BootAttempt, BootStage};
use pilab::model::event::Event;
use pilab::model::lease::FencingToken;
use regex::bytes::Regex;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// The console bytes of some records by offset, each of which must follow on the one before.
fn bytes(records: &[Record]) -> Vec<u8> {
    let mut all = Vec::new();
    for record in records {
        if let Entry::Console { offset, bytes } = &record.entry {
            assert_eq!(*offset, all.len() as u64, "the next byte");
            all.extend_from_slice(bytes);
        }
    }
    all
}

fn gaps(records: &[Record]) -> Vec<u64> {
    let gap = |record: &Record| match &record.entry {
        Entry::Event(Event::ConsoleGap { offset, .. }) => Some(*offset),
        _ => None,
    };
    records.iter().filter_map(gap).collect()
}

const OLD: FencingToken = FencingToken { epoch: 1, sequence: 1 };
const NEW: FencingToken = FencingToken { epoch: 1, sequence: 2 };
const ONE: BootAttempt = BootAttempt(1);

#[tokio::test]
async fn no_byte_is_lost_or_doubled_and_each_disconnect_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Open::at(dir.path()).await;
    let rig = Rig::new(&journal.handle);
    // A small generator with a fixed seed (Numerical Recipes' constants): the same chunks each time.
    let mut seed = 7_u32;
    let mut random = move |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % below
    };
    let (mut sent, mut holes) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let mut line = rig.plug().await;
        for _ in 0..random(30) {
            let chunk: Vec<u8> = (0..random(9000)).map(|_| u8::try_from(random(256)).unwrap()).collect();
            line.write_all(&chunk).await.unwrap();
            sent.extend(chunk);
        }
        rig.unplug(line).await;
        holes.push(sent.len() as u64);
    }
    rig.stop().await;
    let all = records(read_all(&journal.handle, Since::Start).await);
    assert!(bytes(&all) == sent, "{} bytes of {}", bytes(&all).len(), sent.len());
    assert_eq!(gaps(&all), holes);
    journal.close().await;
}

#[tokio::test]
async fn stages_are_journaled_before_they_are_seen_and_belong_to_their_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Open::at(dir.path()).await;
    let rig = Rig::new(&journal.handle);
    let mut line = rig.plug().await;
    rig.console.begin(ONE).await.unwrap();
    line.write_all(b"[    0.0] Linux version 6.1.0\r\r\npilab: network 10.0.0.7\r\n").await.unwrap();
    let network = rig.console.wait_stage(ONE, BootStage::Network, soon()).await.unwrap();
    assert_eq!(network.line, "pilab: network 10.0.0.7");
    assert!(journal.handle.console_offset() >= network.offset);
    let waiting = rig.console.clone();
    let later = tokio::join!(waiting.wait_stage(BootAttempt(2), BootStage::Kernel, soon()), async {
        assert_eq!(rig.console.begin(BootAttempt(2)).await.unwrap(), network.offset);
        line.write_all(b"Linux version 6.1.0\npilab").await.unwrap();
    });
    assert!(later.0.is_ok(), "{later:?}");
    let over = rig.console.wait_stage(ONE, BootStage::Kernel, soon()).await;
    assert!(matches!(over, Err(WaitError::Superseded { current: BootAttempt(2), .. })), "{over:?}");
    assert_eq!(rig.console.last_lines(2).await, ["Linux version 6.1.0", "pilab"]);
    rig.stop().await;
    let all = records(read_all(&journal.handle, Since::Start).await);
    let stages: Vec<_> = all
        .iter()
        .filter_map(|record| match &record.entry {
            Entry::Event(Event::Stage { stage, .. }) => Some((record.attempt.0, *stage)),
            _ => None,
        })
        .collect();
    assert_eq!(stages, [(1, BootStage::Kernel), (1, BootStage::Network), (2, BootStage::Kernel)]);
    journal.close().await;
}

#[tokio::test]
async fn boots_of_one_attempt_are_counted_on_over_a_restart_of_the_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = Vec::new();
    for said in ["Linux version 6.1.0\npilab: initramfs\n", "Linux version 6.1.0\n", "pilab: initramfs\n"] {
        let journal = Open::at(dir.path()).await;
        let rig = Rig::new(&journal.handle);
        let mut line = rig.plug().await;
        if wanted.is_empty() {
            rig.console.begin(ONE).await.unwrap();
            wanted.extend([(BootStage::Kernel, 1), (BootStage::Initramfs, 1)]);
        } else {
            let stage = if wanted.len() == 2 { BootStage::Kernel } else { BootStage::Initramfs };
            wanted.push((stage, 2));
        }
        line.write_all(said.as_bytes()).await.unwrap();
        let mut stages = rig.console.stages();
        let come = stages.wait_for(|stages| stages.reached.len() == wanted.len());
        let come = tokio::time::timeout(Duration::from_secs(20), come).await;
        let reached: Vec<_> =
            come.expect("the stages come").unwrap().reached.iter().map(|r| (r.stage, r.boot)).collect();
        assert_eq!(reached, wanted);
        rig.stop().await;
        let all = records(read_all(&journal.handle, Since::Start).await);
        let journaled = all.iter().filter_map(|record| match &record.entry {
            Entry::Event(Event::Stage { stage, boot, .. }) => Some((*stage, *boot)),
            _ => None,
        });
        assert_eq!(journaled.collect::<Vec<_>>(), wanted);
        journal.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn waits_end_at_the_deadline_or_with_a_panic_and_say_how_far_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Open::at(dir.path()).await;
    let rig = Rig::new(&journal.handle);
    let mut line = rig.plug().await;
    rig.console.begin(ONE).await.unwrap();
    line.write_all(b"Linux version 6.1.0\n").await.unwrap();
    rig.console.wait_stage(ONE, BootStage::Kernel, soon()).await.unwrap();
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(3600);
    let late = rig.console.wait_stage(ONE, BootStage::Agent, deadline).await.unwrap_err();
    assert!(begun.elapsed() >= Duration::from_secs(3600));
    assert_eq!(
        late.to_string(),
        "stage agent did not show on the console in time; the last stage was kernel (\"Linux version 6.1.0\")"
    );
    let pattern = Regex::new("never").unwrap();
    let from = WaitFrom::Attempt(ONE);
    let late = rig.console.wait_pattern(from, &pattern, Instant::now() + Duration::from_secs(5)).await;
    assert!(matches!(late, Err(WaitError::Deadline { .. })), "{late:?}");
    let (panic, ()) = tokio::join!(rig.console.wait_stage(ONE, BootStage::Agent, soon()), async {
        line.write_all(b"Kernel panic - not syncing: no init\n").await.unwrap();
    });
    assert!(
        matches!(&panic, Err(WaitError::Panic { panic }) if panic.line.ends_with("no init")),
        "{panic:?}"
    );
    let console = rig.console.clone();
    rig.stop().await;
    let gone = console.wait_stage(BootAttempt(9), BootStage::Agent, soon()).await;
    assert!(matches!(gone, Err(WaitError::Gone)), "{gone:?}");
    journal.close().await;
}

#[tokio::test]
async fn patterns_match_whole_lines_and_prompts_from_any_place() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Open::at(dir.path()).await;
    let rig = Rig::new(&journal.handle);
    let mut line = rig.plug().await;
    rig.console.begin(ONE).await.unwrap();
    line.write_all(b"answer: 4").await.unwrap();
    line.write_all(b"2\r\n\x1b[1mroot@pi\x1b[0m:~# ").await.unwrap();
    let prompt = Regex::new(r"^root@pi:~# $").unwrap();
    let matched = rig.console.wait_pattern(WaitFrom::Attempt(ONE), &prompt, soon()).await.unwrap();
    assert_eq!((matched.line.as_str(), matched.offset), ("root@pi:~#", 31));
    let answer = Regex::new(r"^answer: 42$").unwrap();
    let matched = rig.console.wait_pattern(WaitFrom::Offset(0), &answer, soon()).await.unwrap();
    assert_eq!((matched.line.as_str(), matched.offset), ("answer: 42", 12));
    let now = WaitFrom::Offset(journal.handle.console_offset());
    let (again, ()) = tokio::join!(rig.console.wait_pattern(now, &answer, soon()), async {
        line.write_all(b"\nanswer: 42\n").await.unwrap();
    });
    assert_eq!(again.unwrap().offset, 43);
    let never = Regex::new("never").unwrap();
    let (over, ()) = tokio::join!(rig.console.wait_pattern(WaitFrom::Attempt(ONE), &never, soon()), async {
        rig.console.begin(BootAttempt(2)).await.unwrap();
        line.write_all(b"x\n").await.unwrap();
    });
    assert!(matches!(over, Err(WaitError::Superseded { .. })), "{over:?}");
    // A line does not go on over a hole.
    line.write_all(b"over the").await.unwrap();
    rig.unplug(line).await;
    let mut line = rig.plug().await;
    line.write_all(b" hole\nover the hole\n").await.unwrap();
    let whole = Regex::new("^over the hole$").unwrap();
    let matched = rig.console.wait_pattern(WaitFrom::Offset(43), &whole, soon()).await.unwrap();
    assert_eq!(matched.offset, 73);
    rig.stop().await;
    journal.close().await;
}

#[tokio::test]
async fn only_the_holder_writes_and_each_write_is_audited() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Open::at(dir.path()).await;
    let rig = Rig::new(&journal.handle);
    let closed = rig.console.write(OLD, "x").await;
    assert!(matches!(closed, Err(WriteError::NotOpen)), "{closed:?}");
    let mut line = rig.plug().await;
    rig.console.write(OLD, "one\n").await.unwrap();
    rig.console.fence(NEW).await.unwrap();
    let stale = rig.console.write(OLD, "stale\n").await;
    assert!(matches!(stale, Err(WriteError::Fenced(_))), "{stale:?}");
    assert!(matches!(rig.console.fence(OLD).await, Err(WriteError::Fenced(_))));
    rig.console.write(NEW, "two\n").await.unwrap();
    let mut got = [0; 8];
    line.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"one\ntwo\n");
    let long = rig.console.write(NEW, vec![0; 100_000]).await;
    assert!(matches!(long, Err(WriteError::TooLong { .. })), "{long:?}");
    rig.stop().await;
    let all = records(read_all(&journal.handle, Since::Start).await);
    let writes: Vec<_> = all
        .into_iter()
        .filter_map(|record| match record.entry {
            Entry::Event(Event::ConsoleWritten { token, bytes }) => Some((token, bytes)),
            _ => None,
        })
        .collect();
    assert_eq!(writes, [(OLD, 4), (NEW, 4)]);
    journal.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_takes_no_bytes_does_not_stop_the_reading() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Open::at(dir.path()).await;
    let rig = Rig::new(&journal.handle);
    let mut line = rig.plug().await;
    rig.console.begin(ONE).await.unwrap();
    // The line holds 4 KiB that nobody takes.
    let (stalled, (busy, heard)) = tokio::join!(rig.console.write(NEW, vec![b'x'; 10_000]), async {
        let busy = rig.console.write(NEW, "y").await;
        line.write_all(b"Linux version 6.1.0\n").await.unwrap();
        (busy, rig.console.wait_stage(ONE, BootStage::Kernel, soon()).await)
    });
    assert!(matches!(stalled, Err(WriteError::Stalled)), "{stalled:?}");
    assert!(matches!(busy, Err(WriteError::Busy)), "{busy:?}");
    heard.unwrap();
    rig.stop().await;
    journal.close().await;
}
