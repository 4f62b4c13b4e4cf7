//! The store of images: where their files lie, and whether they are still what was built.
//!
//! ```text
//! <store>/lock                one builder or remover at a time (flock)
//! <store>/images/<id>.json    manifests; <id> is the file's SHA-256. With it an image exists; it is held
//!                             locked by whoever boots the image (flock, shared)
//! <store>/parts/<sha256>      the files of images, each once
//! <store>/bases/<key>.json    which parts a recipe came to
//! <store>/seen/<sha256>.json  size, time and inode of a part when it was last hashed
//! <store>/apt/<suite>-<arch>/ the packages of the last build, kept for the next
//! <store>/work                a build's own; whatever lies here at the start of one is swept
//! ```
//! A file appears in `parts` and `images` by rename only, so what is there is whole.

use super::error::{At, ImageError};
use super::manifest::{Image, Layer, MANIFEST_VERSION, Manifest, Part, sha256};
use super::recipe::Recipe;
use crate::model::device::Arch;
use crate::support::atomic_file;
use crate::support::chain::Chain;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where images lie unless [`STORE_VARIABLE`] says otherwise. libvirt's own user must be able to read there.
pub const DEFAULT_STORE: &str = "/var/cache/pilab/images";

/// The environment variable that names another store.
pub const STORE_VARIABLE: &str = "PILAB_IMAGE_DIR";

/// A store of images.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// How thoroughly to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Hash what has changed since it was last hashed, as size, modification time and inode tell.
    Changed,
    /// Hash all.
    All,
}

/// A part when it was last hashed. The time of status change is left out: libvirt changes the owner of
/// disks whenever a machine starts.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    size: u64,
    modified: (i64, i64),
    inode: u64,
}

impl Seen {
    fn of(file: &Path) -> std::io::Result<Self> {
        let meta = fs::metadata(file)?;
        Ok(Self { size: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()), inode: meta.ino() })
    }
}

/// Held while a store is changed; given back when dropped, or when the process dies.
pub(super) struct StoreLock {
    _file: File,
}

impl Store {
    /// The store in `root`, which is made when something is put into it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The store that the environment names, or the default one.
    pub fn from_environment() -> Self {
        let named = std::env::var_os(STORE_VARIABLE).filter(|dir| !dir.is_empty());
        Self::new(named.map_or_else(|| PathBuf::from(DEFAULT_STORE), PathBuf::from))
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All images that can be read, the newest first. One that cannot is told in the log and is no reason to
    /// do without the others.
    pub fn ls(&self) -> Result<Vec<Image>, ImageError> {
        let mut found: Vec<(SystemTime, Image)> = Vec::new();
        for id in self.ids()? {
            let path = self.manifest_path(&id);
            let modified = fs::metadata(&path).and_then(|meta| meta.modified()).at("read", &path);
            match modified.and_then(|modified| Ok((modified, self.load(&id)?))) {
                Ok(image) => found.push(image),
                Err(error) => {
                    let error = Chain(&error).to_string();
                    tracing::warn!(%error, "an image is left out; pilab image rm removes it");
                }
            }
        }
        found.sort_by(|a, b| (b.0, &b.1.id).cmp(&(a.0, &a.1.id)));
        Ok(found.into_iter().map(|(_, image)| image).collect())
    }

    /// The ids of all images, also of those that cannot be read.
    pub(super) fn ids(&self) -> Result<Vec<String>, ImageError> {
        let all = names(&self.root.join("images"))?;
        let ids = all.iter().filter_map(|name| name.strip_suffix(".json"));
        Ok(ids.filter(|id| is_sha256(id)).map(str::to_owned).collect())
    }

    /// The whole id of the image whose id is `id`, or begins so.
    pub fn resolve(&self, id: &str) -> Result<String, ImageError> {
        let mut found = self.ids()?;
        found.retain(|name| name.starts_with(id));
        match found.len() {
            0 => Err(ImageError::NoImage { id: id.to_owned() }),
            1 => Ok(found.remove(0)),
            count => Err(ImageError::Ambiguous { id: id.to_owned(), count }),
        }
    }

    /// The image whose id is `id`, or begins so.
    pub fn get(&self, id: &str) -> Result<Image, ImageError> {
        self.load(&self.resolve(id)?)
    }

    /// The newest image made from `recipe` for `arch`, whichever agent it has.
    pub fn find(&self, recipe: &Recipe, arch: Arch) -> Result<Option<Image>, ImageError> {
        let key = super::base::key(recipe, arch, None)?;
        Ok(self.ls()?.into_iter().find(|image| image.manifest.recipe == key))
    }

    /// Checks every part of `image` against its SHA-256.
    pub async fn verify(&self, image: &Image, check: Check) -> Result<(), ImageError> {
        let mut tasks = tokio::task::JoinSet::new();
        for (role, part) in image.manifest.parts() {
            let (store, part, id) = (self.clone(), part.clone(), image.id.clone());
            tasks.spawn_blocking(move || store.verify_part(&id, role, &part, check));
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|e| ImageError::io("verify", &self.root, std::io::Error::other(e)))??;
        }
        Ok(())
    }

