//! What outlives the coordinator of its runs: a record of each in the lab's bucket, until it has ended and its bundle is
//! written, and its events in a file, each before anybody is shown it.

use super::parts::Parts;
use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::model::id::{LabName, RunId, UserName};
use crate::model::run::RunEvent;
use crate::model::scenario::Scenario;
use crate::support::chain::Chain;
use crate::support::lock::lock;
use crate::wire::request::RunOptions;
use crate::wire::subject;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Version of the records.
const VERSION: u32 = 1;
/// How many runs' events are kept, beside those of runs that have not ended.
const MAX_FILES: usize = 1000;
/// The most bytes of events of one run that are read: a run has some hundreds of them.
const MAX_EVENTS: u64 = 256 << 20;
/// How many events may wait for the disk: all runs together tell some hundreds a second at the most.
const QUEUE: usize = 4096;
/// How long writing an event may take: a disk that hangs must not hold up a run.
const WRITE_WAIT: Duration = Duration::from_secs(1);

/// A run that has not ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RunRecord {
    version: u32,
    pub(super) run: RunId,
    pub(super) owner: UserName,
    pub(super) scenario: Scenario,
    #[serde(flatten)]
    pub(super) options: RunOptions,
    /// It has, or had, its devices.
    pub(super) started: bool,
    /// Which attempt it is, from 1.
    pub(super) attempt: u32,
    /// It is a training of so many boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) training: Option<u32>,
}

impl RunRecord {
    pub(super) fn new(
        run: RunId,
        owner: UserName,
        scenario: Scenario,
        options: RunOptions,
        attempt: u32,
    ) -> Self {
        Self { version: VERSION, run, owner, scenario, options, started: false, attempt, training: None }
    }

    /// The same, as a training of so many boots.
    pub(super) fn trains(self, training: Option<u32>) -> Self {
        Self { training, ..self }
    }
}

/// A coordinator's runs, as they are kept.
pub(super) struct Runs {
    bus: Bus,
    bucket: String,
    dir: PathBuf,
    queue: mpsc::Sender<Line>,
}

impl Runs {
    pub(super) fn start(parts: &Parts, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let lab: &LabName = &parts.lab;
        let (queue, lines) = mpsc::channel(QUEUE);
        tasks.spawn(writing(lines, stop));
        Self { bus: parts.bus.clone(), bucket: subject::lab_bucket(lab), dir: parts.dir.join("runs"), queue }
    }

