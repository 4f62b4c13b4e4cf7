//! A disk that hangs, and one that is full: the bundle has gaps, and is there in time.

use super::*;
use crate::bundle::Bundle;
use crate::journal::{self, JournalHandle, Options};
use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::id::DeviceId;
use std::path::Path;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A bound for what takes tenths of a second.
const SOON: Duration = Duration::from_secs(30);

fn bundles(dir: &Path, limit: Duration) -> Arc<Bundles> {
    let image = BootImage {
        id: String::new(),
        manifest: "{}".to_owned(),
        kernel: PathBuf::new(),
        initramfs: PathBuf::new(),
        layers: Vec::new(),
        cmdline: Vec::new(),
        agent_sha256: String::new(),
    };
    Arc::new(Bundles {
        dir: dir.to_owned(),
        lab: LabName::new("lab").unwrap(),
        image,
        images: BTreeMap::new(),
        policy: Retention { count: Some(2), ..Retention::default() },
        limit,
        memory: Mutex::default(),
        writing: Mutex::default(),
        written: watch::Sender::new(0),
    })
}

/// A journal with some console of a run in it, while the tracker lives.
async fn journal(dir: &Path, tracker: &TaskTracker, stop: &CancellationToken) -> (JournalHandle, u64, u64) {
    let (journal, task) = journal::open(dir, Options::default()).await.unwrap();
    tracker.spawn(task.run(stop.clone()));
    let note = Event::RunStarted { run: "r-1".to_owned() };
    let first = journal.event(BootAttempt(1), note).await.unwrap().sequence;
    journal.console(BootAttempt(1), 0, Bytes::from_static(b"Linux version 6\nup\n")).await.unwrap();
    let last = journal.event(BootAttempt(1), Event::ConsoleOpened {}).await.unwrap().sequence;
    (journal, first, last)
}

fn scenario() -> Scenario {
    let scenario = serde_json::json!({
        "name": "s", "summary": "", "under_test": "agent", "needs": [], "cleanup": [], "steps": [],
        "boot_timeout": { "secs": 1, "nanos": 0 },
    });
    serde_json::from_value(scenario).unwrap()
}

fn events(run: &RunId) -> Vec<RunEvent> {
    let lines = include_str!("../../../tests/fixtures/run-passed.jsonl").lines();
    lines.map(|line| RunEvent { run: run.clone(), ..serde_json::from_str(line).unwrap() }).collect()
}

/// Writes the bundle of a run with one device; answers it as whoever asks for it gets it.
async fn written(bundles: &Arc<Bundles>, run: &str, journal: (JournalHandle, u64, u64), to: &Path) -> Bundle {
    let run = RunId::new(run).unwrap();
    let (journal, first, last) = journal;
    let spans = vec![Span { device: DeviceId::new("lab-1").unwrap(), journal, first, last }];
    let (scenario, events) = (scenario(), events(&run));
    let writing = bundles.begin(&run);
    tokio::time::timeout(SOON, writing.write(Evidence { scenario, events, spans, lost: Vec::new() }))
        .await
        .expect("in time");
    let file = bundles.describe(&run).await.unwrap().expect("written");
    let mut content = Vec::new();
    loop {
        let piece = bundles.read(&run, &file.path, content.len() as u64).unwrap();
        if piece.is_empty() {
            break;
        }
        content.extend(piece);
    }
    assert_eq!(content.len() as u64, file.size);
    assert_eq!(hex(Sha256::new().chain_update(&content)), file.sha256);
    let path = to.join(format!("{run}.tar"));
    std::fs::write(&path, content).unwrap();
    Bundle::open(&path).unwrap()
}

fn gaps(bundle: &Bundle) -> Vec<String> {
    bundle.contents().gaps.into_iter().map(|gap| format!("{}: {}", gap.path, gap.cause)).collect()
}

#[tokio::test]
async fn a_bundle_is_whole_when_the_disk_takes_it_and_old_ones_go() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let bundles = bundles(&dir.path().join("bundles"), SOON);
    let journal = journal(&dir.path().join("journal"), &tracker, &stop).await;
    for run in ["r-1", "r-2", "r-3"] {
        let bundle = written(&bundles, run, journal.clone(), to.path()).await;
        assert!(bundle.is_whole() && gaps(&bundle).is_empty(), "{:?}", bundle.contents());
        assert!(bundle.check().iter().all(|(_, condition)| *condition == bundle::Condition::Whole));
        let (console, wrong) = bundle.console(&DeviceId::new("lab-1").unwrap()).unwrap();
        assert!(wrong.is_none());
        assert_eq!(console[0].bytes, &b"Linux version 6\nup\n"[..]);
        let about = bundle.about().unwrap();
        assert_eq!((about.run.as_str(), about.lab.unwrap().as_str()), (run, "lab"));
    }
    let left = bundle::kept(&dir.path().join("bundles")).unwrap();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(matches!(bundles.describe(&RunId::new("r-9").unwrap()).await, Err(BundleError::None)));
    for bad in ["../r-1.tar", "/etc/passwd", "r-2.tar", ""] {
        let read = bundles.read(&RunId::new("r-1").unwrap(), bad, 0);
        assert!(matches!(read, Err(BundleError::NoSuchFile { .. })), "{bad}");
    }
    stop.cancel();
}

#[tokio::test]
async fn a_disk_that_hangs_delays_nothing_and_is_a_gap() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let bundles = bundles(&dir.path().join("bundles"), Duration::from_millis(300));
    let journal = journal(&dir.path().join("journal"), &tracker, &stop).await;
    // Opening a FIFO for writing hangs until somebody reads (fifo(7)), as a disk does that is gone.
    let spool = dir.path().join("bundles/r-1.spool");
    std::fs::create_dir_all(&spool).unwrap();
    let fifo = spool.join("0");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    let bundle = written(&bundles, "r-1", journal, to.path()).await;
    let told = ["console/lab-1.log: the disk was too slow", "journal/lab-1.jsonl: the disk was too slow"];
    assert_eq!(gaps(&bundle), told);
    assert_eq!(bundle.events().unwrap().0.len(), events(&RunId::new("r-1").unwrap()).len());
    // The disk is back: the thread goes on, and ends, for a runtime waits for its threads.
    let back = File::options().read(true).write(true).open(&fifo).unwrap();
    std::fs::remove_file(&fifo).unwrap();
    drop(back);
    stop.cancel();
}

#[tokio::test]
async fn a_disk_without_room_is_a_gap() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let place = dir.path().join("bundles");
    // Whatever is written there fails at once: it is no directory.
    std::fs::write(&place, "").unwrap();
    let bundles = bundles(&place, SOON);
    let journal = journal(&dir.path().join("journal"), &tracker, &stop).await;
    let bundle = written(&bundles, "r-1", journal, to.path()).await;
    assert_eq!(gaps(&bundle).len(), 2, "{:?}", gaps(&bundle));
    assert!(bundle.is_whole() && bundle.about().unwrap().verdict.is_some());
    stop.cancel();
}
