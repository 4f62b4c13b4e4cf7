//! Writes runs' bundles, beside the runs: the verdict is told before, and a disk that is slow or full makes gaps in the
//! bundle and nothing else.
//!
//! ```text
//!  run task ── journals ──► bounded queue ──► writing thread (packs, spools) ──► <bundles>/<run>.tar
//!                 └─ queue full until the time is up, or no room ──► what is in memory, with gaps
//! ```

use super::evidence::{Span, console_bytes, journal_line, run_file};
use super::parts::{BootImage, Parts};
use crate::bundle::{self, Packer};
use crate::journal::{Item, JournalError, Since};
use crate::model::bundle::{About, BundleFile, BundleGap, Retention};
use crate::model::id::{DeviceId, LabName, RunId};
use crate::model::run::RunEvent;
use crate::model::scenario::Scenario;
use crate::support::chain::Chain;
use crate::support::clock;
use crate::support::lock::lock;
use crate::wire::request::BUNDLE_PIECE;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

/// How long a bundle may take to be written: whoever waits for it is told after that what there is.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// How many pieces may wait for the disk: journal records of at most 64 KB.
const QUEUE: usize = 64;
/// The most bytes of bundles that are kept in memory, for want of room on the disk.
const MAX_MEMORY: usize = 16 << 20;
/// How long a question for a bundle that is being written is held back.
const HOLD: Duration = Duration::from_secs(5);

/// A bundle cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BundleError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} is not a file of the bundle")]
    NoSuchFile { path: String },
    #[error("there is none: it was pruned, or the coordinator died before it was written")]
    None,
}

/// What a run's bundle is made of.
pub(super) struct Evidence {
    pub(super) scenario: Scenario,
    /// All of them, the verdict's too.
    pub(super) events: Vec<RunEvent>,
    pub(super) spans: Vec<Span>,
    /// Files of which nothing is known any more.
    pub(super) lost: Vec<String>,
}

/// The bundles of a coordinator.
pub(super) struct Bundles {
    dir: PathBuf,
    lab: LabName,
    image: BootImage,
    /// What devices boot that boot another.
    images: BTreeMap<DeviceId, Arc<BootImage>>,
    policy: Retention,
    limit: Duration,
    /// No await happens under these locks.
    memory: Mutex<BTreeMap<RunId, Arc<Vec<u8>>>>,
    writing: Mutex<BTreeSet<RunId>>,
    /// Changes when a bundle is written.
    written: watch::Sender<u64>,
}

/// A run's bundle is being written for as long as this lives.
pub(super) struct Writing {
    bundles: Arc<Bundles>,
    run: RunId,
}

impl Drop for Writing {
    fn drop(&mut self) {
        lock(&self.bundles.writing).remove(&self.run);
        self.bundles.written.send_modify(|count| *count += 1);
    }
}

/// What the writing thread is told.
enum Op {
    Begin(String),
    Bytes(Bytes),
    End,
    Gap(String, String),
    /// That was all: without it the bundle is not whole, and is thrown away.
    Done,
}

impl Bundles {
    pub(super) fn new(parts: &Parts) -> Arc<Self> {
        Arc::new(Self {
            dir: parts.bundles.clone(),
            lab: parts.lab.clone(),
            image: parts.image.clone(),
            images: parts.images.clone(),
            policy: parts.retention,
            limit: WRITE_LIMIT,
            memory: Mutex::default(),
            writing: Mutex::default(),
            written: watch::Sender::new(0),
        })
    }

    /// From now on whoever asks for the run's bundle is told to wait.
    pub(super) fn begin(self: &Arc<Self>, run: &RunId) -> Writing {
        lock(&self.writing).insert(run.clone());
        Writing { bundles: Arc::clone(self), run: run.clone() }
    }

    fn archive(&self, run: &RunId) -> PathBuf {
        self.dir.join(format!("{run}.{}", bundle::ARCHIVE))
    }

    /// Whether the run has a bundle on disk.
    pub(super) fn has(&self, run: &RunId) -> bool {
        self.archive(run).exists()
    }