    /// Records a run that is accepted; false when one of this name was recorded before, also when it has ended since.
    pub(super) async fn accept(&self, record: &RunRecord) -> Result<bool, BusError> {
        match self.bus.kv_put_if(&self.bucket, &subject::run_key(&record.run), encode(record), 0).await {
            Ok(_) => Ok(true),
            Err(BusError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Records that a run has its devices. From then on it is not begun again.
    pub(super) async fn started(&self, record: RunRecord) {
        let record = RunRecord { started: true, ..record };
        let key = subject::run_key(&record.run);
        if let Err(error) = self.bus.kv_put(&self.bucket, &key, encode(&record)).await {
            // Its events say so as well.
            tracing::warn!(run = %record.run, error = %Chain(&error), "it is not recorded that a run has started");
        }
    }

    /// Forgets a run that has ended. Of one that tried another again a mark remains, so that it is not begun a second time
    /// when the coordinator dies before the other has told of it; the rest have names that no other run gets.
    pub(super) async fn forget(&self, record: &RunRecord) {
        let (run, key) = (&record.run, subject::run_key(&record.run));
        let forgotten = match record.attempt {
            1 => self.bus.kv_purge(&self.bucket, &key).await,
            _ => self.bus.kv_delete(&self.bucket, &key).await.map(drop),
        };
        if let Err(error) = forgotten {
            tracing::warn!(%run, error = %Chain(&error), "a run that has ended is still recorded; it is looked at again");
        }
    }

    /// The runs that have not ended. What is not understood is told and left alone.
    pub(super) async fn going(&self) -> Result<Vec<RunRecord>, BusError> {
        let mut going = Vec::new();
        for key in self.bus.kv_keys(&self.bucket, subject::RUN_KEYS).await? {
            let Some(entry) = self.bus.kv_get(&self.bucket, &key).await?.filter(|entry| !entry.deleted)
            else {
                continue;
            };
            match serde_json::from_slice::<RunRecord>(&entry.value) {
                Ok(record) if record.version == VERSION => going.push(record),
                Ok(record) => {
                    tracing::warn!(key, version = record.version, "a run's record is of another version");
                }
                Err(error) => tracing::warn!(key, %error, "a run's record is not understood"),
            }
        }
        Ok(going)
    }

    fn path(&self, run: &RunId) -> PathBuf {
        self.dir.join(format!("{run}.jsonl"))
    }

    /// The events of a run, as far as they are known; none of one that nobody knows. A line that was being written when the
    /// coordinator died is no event.
    pub(super) fn events(&self, run: &RunId) -> Vec<RunEvent> {
        let path = self.path(run);
        let size = fs::metadata(&path).map_or(0, |file| file.len());
        if size > MAX_EVENTS {
            tracing::warn!(path = %path.display(), size, "a run's events are too many to be read");
            return Vec::new();
        }
        let bytes = fs::read(&path).unwrap_or_default();
        whole(&bytes).map(|(event, _)| event).collect()
    }

    /// Where the events of a run are kept from now on; `known` of them are there already, and what follows those is cut off.
    pub(super) fn keep(&self, run: &RunId, known: usize) -> Kept {
        let path = self.path(run);
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(&path)?;
            cut(&mut file, known)?;
            io::Result::Ok(file)
        };
        let file = open().inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "a run's events are not kept");
        });
        let (file, run) = (Mutex::new(file.ok()), run.clone());
        let file = RunFile { run, file, broken: AtomicBool::default(), slow: AtomicBool::default() };
        Kept { file: Arc::new(file), queue: self.queue.clone() }
    }

    /// Removes the events of runs of long ago, but for those that are still under way.
    pub(super) fn prune(&self, under_way: &BTreeSet<RunId>) {
        let spared: BTreeSet<PathBuf> = under_way.iter().map(|run| self.path(run)).collect();
        prune(&self.dir, MAX_FILES, &spared);
    }
}

/// The events that a file holds, each with where it ends. They are numbered without holes and each line is ended: what
/// follows another cannot be told to anybody.
fn whole(bytes: &[u8]) -> impl Iterator<Item = (RunEvent, usize)> {
    let mut end = 0;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate();
    lines.map_while(move |(at, line)| {
        let event: RunEvent = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
        end += line.len();
        (event.seq == at as u64).then_some((event, end))
    })
}

/// Leaves the first `known` events. Where they end, the file says: an event that was read and is written again can be of
/// another length, since its numbers do not all come back to the last digit (30.682863910000002 s becomes 30.68286391).
fn cut(file: &mut File, known: usize) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.take(MAX_EVENTS).read_to_end(&mut bytes)?;
    let end = known.checked_sub(1).and_then(|last| whole(&bytes).nth(last));
    file.set_len(end.map_or(0, |(_, end)| end as u64))
}

/// Removes all but the newest `most` files in `dir`, beside those that are spared.
fn prune(dir: &Path, most: usize, spared: &BTreeSet<PathBuf>) {
    let age = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let paths = paths.filter(|path| !spared.contains(path));
    let mut files: Vec<_> = paths.map(|path| (age(&path), path)).collect();
    files.sort();
    for (_, path) in files.iter().rev().skip(most) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "a run's events are not removed");
        }
    }
}

/// The file of a run's events.
pub(super) struct Kept {
    file: Arc<RunFile>,
    queue: mpsc::Sender<Line>,
}

struct RunFile {
    run: RunId,
    /// None when it cannot be written.
    file: Mutex<Option<File>>,
    /// An event is missing: what comes after it is of no use.
    broken: AtomicBool,
    /// The disk is slow: nobody waits for it any more, until it has caught up.
    slow: AtomicBool,
}

