//! A directory of bundles: what is in it, and what goes in time.

use super::error::BundleError;
use super::open::{Bundle, Form};
use super::{ARCHIVE, pack};
use crate::model::bundle::{About, LIST, Retention};
use crate::model::id::RunId;
use crate::plan::retention::{self, Item, Why};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// What was begun so long ago is begun by nobody who still lives.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A bundle that is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its run, by the file's name.
    pub run: RunId,
    /// Where it lies.
    pub path: PathBuf,
    /// How.
    pub form: Form,
    /// From when it is: milliseconds since 1970-01-01 UTC, by the file system.
    pub at_ms: u64,
    /// How much room it takes.
    pub bytes: u64,
}

impl Kept {
    /// What it is of; none when it cannot be read.
    pub fn about(&self) -> Option<About> {
        Bundle::open(&self.path).ok()?.about()
    }
}

/// The bundles of a directory, the oldest first. What is no bundle by its name is passed over; a directory that is not
/// there has none.
pub fn kept(dir: &Path) -> Result<Vec<Kept>, BundleError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(BundleError::Read { path: dir.to_owned(), source }),
    };
    let mut found: Vec<Kept> = entries.flatten().filter_map(|entry| one(&entry.path())).collect();
    found.sort_by(|a, b| (a.at_ms, &a.run).cmp(&(b.at_ms, &b.run)));
    Ok(found)
}

fn one(path: &Path) -> Option<Kept> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let (form, run) = match path.extension() {
        None if metadata.is_dir() => (Form::Directory, path.file_name()?),
        Some(extension) if extension == ARCHIVE && metadata.is_file() => (Form::Archive, path.file_stem()?),
        _ => return None,
    };
    let run = RunId::new(run.to_str()?).ok()?;
    let (at, bytes) = match form {
        Form::Archive => (metadata.modified().ok()?, metadata.len()),
        Form::Directory => {
            let (list, events) = (path.join(LIST), path.join("events.jsonl"));
            let file = fs::metadata(list).or_else(|_| fs::metadata(events)).ok()?;
            (file.modified().ok()?, size(path))
        }
    };
    let at_ms = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Some(Kept { run, path: path.to_owned(), form, at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX), bytes })
}

fn size(dir: &Path) -> u64 {
    let (mut sum, mut dirs) = (0_u64, vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(file) if file.is_dir() => dirs.push(entry.path()),
                Ok(file) => sum = sum.saturating_add(file.len()),
                Err(_) => {}
            }
        }
    }
    sum
}

/// Removes what the rules say of these directories together, and what was begun long ago and never finished. Answers what
/// went, or with `try_only` what would, the oldest first, each with what it broke; or the first that could not be removed,
/// when all others have gone.
pub fn prune(
    dirs: &[PathBuf],
    policy: &Retention,
    now_ms: u64,
    try_only: bool,
) -> Result<Vec<(Kept, Why)>, BundleError> {
    let mut all = Vec::new();
    for dir in dirs {
        all.extend(kept(dir)?);
    }
    let items: Vec<Item> = all.iter().map(|kept| Item { at_ms: kept.at_ms, bytes: kept.bytes }).collect();
    let due = retention::due(policy, &items, now_ms);
    let gone: Vec<_> = due.into_iter().filter_map(|(at, why)| Some((all.get(at)?.clone(), why))).collect();
    if try_only {
        return Ok(gone);
    }
    let failed = remove_each(&gone, remove);
    dirs.iter().for_each(|dir| sweep(dir));
    failed.map_or(Ok(gone), Err)
}

/// Removes all of them that can be removed; answers the first failure. One that never goes must not keep the others.
pub(super) fn remove_each(
    gone: &[(Kept, Why)],
    remove: impl Fn(&Kept) -> io::Result<()>,
) -> Option<BundleError> {
    let mut failed = None;
    for (old, _) in gone {
        match remove(old) {
            Ok(()) => {}
            // Another process, whose run ended just now too, was there before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => drop(failed.get_or_insert(BundleError::Write { path: old.path.clone(), source })),
        }
    }
    failed
}

pub(super) fn remove(old: &Kept) -> io::Result<()> {
    match old.form {
        // Its list goes first: half of it must not look whole.
        Form::Directory => {
            let _ = fs::remove_file(old.path.join(LIST));
            fs::remove_dir_all(&old.path)
        }
        Form::Archive => fs::remove_file(&old.path),
    }
}

/// Removes what a writer that died has left.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let unfinished = path.extension().is_some_and(|e| e == "partial" || e == "spool");
        let age = entry.metadata().and_then(|file| file.modified()).ok().and_then(|at| at.elapsed().ok());
        if unfinished && age.is_some_and(|age| age > ABANDONED) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "an unfinished bundle cannot be removed");
            }
        }
    }
}

impl super::Bundle {
    /// Opens the bundle of a run in a directory of bundles; none when there is none.
    pub fn of_run(dir: &Path, run: &str) -> Option<Result<Self, BundleError>> {
        let places = [dir.join(run), pack::archive_path(dir, run)];
        places.iter().find(|path| path.exists()).map(|path| Self::open(path))
    }
}
