//! The journal over real files: crashes, full disks, slow readers.

mod damage;

use bytes::Bytes;
use pilab::journal::{
    self, Cursor, Entry, Item, JournalError, JournalHandle, Missing, Options, Record, Since,
};
use pilab::model::boot::BootAttempt;
use pilab::model::event::Event;
use pilab::model::lease::FencingToken;
use pilab::model::power::{PowerReading, PowerState};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A journal whose task runs.
pub(crate) struct Open {
    pub(crate) handle: JournalHandle,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Open {
    pub(crate) async fn at(dir: &Path) -> Self {
        Self::with(dir, Options::default()).await
    }

    pub(crate) async fn with(dir: &Path, options: Options) -> Self {
        let (handle, task) = journal::open(dir, options).await.expect("the journal opens");
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        tracker.spawn(task.run(token.clone()));
        Self { handle, tracker, token }
    }

    pub(crate) async fn close(self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// The next item, which must come soon.
pub(crate) async fn next(cursor: &mut Cursor) -> Item {
    timeout(Duration::from_secs(20), cursor.next()).await.expect("a record comes").expect("it can be read")
}

/// Everything from a place up to the end as it is now.
pub(crate) async fn read_all(handle: &JournalHandle, from: Since) -> Vec<Item> {
    let mut cursor = handle.cursor(from);
    let mut items = Vec::new();
    while let Some(item) = cursor.next_written().await.unwrap() {
        items.push(item);
    }
    items
}

pub(crate) fn records(items: Vec<Item>) -> Vec<Record> {
    let record = |item| match item {
        Item::Record(record) => record,
        Item::Missing { .. } => panic!("{item:?}"),
    };
    items.into_iter().map(record).collect()
}

fn entries(items: Vec<Item>) -> Vec<Entry> {
    records(items).into_iter().map(|record| record.entry).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    paths.sort();
    paths
}

fn run(name: &str) -> Event {
    Event::RunStarted { run: name.to_owned() }
}

const TOKEN: FencingToken = FencingToken { epoch: 1, sequence: 2 };

#[tokio::test]
async fn what_was_written_is_read_after_a_restart_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::at(dir.path()).await;
    let first = open.handle.event(BootAttempt(1), run("a")).await.unwrap();
    open.handle.console(BootAttempt(1), 0, Bytes::from_static(b"hello")).await.unwrap();
    open.handle.event(BootAttempt(1), Event::ConsoleOpened {}).await.unwrap();
    let intent = Event::PowerIntent { state: PowerState::On, token: TOKEN };
    let last = open.handle.event_synced(BootAttempt(2), intent.clone()).await.unwrap();
    assert!(last.sequence > first.sequence && last.stamp.boot_ns >= first.stamp.boot_ns);
    open.close().await;

    let open = Open::at(dir.path()).await;
    let recovered = open.handle.recovered();
    assert_eq!((recovered.attempt, recovered.console_offset), (BootAttempt(2), 5));
    assert!(recovered.console_open);
    let unfinished = recovered.intent.clone().expect("an intent without an end");
    assert_eq!((unfinished.state, unfinished.token, unfinished.stamp), (PowerState::On, TOKEN, last.stamp));
    let done = Event::PowerDone { state: PowerState::On, reading: PowerReading::On };
    let next = open.handle.event(BootAttempt(2), done.clone()).await.unwrap();
    assert!(next.sequence > last.sequence);
    let all = entries(read_all(&open.handle, Since::Start).await);
    let hello = Entry::Console { offset: 0, bytes: Bytes::from_static(b"hello") };
    let opened = Entry::Event(Event::ConsoleOpened {});
    assert_eq!(all, [Entry::Event(run("a")), hello, opened, Entry::Event(intent), Entry::Event(done)]);
    open.close().await;
    assert_eq!(Open::at(dir.path()).await.handle.recovered().intent, None);
}

#[tokio::test]
async fn what_is_too_old_goes_whatever_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::at(dir.path()).await;
    let first = open.handle.event(BootAttempt(1), run("a")).await.unwrap();
    open.close().await;
    let open = Open::at(dir.path()).await;
    open.handle.event(BootAttempt(1), run("b")).await.unwrap();
    assert_eq!(segments(dir.path()).len(), 2, "neither is old");
    open.close().await;

    let options = Options { max_age: Duration::from_millis(40), ..Options::default() };
    let open = Open::with(dir.path(), options).await;
    let mut written = Vec::new();
    let gone = timeout(Duration::from_secs(20), async {
        // Until this process has closed a segment by its age, and removed it.
        while written.len() < 2 || segments(dir.path())[0] <= written[0] {
            open.handle.event(BootAttempt(2), run("c")).await.unwrap();
            let last = segments(dir.path()).pop().unwrap();
            if !written.contains(&last) {
                written.push(last);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    gone.await.expect("segments go");
    let item = next(&mut open.handle.cursor(Since::Sequence(first.sequence))).await;
    assert!(matches!(item, Item::Missing { cause: Missing::Expired, .. }), "{item:?}");
    open.close().await;
}

#[tokio::test]
async fn segments_rotate_and_expire_and_a_late_reader_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1000, total_bytes: 4000, ..Options::default() };
    let open = Open::with(dir.path(), options.clone()).await;
    open.handle.event(BootAttempt(1), run("first")).await.unwrap();
    let mut late = open.handle.cursor(Since::Start);
    let mut last = 0;
    for index in 0..100 {
        let bytes = Bytes::from(vec![b'x'; 100]);
        last = open.handle.console(BootAttempt(1), 100 * index, bytes).await.unwrap().sequence;
    }
    let total: u64 = segments(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!((2000..=5000).contains(&total), "{total} bytes are kept");
    let Item::Missing { from: 1, to, cause: Missing::Expired } = next(&mut late).await else {
        panic!("the hole is told");
    };
    let mut offsets = Vec::new();
    loop {
        let Item::Record(record) = next(&mut late).await else { panic!("one hole") };
        assert!(record.sequence >= to);
        if let Entry::Console { offset, .. } = record.entry {
            offsets.push(offset);
        }
        if record.sequence == last {
            break;
        }
    }
    assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 100), "{offsets:?}");
    assert_eq!(offsets.last(), Some(&9900));

    // Places far back are found through the segments' summaries, also after a restart.
    open.close().await;
    let open = Open::with(dir.path(), options).await;
    assert_eq!(open.handle.console_offset(), 10_000);
    let from = entries(read_all(&open.handle, Since::Console(9_550)).await);
    assert_eq!(from[0], Entry::Console { offset: 9550, bytes: Bytes::from(vec![b'x'; 50]) });
    assert_eq!(from.len(), 5);
    open.close().await;
}

#[tokio::test]
async fn a_cursor_begins_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::at(dir.path()).await;
    for attempt in 1..=3 {
        open.handle.event(BootAttempt(attempt), run(&attempt.to_string())).await.unwrap();
        let bytes = Bytes::from_static(b"0123456789");
        open.handle.console(BootAttempt(attempt), 10 * (attempt - 1), bytes).await.unwrap();
    }
    let all = records(read_all(&open.handle, Since::Start).await);
    assert_eq!(all.len(), 6);
    let from = records(read_all(&open.handle, Since::Sequence(all[4].sequence)).await);
    assert_eq!(from, all[4..]);
    let from = records(read_all(&open.handle, Since::Attempt(BootAttempt(2))).await);
    assert_eq!(from, all[2..]);
    let from = entries(read_all(&open.handle, Since::Console(17)).await);
    assert_eq!(from[0], Entry::Console { offset: 17, bytes: Bytes::from_static(b"789") });
    assert!(entries(read_all(&open.handle, Since::End).await).is_empty());
    open.close().await;
}

#[tokio::test]
async fn a_second_process_and_another_version_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::at(dir.path()).await;
    open.handle.event(BootAttempt(0), run("a")).await.unwrap();
    let second = journal::open(dir.path(), Options::default()).await;
    assert!(matches!(second, Err(JournalError::InUse { .. })), "{second:?}");
    open.close().await;
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 7;
    fs::write(&path, &bytes).unwrap();
    let newer = journal::open(dir.path(), Options::default()).await;
    assert!(matches!(newer, Err(JournalError::Foreign { version: 7, .. })), "{newer:?}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "it is not touched");
}

#[tokio::test]
async fn a_failed_write_is_told_and_the_next_try_succeeds() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, away) = (parent.path().join("journal"), parent.path().join("away"));
    // Each record needs a new segment, which cannot be made while the directory is away.
    let open =
        Open::with(&dir, Options { segment_bytes: 1, total_bytes: 1 << 20, ..Options::default() }).await;
    let before = open.handle.event(BootAttempt(1), run("before")).await.unwrap();
    fs::rename(&dir, &away).unwrap();
    let failed = open.handle.event_synced(BootAttempt(1), run("lost")).await;
    assert!(matches!(failed, Err(JournalError::Write { .. })), "{failed:?}");
    fs::rename(&away, &dir).unwrap();
    let after = open.handle.event_synced(BootAttempt(1), run("after")).await.unwrap();
    assert!(after.sequence > before.sequence);
    let all = entries(read_all(&open.handle, Since::Start).await);
    assert_eq!(all, [Entry::Event(run("before")), Entry::Event(run("after"))]);
    let long = open.handle.console(BootAttempt(1), 0, Bytes::from(vec![0; 2 << 20])).await;
    assert!(matches!(long, Err(JournalError::TooLong { .. })), "{long:?}");
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_and_readers_see_one_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        Open::with(dir.path(), Options { segment_bytes: 20_000, total_bytes: 1 << 30, ..Options::default() })
            .await;
    let tracker = TaskTracker::new();
    for writer in 0..4 {
        let handle = open.handle.clone();
        tracker.spawn(async move {
            for index in 0..200 {
                handle.event(BootAttempt(writer), run(&index.to_string())).await.unwrap();
            }
        });
    }
    let mut readers = Vec::new();
    for pause in 0..3_u64 {
        let mut cursor = open.handle.cursor(Since::Start);
        readers.push(tracker.spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < 800 {
                let Item::Record(record) = next(&mut cursor).await else { panic!("nothing is missing") };
                seen.push((record.sequence, record.attempt, record.entry));
                if pause > 0 && (seen.len() as u64).is_multiple_of(40 * pause) {
                    tokio::task::yield_now().await;
                }
            }
            seen
        }));
    }
    let mut all = Vec::new();
    for reader in readers {
        all.push(reader.await.unwrap());
    }
    assert!(all[0].windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(all[0] == all[1] && all[1] == all[2]);
    for writer in 0..4 {
        let own = all[0].iter().filter(|(_, attempt, _)| *attempt == BootAttempt(writer));
        let own: Vec<_> = own.map(|(_, _, entry)| entry.clone()).collect();
        let expected: Vec<_> = (0..200).map(|index| Entry::Event(run(&index.to_string()))).collect();
        assert_eq!(own, expected);
    }
    open.close().await;
}

#[tokio::test]
async fn a_closed_journal_ends_its_readers_and_refuses_writers() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::at(dir.path()).await;
    let handle = open.handle.clone();
    handle.event(BootAttempt(0), run("a")).await.unwrap();
    let mut cursor = handle.cursor(Since::Start);
    open.close().await;
    assert!(matches!(next(&mut cursor).await, Item::Record(_)), "what is there is still read");
    assert!(matches!(cursor.next().await, Err(JournalError::Gone)));
    assert!(matches!(handle.event(BootAttempt(0), run("b")).await, Err(JournalError::Gone)));
}