    /// The one file that a run's bundle is; none while it is being written.
    pub(super) async fn describe(&self, run: &RunId) -> Result<Option<BundleFile>, BundleError> {
        let mut written = self.written.subscribe();
        let idle = written.wait_for(|_| !lock(&self.writing).contains(run));
        if tokio::time::timeout(HOLD, idle).await.is_err() {
            return Ok(None);
        }
        let path = format!("{run}.{}", bundle::ARCHIVE);
        let (archive, memory) = (self.archive(run), lock(&self.memory).get(run).cloned());
        let described = tokio::task::spawn_blocking(move || match (hashed(&archive), memory) {
            (Err(_), Some(memory)) => {
                let sha256 = hex(Sha256::new().chain_update(memory.as_slice()));
                Ok((memory.len() as u64, sha256))
            }
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Err(BundleError::None),
            (Err(source), _) => Err(BundleError::Read { path: archive, source }),
            (Ok(hashed), _) => Ok(hashed),
        });
        let described = described.await.unwrap_or(Err(BundleError::None));
        described.map(|(size, sha256)| Some(BundleFile { path, size, sha256 }))
    }

    /// At most [`BUNDLE_PIECE`] bytes of a run's bundle, whose one file has this name.
    pub(super) fn read(&self, run: &RunId, name: &str, offset: u64) -> Result<Vec<u8>, BundleError> {
        let path = self.archive(run);
        // The name comes from outside: it is compared and never followed.
        if path.file_name().is_none_or(|file| file != name) {
            return Err(BundleError::NoSuchFile { path: name.chars().take(200).collect() });
        }
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut piece = Vec::new();
            file.take(BUNDLE_PIECE as u64).read_to_end(&mut piece)?;
            Ok(piece)
        };
        match (read(), lock(&self.memory).get(run)) {
            (Ok(piece), _) => Ok(piece),
            (Err(_), Some(memory)) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(memory.len());
                let to = from.saturating_add(BUNDLE_PIECE).min(memory.len());
                Ok(memory.get(from..to).unwrap_or_default().to_vec())
            }
            (Err(source), _) => Err(BundleError::Read { path, source }),
        }
    }

    fn remember(&self, run: &RunId, archive: Vec<u8>) {
        let mut memory = lock(&self.memory);
        memory.insert(run.clone(), Arc::new(archive));
        // Ids of runs hold their time, but begin with a name: any that goes is as good as another.
        while memory.len() > 1 && memory.values().map(|archive| archive.len()).sum::<usize>() > MAX_MEMORY {
            let other = memory.keys().find(|other| *other != run).cloned();
            let Some(other) = other else { break };
            memory.remove(&other);
        }
    }
}

impl Writing {
    /// Writes the bundle, as far as that can be done in time; then throws away what is kept for too long.
    pub(super) async fn write(self, evidence: Evidence) {
        let bundles = &self.bundles;
        let deadline = Instant::now() + bundles.limit;
        let Evidence { scenario, events, spans, lost } = evidence;
        // Of several the first.
        let image = spans.first().and_then(|span| bundles.images.get(&span.device));
        let image = image.map_or(&bundles.image, |image| image);
        let mut about = About::of(&events);
        if let Some(about) = &mut about {
            about.lab = Some(bundles.lab.clone());
            env!("CARGO_PKG_VERSION").clone_into(&mut about.writer);
        }
        let small =
            [("run.json", run_file(&scenario, image, events.last())), ("events.jsonl", lines(&events))];
        let archive = bundles.archive(&self.run);
        let mut packer = Packer::new(archive.with_extension("spool"));
        small.iter().for_each(|(name, content)| packer.add(name, content));
        lost.iter().for_each(|file| packer.gap(file, "the journal says nothing of the run"));
        let (queue, ops) = mpsc::channel(QUEUE);
        let (of, to) = (about.clone(), archive.clone());
        let thread = tokio::task::spawn_blocking(move || pack(packer, ops, of, &to));
        // A queue that is full until then ends with this, and the thread with it, once the disk lets it.
        let _ = timeout_at(deadline, feed(&spans, queue)).await;
        let cause = match timeout_at(deadline, thread).await {
            Ok(Ok(Ok(Some(gaps)))) => {
                for BundleGap { path, cause } in gaps {
                    tracing::warn!(run = %self.run, path, cause, "the bundle has a gap");
                }
                return self.prune().await;
            }
            Ok(Ok(Err(error))) => Chain(&error).to_string(),
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(Ok(None))) | Err(_) => "the disk was too slow".to_owned(),
        };
        tracing::warn!(run = %self.run, cause, "the bundle is kept in memory, without consoles and journals");
        let mut packer = Packer::new(archive.with_extension("none"));
        small.iter().for_each(|(name, content)| packer.add(name, content));
        spans.iter().flat_map(Span::files).for_each(|file| packer.gap(&file, cause.as_str()));
        bundles.remember(&self.run, packer.finish_in_memory(about, &cause));
    }

    async fn prune(self) {
        let (dirs, policy) = (vec![self.bundles.dir.clone()], self.bundles.policy);
        let pruned =
            tokio::task::spawn_blocking(move || bundle::prune(&dirs, &policy, clock::wall_ms(), false));
        match pruned.await {
            Ok(Ok(gone)) => {
                for (old, why) in gone {
                    tracing::info!(run = %old.run, why = why.name(), "an old bundle is removed");
                }
            }
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "old bundles are not removed"),
            Err(error) => tracing::warn!(%error, "old bundles are not removed"),
        }
    }
}

