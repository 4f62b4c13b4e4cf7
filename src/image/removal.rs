//! What leaves the store, and what may not: an image that somebody boots stays.

use super::error::{At, ImageError};
use super::manifest::Image;
use super::store::{Store, is_sha256, names};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// An image is in use, in whichever process, until this is dropped or the process ends.
#[derive(Debug)]
pub struct InUse {
    _manifest: File,
}

/// What [`Store::prune`] did.
#[derive(Debug)]
pub struct Pruned {
    /// Old images that are gone, the newest first.
    pub removed: Vec<Image>,
    /// Old images that stay because they are in use.
    pub in_use: Vec<Image>,
    /// How many bytes that freed.
    pub freed: u64,
}

/// An image that is being removed: nobody can begin to use it.
struct Claimed {
    id: String,
    _manifest: File,
}

impl Store {
    /// Keeps an image from being removed. Takes no right to write here.
    pub fn hold(&self, image: &Image) -> Result<InUse, ImageError> {
        let path = self.manifest_path(&image.id);
        let gone = || ImageError::NoImage { id: image.id.clone() };
        let manifest = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(gone()),
            manifest => manifest.at("open", &path)?,
        };
        match flock(&manifest, FlockOperation::NonBlockingLockShared) {
            // Only who removes an image has it for himself.
            Err(Errno::WOULDBLOCK) => return Err(gone()),
            locked => locked.map_err(std::io::Error::from).at("lock", &path)?,
        }
        let held = manifest.metadata().at("read", &path)?.ino();
        if fs::metadata(&path).is_ok_and(|there| there.ino() == held) {
            Ok(InUse { _manifest: manifest })
        } else {
            Err(gone())
        }
    }

    /// Removes an image, also one whose manifest cannot be read, and each file that no other image has. Answers
    /// how many bytes that freed.
    pub fn rm(&self, id: &str) -> Result<u64, ImageError> {
        let _lock = self.try_lock()?;
        let id = self.resolve(id)?;
        match self.claim(&id)? {
            Some(claimed) => self.remove(vec![claimed]),
            None => Err(ImageError::InUse { image: id }),
        }
    }

    /// Removes all but the newest `keep` images of each recipe and architecture, unless they are in use.
    pub fn prune(&self, keep: usize) -> Result<Pruned, ImageError> {
        let _lock = self.try_lock()?;
        let mut kept: BTreeMap<(String, &str), usize> = BTreeMap::new();
        let (mut removed, mut in_use, mut claims) = (Vec::new(), Vec::new(), Vec::new());
        for image in self.ls()? {
            let kind = (image.manifest.suite.clone(), image.manifest.arch.debian());
            let kept = kept.entry(kind).or_default();
            *kept += 1;
            if *kept <= keep {
                continue;
            }
            match self.claim(&image.id)? {
                Some(claimed) => {
                    claims.push(claimed);
                    removed.push(image);
                }
                None => in_use.push(image),
            }
        }
        Ok(Pruned { removed, in_use, freed: self.remove(claims)? })
    }

    /// An image for removal; none when somebody uses it.
    fn claim(&self, id: &str) -> Result<Option<Claimed>, ImageError> {
        let path = self.manifest_path(id);
        let manifest = File::open(&path).at("open", &path)?;
        match flock(&manifest, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Claimed { id: id.to_owned(), _manifest: manifest })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(ImageError::io("lock", &path, error.into())),
        }
    }

    /// Removes images, and each file that none of the others has. The caller holds the lock.
    fn remove(&self, images: Vec<Claimed>) -> Result<u64, ImageError> {
        for Claimed { id, .. } in &images {
            // Who removes an image may do so because it is corrupt: what it shares with others is hashed again.
            for part in self.parts_of(id)? {
                self.forget_seen(&part);
            }
            let manifest = self.manifest_path(id);
            fs::remove_file(&manifest).at("remove", &manifest)?;
        }
        let mut used = BTreeSet::new();
        for id in self.ids()? {
            used.extend(self.parts_of(&id)?);
        }
        for name in names(&self.root().join("bases"))? {
            let path = self.root().join("bases").join(name);
            let record = super::base::Base::read(&path)?;
            if record.as_ref().is_some_and(|base| used.contains(&base.root.sha256)) {
                used.extend(record.iter().flat_map(|base| base.parts()).map(|part| part.sha256.clone()));
            } else {
                fs::remove_file(&path).at("remove", &path)?;
            }
        }
        let mut freed = 0;
        for name in names(&self.root().join("parts"))? {
            if !used.contains(&name) {
                freed += remove_file(&self.part_path(&name))?;
                self.forget_seen(&name);
            }
        }
        Ok(freed + self.drop_packages()?)
    }

    /// Removes the packages that are kept for suites of which there is no image any more; answers how many bytes
    /// that freed.
    fn drop_packages(&self) -> Result<u64, ImageError> {
        let suite = |image: &Image| {
            let suite = &image.manifest.suite;
            let suite = suite.strip_suffix("-backports").unwrap_or(suite);
            self.package_cache(suite, image.manifest.arch)
        };
        let kept: BTreeSet<_> = self.ls()?.iter().map(suite).collect();
        let caches = self.root().join("apt");
        let caches = names(&caches)?.into_iter().map(|name| caches.join(name));
        let mut freed = 0;
        for cache in caches.filter(|cache| !kept.contains(cache)) {
            for name in names(&cache)? {
                freed += remove_file(&cache.join(name))?;
            }
            fs::remove_dir(&cache).at("remove", &cache)?;
        }
        Ok(freed)
    }

    /// The parts of an image by their SHA-256. Of one whose manifest cannot be read, all that may be one: it may
    /// be good for another version of this program.
    fn parts_of(&self, id: &str) -> Result<Vec<String>, ImageError> {
        if let Ok(image) = self.load(id) {
            return Ok(image.manifest.parts().into_iter().map(|(_, part)| part.sha256.clone()).collect());
        }
        let path = self.manifest_path(id);
        let text = fs::read(&path).at("read", &path)?;
        let text = String::from_utf8_lossy(&text);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        Ok(words.filter(|word| is_sha256(word)).map(str::to_owned).collect())
    }
}

/// Removes a file; answers how large it was.
fn remove_file(path: &Path) -> Result<u64, ImageError> {
    let size = fs::metadata(path).map(|meta| meta.len()).unwrap_or(0);
    fs::remove_file(path).at("remove", path).map(|()| size)
}
