//! Saves: the memory of devices that wait to be woken, on disk between leases. Nothing here needs libvirt.
//!
//! ```text
//! <root>/<slot>/lock          held by whoever makes, uses or removes saves of the slot (flock)
//! <root>/<slot>/<key>.part    being made; whatever is left of it is swept by the next one
//! <root>/<slot>/<key>.save    libvirt's file
//! <root>/<slot>/<key>.json    its record, written last: with it a save exists
//! ```
//! A slot is a domain's name: name, UUID and MAC are in the saved memory, and libvirt changes none of them. The key is a
//! hash over all that the memory depends on, so a save of another image, QEMU or processor is never found, only removed.
//! [`Room`] bounds what all slots take together.

mod room;
mod unsaved;

pub use room::Room;
pub use unsaved::Unsaved;

use crate::support::atomic_file;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Counts up when saves of before are of no use.
const VERSION: u32 = 1;
/// How many saves one slot may have: that of the image in use, and that of the one before.
const KEPT: usize = 2;
/// What must stay free on the disk beyond a save's most, in bytes.
const SPARE: u64 = 256 << 20;

/// What a save's memory depends on.
#[derive(Debug, Serialize)]
pub struct Basis<'a> {
    /// The domain's description: image, arguments, memory, processors and their model, network, paths.
    pub xml: &'a str,
    /// libvirt's and QEMU's versions, as libvirt counts.
    pub versions: (u32, u32),
    /// The host's processor, where guests see it; else empty.
    pub processor: &'a str,
}

impl Basis<'_> {
    /// The save's name.
    pub fn key(&self) -> String {
        let json = serde_json::to_vec(&(VERSION, self)).unwrap_or_default();
        data_encoding::HEXLOWER.encode(&Sha256::digest(json))
    }
}

/// A save as it was made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    sha256: String,
    seen: Seen,
    /// The image's files, without which it is of no use.
    needs: Vec<PathBuf>,
}

/// What tells whether a file has been changed since it was hashed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    size: u64,
    modified: (i64, i64),
    inode: u64,
}

impl Seen {
    fn of(file: &Path) -> io::Result<Self> {
        let meta = fs::metadata(file)?;
        Ok(Self { size: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()), inode: meta.ino() })
    }
}

/// The saves of one slot, while nobody else has them.
#[derive(Debug)]
pub struct Slot {
    dir: PathBuf,
    _lock: File,
}

impl Slot {
    /// Takes the slot; none when another has it.
    pub fn take(root: &Path, name: &str) -> io::Result<Option<Self>> {
        let dir = root.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { dir, _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn file(&self, key: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{key}.{kind}"))
    }

    /// The save with this key, if it is there and still what was made; else why it was thrown away, or none when there
    /// was none. It is hashed again only when size, time or inode have changed.
    pub fn find(&self, key: &str) -> io::Result<Result<PathBuf, Option<String>>> {
        let (file, record) = (self.file(key, "save"), self.file(key, "json"));
        let text = match fs::read(&record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(None)),
            text => text?,
        };
        let why = match serde_json::from_slice::<Record>(&text) {
            Err(error) => format!("its record cannot be read: {error}"),
            Ok(known) => match Seen::of(&file) {
                Err(error) => format!("its file cannot be read: {error}"),
                Ok(seen) if seen == known.seen => {
                    // What was not used for the longest time goes first.
                    File::options().write(true).open(&record)?.set_modified(SystemTime::now())?;
                    return Ok(Ok(file));
                }
                Ok(seen) if seen.size == known.seen.size && hash(&file)? == known.sha256 => {
                    self.record(key, &Record { seen, ..known })?;
                    return Ok(Ok(file));
                }
                Ok(_) => "its file is not what was saved".to_owned(),
            },
        };
        self.remove(key)?;
        Ok(Err(Some(why)))
    }

    /// Where a save is to be made. `most` is how large it may become, in bytes. What an earlier attempt has left is
    /// removed first.
    pub fn begin(&self, key: &str, most: u64) -> io::Result<PathBuf> {
        for (path, _) in self.entries("part")? {
            fs::remove_file(path)?;
        }
        let free = rustix::fs::statvfs(&self.dir)?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        if free < most.saturating_add(SPARE) {
            let text = format!("{} MiB are free for a save of up to {} MiB", free >> 20, most >> 20);
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        Ok(self.file(key, "part"))
    }

    /// What was made is whole: from now on it is found. The oldest of too many go.
    pub fn finish(&self, key: &str, needs: Vec<PathBuf>) -> io::Result<PathBuf> {
        let (part, file) = (self.file(key, "part"), self.file(key, "save"));
        File::open(&part)?.sync_all()?;
        let sha256 = hash(&part)?;
        fs::rename(&part, &file)?;
        self.record(key, &Record { sha256, seen: Seen::of(&file)?, needs })?;
        let mut saves = self.entries("json")?;
        saves.sort_by_key(|(path, _)| fs::metadata(path).and_then(|meta| meta.modified()).ok());
        let others = saves.iter().filter(|(_, other)| other != key).rev();
        for (_, old) in others.skip(KEPT - 1) {
            self.remove(old)?;
        }
        Ok(file)
    }

    fn record(&self, key: &str, record: &Record) -> io::Result<()> {
        let json = serde_json::to_vec(record).map_err(io::Error::other)?;
        atomic_file::write(&self.file(key, "json"), &json, 0o600)
    }

    /// Removes a save, or what there is of one. Answers how many bytes that freed.
    pub fn remove(&self, key: &str) -> io::Result<u64> {
        let mut freed = 0;
        // The record first: without it nobody takes the rest for a save.
        for kind in ["json", "save", "part"] {
            let path = self.file(key, kind);
            let size = fs::metadata(&path).map_or(0, |meta| meta.len());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
                Ok(()) => freed += size,
            }
        }
        Ok(freed)
    }

    /// The files of a kind, and their keys.
    fn entries(&self, kind: &str) -> io::Result<Vec<(PathBuf, String)>> {
        let key = |path: &Path| {
            let fits = path.extension().is_some_and(|extension| extension == kind);
            fits.then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten()
        };
        let paths = fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.path()));
        let paths: io::Result<Vec<PathBuf>> = paths.collect();
        Ok(paths?.into_iter().filter_map(|path| Some((path.clone(), key(&path)?))).collect())
    }
}