    fn verify_part(&self, id: &str, role: String, part: &Part, check: Check) -> Result<(), ImageError> {
        let path = self.part_path(&part.sha256);
        let image = id.to_owned();
        if !path.exists() {
            return Err(ImageError::PartMissing { part: role, image, path });
        }
        match self.mismatch(part, check)? {
            None => Ok(()),
            Some(found) => Err(ImageError::PartCorrupt { part: role, image, path, found }),
        }
    }

    /// The SHA-256 of a part that has another one than it should. What was known of it is forgotten then: the
    /// next one who looks hashes it too, whatever its size and time, and so the next build makes it anew.
    pub(super) fn mismatch(&self, part: &Part, check: Check) -> Result<Option<String>, ImageError> {
        let path = self.part_path(&part.sha256);
        let seen = Seen::of(&path).at("read", &path)?;
        let before = fs::read(self.seen_path(&part.sha256)).ok();
        let before = before.and_then(|bytes| serde_json::from_slice::<Seen>(&bytes).ok());
        if check == Check::Changed && before.as_ref() == Some(&seen) && seen.size == part.size {
            return Ok(None);
        }
        let found = hash_file(&path)?;
        if found == part.sha256 {
            self.note_seen(&part.sha256, &seen);
            return Ok(None);
        }
        self.forget_seen(&part.sha256);
        Ok(Some(found))
    }

    /// Without the right to write here, what is noted stays: who has it removes the image, which forgets too.
    pub(super) fn forget_seen(&self, sha256: &str) {
        let _ = fs::remove_file(self.seen_path(sha256));
    }

    /// A reader without the right to write here only hashes again next time.
    fn note_seen(&self, sha256: &str, seen: &Seen) {
        let path = self.seen_path(sha256);
        let written = serde_json::to_vec(seen).map_err(std::io::Error::other);
        let _ = written.and_then(|json| atomic_file::write(&path, &json, 0o644));
    }