/// What the writing thread does: a file that cannot be written is a gap, and the next one is tried. None when it was
/// given up meanwhile.
fn pack(
    mut packer: Packer,
    mut ops: mpsc::Receiver<Op>,
    about: Option<About>,
    to: &std::path::Path,
) -> Result<Option<Vec<BundleGap>>, bundle::BundleError> {
    let mut open: Option<String> = None;
    loop {
        let done = match ops.blocking_recv() {
            Some(Op::Done) => break,
            None => return Ok(None),
            Some(Op::Begin(name)) => {
                open = Some(name.clone());
                packer.begin(&name)
            }
            Some(Op::Bytes(bytes)) if open.is_some() => packer.write(&bytes),
            Some(Op::End) if open.is_some() => packer.end(),
            Some(Op::Bytes(_) | Op::End) => Ok(()),
            Some(Op::Gap(name, cause)) => {
                open = None;
                packer.gap(&name, cause);
                Ok(())
            }
        };
        if let Err(error) = done
            && let Some(name) = open.take()
        {
            packer.gap(&name, Chain(&error).to_string());
        }
    }
    let gaps = packer.gaps().to_vec();
    packer.finish(about, None, to)?;
    Ok(Some(gaps))
}

/// Sends what the devices' journals hold of the run.
async fn feed(spans: &[Span], queue: mpsc::Sender<Op>) {
    for span in spans {
        let [console, journal] = span.files();
        for (name, is_console) in [(console, true), (journal, false)] {
            // A thread that has ended takes nothing more: it says why.
            if queue.send(Op::Begin(name.clone())).await.is_err() {
                return;
            }
            let end = match feed_file(span, is_console, &queue).await {
                Ok(()) => Op::End,
                Err(error) => Op::Gap(name, Chain(&error).to_string()),
            };
            if queue.send(end).await.is_err() {
                return;
            }
        }
    }
    let _ = queue.send(Op::Done).await;
}

async fn feed_file(span: &Span, console: bool, queue: &mpsc::Sender<Op>) -> Result<(), JournalError> {
    let mut cursor = span.journal.cursor(Since::Sequence(span.first));
    let mut next = span.first;
    while next <= span.last {
        let item = cursor.next().await?;
        next = match &item {
            Item::Record(record) => record.sequence + 1,
            Item::Missing { to, .. } => *to,
        };
        let bytes = if console { console_bytes(&item) } else { Some(journal_line(&item)) };
        if let Some(bytes) = bytes
            && queue.send(Op::Bytes(bytes)).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

fn lines(events: &[RunEvent]) -> Vec<u8> {
    let mut lines = Vec::new();
    for event in events {
        // Events came over the wire as JSON, or go there as such.
        if serde_json::to_writer(&mut lines, event).is_ok() {
            lines.push(b'\n');
        }
    }
    lines
}

fn hex(hash: Sha256) -> String {
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

fn hashed(path: &std::path::Path) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let size = io::copy(&mut File::open(path)?, &mut hash)?;
    Ok((size, hex(hash)))
}

#[cfg(test)]
mod tests;