/// Removes the saves below `root` whose image is gone, and what was left half made. A slot that is in use is left alone.
/// Answers how many saves went, and how many bytes that freed.
pub fn prune(root: &Path) -> io::Result<(usize, u64)> {
    let slots = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        slots => slots?,
    };
    let (mut removed, mut freed) = (0, 0);
    for slot in slots {
        let name = slot?.file_name().to_string_lossy().into_owned();
        let Some(slot) = Slot::take(root, &name)? else { continue };
        for (path, key) in slot.entries("json")? {
            let record = serde_json::from_slice::<Record>(&fs::read(&path)?).ok();
            if !record.is_some_and(|record| record.needs.iter().all(|file| file.exists())) {
                freed += slot.remove(&key)?;
                removed += 1;
            }
        }
        for (_, key) in slot.entries("part")?.into_iter().chain(slot.entries("save")?) {
            if !slot.file(&key, "json").exists() {
                freed += slot.remove(&key)?;
            }
        }
    }
    Ok((removed, freed))
}

/// SHA-256 of a file, hex.
fn hash(path: &Path) -> io::Result<String> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(data_encoding::HEXLOWER.encode(&hash.finalize())),
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(slot: &Slot, key: &str, image: &Path) -> PathBuf {
        let part = slot.begin(key, 1).unwrap();
        fs::write(part, format!("memory of {key}")).unwrap();
        slot.finish(key, vec![image.to_owned()]).unwrap()
    }

    #[test]
    fn a_save_is_found_until_a_byte_of_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::take(dir.path(), "vm").unwrap().unwrap();
        assert_eq!(slot.find("a").unwrap(), Err(None));
        let file = make(&slot, "a", dir.path());
        assert_eq!(slot.find("a").unwrap(), Ok(file.clone()));
        // Touched, and the same.
        let text = fs::read(&file).unwrap();
        fs::write(&file, &text).unwrap();
        assert_eq!(slot.find("a").unwrap(), Ok(file.clone()));
        let mut wrong = text.clone();
        *wrong.last_mut().unwrap() ^= 1;
        for damage in [wrong.as_slice(), text.get(..3).unwrap()] {
            let file = make(&slot, "a", dir.path());
            fs::write(&file, damage).unwrap();
            assert_eq!(slot.find("a").unwrap(), Err(Some("its file is not what was saved".to_owned())));
            assert!(!file.exists(), "it was kept");
            assert_eq!(slot.find("a").unwrap(), Err(None));
        }
        make(&slot, "a", dir.path());
        fs::write(slot.file("a", "json"), "{").unwrap();
        assert!(slot.find("a").unwrap().unwrap_err().unwrap().starts_with("its record cannot be read"));
    }

    #[test]
    fn half_a_save_is_none_and_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::take(dir.path(), "vm").unwrap().unwrap();
        let part = slot.begin("a", 1).unwrap();
        fs::write(&part, "mem").unwrap();
        assert_eq!(slot.find("a").unwrap(), Err(None));
        // Killed after the rename: a file without a record.
        fs::write(slot.file("b", "save"), "memory").unwrap();
        assert_eq!(slot.find("b").unwrap(), Err(None));
        assert!(slot.begin("c", 1).is_ok() && !part.exists());
        let full = slot.begin("c", u64::MAX / 2).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        drop(slot);
        assert_eq!(prune(dir.path()).unwrap(), (0, 6));
    }

    #[test]
    fn saves_go_with_their_image_and_the_oldest_with_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let (root, image) = (dir.path().join("saves"), dir.path().join("image"));
        fs::write(&image, "").unwrap();
        let slot = Slot::take(&root, "vm").unwrap().unwrap();
        for (age, key) in [(3, "old"), (2, "older image"), (1, "new")] {
            make(&slot, key, &image);
            let made = std::time::SystemTime::now() - std::time::Duration::from_secs(60 * age);
            let record = File::options().write(true).open(slot.file(key, "json")).unwrap();
            record.set_modified(made).unwrap();
        }
        assert_eq!(slot.find("old").unwrap(), Err(None));
        assert!(slot.find("older image").unwrap().is_ok() && slot.find("new").unwrap().is_ok());
        assert!(Slot::take(&root, "vm").unwrap().is_none(), "it is taken");
        fs::remove_file(&image).unwrap();
        assert_eq!(prune(&root).unwrap().0, 0, "it is in use");
        drop(slot);
        assert_eq!(prune(&root).unwrap().0, 2);
        assert_eq!(prune(&dir.path().join("none")).unwrap(), (0, 0));
    }

    #[test]
    fn a_key_is_of_all_that_memory_depends_on() {
        let basis = || Basis { xml: "<domain/>", versions: (9_000_000, 7_002_022), processor: "" };
        assert_eq!(basis().key(), basis().key());
        for other in [
            Basis { xml: "<domain />", ..basis() },
            Basis { versions: (9_000_001, 7_002_022), ..basis() },
            Basis { versions: (9_000_000, 8_000_000), ..basis() },
            Basis { processor: "another", ..basis() },
        ] {
            assert_ne!(other.key(), basis().key());
        }
    }
}