/// An event on its way to its file.
pub(super) struct Line {
    to: Arc<RunFile>,
    line: Vec<u8>,
    done: oneshot::Sender<()>,
}

impl Kept {
    /// Whether all that was handed over is in the file.
    pub(super) fn is_whole(&self) -> bool {
        let RunFile { broken, slow, file, .. } = &*self.file;
        // Where it is slow, the file is being written to, and locked.
        !broken.load(Ordering::Relaxed) && !slow.load(Ordering::Relaxed) && lock(file).is_some()
    }

    /// Hands an event over to be written, in the order of the calls, also when what this answers is dropped. That is done
    /// when the event is in the file, or the disk is full or too slow to be waited for.
    pub(super) fn write(&self, event: &RunEvent) -> impl Future<Output = ()> + use<> {
        let (done, written) = oneshot::channel();
        let line = Line { to: Arc::clone(&self.file), line: line(event), done };
        if self.queue.try_send(line).is_err() && !self.file.broken.swap(true, Ordering::Relaxed) {
            tracing::warn!(run = %event.run, "a run's events are not kept any more: the disk does not follow");
        }
        let file = Arc::clone(&self.file);
        async move {
            // One that is not written is dropped, which ends the waiting too.
            if !file.slow.load(Ordering::Relaxed) && timeout(WRITE_WAIT, written).await.is_err() {
                file.slow.store(true, Ordering::Relaxed);
                tracing::warn!(run = %file.run, "a run's event is not kept yet: the disk is slow");
            }
        }
    }
}

/// Writes the events of all runs, one after the other, until `stop`: by then each run has waited for its last.
async fn writing(mut queue: mpsc::Receiver<Line>, stop: CancellationToken) {
    loop {
        let line = tokio::select! {
            biased;
            line = queue.recv() => line,
            () = stop.cancelled() => return,
        };
        let Some(Line { to, line, done }) = line else { return };
        let file = Arc::clone(&to);
        let write = move || lock(&file.file).as_mut().map_or(Ok(()), |file| file.write_all(&line));
        let written = match to.broken.load(Ordering::Relaxed) {
            true => Ok(Ok(())),
            false => tokio::task::spawn_blocking(write).await,
        };
        to.slow.store(false, Ordering::Relaxed);
        if let Ok(Err(error)) = written
            && !to.broken.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(run = %to.run, %error, "a run's events are not kept any more");
        }
        // Whoever waits may have gone.
        let _ = done.send(());
    }
}

/// Events and records are structs of strings and numbers, which always have a JSON form.
fn line(event: &RunEvent) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}

fn encode(record: &RunRecord) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn the_oldest_go_but_for_those_that_are_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (age, name) in ["e", "d", "c", "b", "a"].into_iter().rev().enumerate() {
            let file = File::create(at(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age as u64 * 60)).unwrap();
        }
        // "a" is the newest.
        prune(dir.path(), 2, &[at("d")].into());
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a", "b", "d"]);
    }

    #[test]
    fn a_file_is_cut_where_its_own_lines_end() {
        let text = include_str!("../../tests/fixtures/run-passed.jsonl");
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        // They are longer than what is written of the same events.
        let written = [lines[0], lines[1], lines[2], "{\"run\": \"half"].concat();
        for (known, left) in [(0, 0), (1, lines[0].len()), (3, lines[..3].concat().len())] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(written.as_bytes()).unwrap();
            cut(&mut File::options().read(true).append(true).open(file.path()).unwrap(), known).unwrap();
            assert_eq!(fs::read(file.path()).unwrap(), written.as_bytes()[..left], "{known}");
        }
        assert_eq!(whole(written.as_bytes()).count(), 3, "what was being written is no event");
        let unended = text.strip_suffix('\n').unwrap();
        assert_eq!(whole(unended.as_bytes()).count() + 1, whole(text.as_bytes()).count());
        let holed = [lines[0], lines[2]].concat();
        assert_eq!(whole(holed.as_bytes()).count(), 1);
    }
}