    /// Takes the store for changes, if nobody has it.
    pub(super) fn try_lock(&self) -> Result<StoreLock, ImageError> {
        for directory in ["", "images", "parts", "bases", "seen", "apt", "work"] {
            let path = self.root.join(directory);
            fs::create_dir_all(&path).at("create", &path)?;
            // Whatever the umask: libvirt's user reads here.
            if fs::metadata(&path).at("read", &path)?.permissions().mode() & 0o777 != 0o755 {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .at("change the mode of", &path)?;
            }
        }
        let path = self.root.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path).at("open", &path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(StoreLock { _file: file }),
            Err(error) => Err(ImageError::io("lock", &path, error.into())),
        }
    }

    /// Moves `file`, which must lie in this store's `work`, to its place.
    pub(super) fn put(&self, file: &Path) -> Result<Part, ImageError> {
        let sha256 = hash_file(file)?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).at("change the mode of", file)?;
        File::open(file).and_then(|file| file.sync_all()).at("write", file)?;
        let path = self.part_path(&sha256);
        fs::rename(file, &path).at("write", &path)?;
        let seen = Seen::of(&path).at("read", &path)?;
        self.note_seen(&sha256, &seen);
        Ok(Part { sha256, size: seen.size })
    }

    /// Writes `content` as a part.
    pub(super) fn put_bytes(&self, content: &[u8]) -> Result<Part, ImageError> {
        let sha256 = sha256(content);
        let path = self.part_path(&sha256);
        atomic_file::write(&path, content, 0o644).at("write", &path)?;
        let seen = Seen::of(&path).at("read", &path)?;
        self.note_seen(&sha256, &seen);
        Ok(Part { sha256, size: seen.size })
    }

    /// Writes a manifest: from now on the image exists.
    pub(super) fn publish(&self, manifest: &Manifest) -> Result<Image, ImageError> {
        let json = self.encode(manifest)?;
        let id = sha256(&json);
        let path = self.manifest_path(&id);
        // One that is there stays the file that it is: who uses the image has it locked.
        if fs::read(&path).ok().as_deref() != Some(json.as_slice()) {
            atomic_file::write(&path, &json, 0o644).at("write", &path)?;
        }
        self.load(&id)
    }

    /// The bytes of a manifest; their SHA-256 is the image's id.
    pub(super) fn encode(&self, manifest: &Manifest) -> Result<Vec<u8>, ImageError> {
        manifest.to_json().map_err(|e| ImageError::io("encode manifest in", &self.root, e.into()))
    }

    /// Where a part of an image lies.
    pub fn part(&self, part: &Part) -> PathBuf {
        self.part_path(&part.sha256)
    }

    pub(super) fn part_path(&self, sha256: &str) -> PathBuf {
        self.root.join("parts").join(sha256)
    }

    /// Where the packages of the last build lie, for the next.
    pub(super) fn package_cache(&self, suite: &str, arch: Arch) -> PathBuf {
        self.root.join("apt").join(format!("{suite}-{arch}"))
    }

    fn seen_path(&self, sha256: &str) -> PathBuf {
        self.root.join("seen").join(format!("{sha256}.json"))
    }

    pub(super) fn manifest_path(&self, id: &str) -> PathBuf {
        self.root.join("images").join(format!("{id}.json"))
    }

    pub(super) fn load(&self, id: &str) -> Result<Image, ImageError> {
        let path = self.manifest_path(id);
        let json = fs::read(&path).at("read", &path)?;
        let wrong = |source| ImageError::Manifest { path: path.clone(), source };
        let manifest: Manifest = serde_json::from_slice(&json).map_err(|e| wrong(Some(e)))?;
        let names_are_hashes = manifest.parts().iter().all(|(_, part)| is_sha256(&part.sha256));
        if manifest.version != MANIFEST_VERSION || sha256(&json) != id || !names_are_hashes {
            return Err(wrong(None));
        }
        let layer = |part: &Part| Layer {
            path: self.part_path(&part.sha256),
            sha256: part.sha256.clone(),
            size: part.size,
        };
        Ok(Image {
            id: id.to_owned(),
            kernel: self.part_path(&manifest.kernel.sha256),
            initramfs: self.part_path(&manifest.initramfs.sha256),
            layers: manifest.layers.iter().map(layer).collect(),
            manifest,
        })
    }
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The names in a directory; none when there is no such directory.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, ImageError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", directory)?,
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// SHA-256 of a file, hex.
pub fn hash_file(path: &Path) -> Result<String, ImageError> {
    let mut file = File::open(path).at("read", path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).at("read", path)? {
            0 => return Ok(data_encoding::HEXLOWER.encode(&hash.finalize())),
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}
