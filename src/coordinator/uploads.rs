//! Files that users have sent, by their bytes: `<dir>/<user>/<sha256>`, and `….part` while one is on its way. What nobody
//! has booted for a day is forgotten; what a user has at once is bounded.

use super::refusal::Refusal;
use crate::model::id::UserName;
use crate::model::upload::{FileRef, MAX_FILE, MAX_FILES, QUOTA};
use crate::support::chain::Chain;
use crate::wire::boot::{UPLOAD_PIECE, UploadPiece};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::sleep;

/// How long a file is kept after it was sent, or booted last.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked for what has become old.
const SWEEP: Duration = Duration::from_secs(3600);
/// The most files of one user, those on their way included: two boot trees.
const MAX_KEPT: usize = 2 * MAX_FILES;
/// How much of a file is hashed at a time.
const READ: usize = 1 << 20;

/// All uploads of a lab.
pub(super) struct Uploads {
    dir: PathBuf,
    /// Held while files are looked at or changed: one thing at a time.
    turn: Mutex<()>,
}

impl Uploads {
    /// In `dir`, which is made when something comes. Who may read there may read what is sent: an emulator has a user of its own.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, turn: Mutex::default() }
    }

    /// Those of the files that are not there whole, and how many bytes of each are.
    pub(super) async fn lacks(
        &self,
        user: &UserName,
        files: Vec<FileRef>,
    ) -> Result<Vec<(FileRef, u64)>, Refusal> {
        if files.len() > MAX_FILES {
            return Err(Refusal::new(format!("{} files are too many: at most {MAX_FILES}", files.len())));
        }
        if let Some(file) = files.iter().find(|file| file.bytes > MAX_FILE) {
            let error = format!("a file of {} bytes is too long: at most {MAX_FILE}", file.bytes);
            return Err(Refusal::new(error));
        }
        let dir = self.dir.join(user.as_str());
        self.blocking(move || {
            forget_old(&dir)?;
            let mut lacks = Vec::new();
            for file in files {
                match length(&whole(&dir, &file)) {
                    Some(bytes) if bytes == file.bytes => {}
                    _ => lacks.push((file.clone(), length(&part(&dir, &file)).unwrap_or_default())),
                }
            }
            Ok(lacks)
        })
        .await
    }

    /// Takes a piece in; answers how many bytes of the file are there. One that does not go on from there is left.
    pub(super) async fn take(&self, user: &UserName, piece: UploadPiece) -> Result<u64, Refusal> {
        let UploadPiece { file, offset, bytes } = piece;
        if bytes.len() > UPLOAD_PIECE || file.bytes > MAX_FILE {
            return Err(Refusal::new("the piece, or its file, is too long"));
        }
        let dir = self.dir.join(user.as_str());
        self.blocking(move || {
            if length(&whole(&dir, &file)) == Some(file.bytes) {
                return Ok(Ok(file.bytes));
            }
            fs::create_dir_all(&dir)?;
            // Whatever the umask: QEMU's user gets to what it is told the name of.
            for dir in dir.parent().into_iter().chain([dir.as_path()]) {
                fs::set_permissions(dir, Permissions::from_mode(0o711))?;
            }
            let path = part(&dir, &file);
            let there = length(&path).unwrap_or_default();
            let end = there + bytes.len() as u64;
            if offset != there || end > file.bytes {
                return Ok(Ok(there));
            }
            // Only the last one may be: of a file of no bytes, or of one that was not seen to be whole.
            if bytes.is_empty() && end != file.bytes {
                return Ok(Err(Refusal::new("the piece holds no bytes")));
            }
            let kept = entries(&dir)?;
            let full = |of: String| {
                let hint = format!("what nobody has booted for {} h is forgotten", KEPT.as_secs() / 3600);
                Ok(Err(Refusal::hinted(format!("{of} of yours are here"), hint)))
            };
            if kept.len() >= MAX_KEPT && !path.exists() {
                return full(format!("{} files", kept.len()));
            }
            if used(&kept) + bytes.len() as u64 > QUOTA {
                return full(format!("more than {QUOTA} bytes"));
            }
            let mut open = OpenOptions::new().append(true).create(true).open(&path)?;
            open.set_permissions(Permissions::from_mode(0o644))?;
            open.write_all(&bytes)?;
            if end == file.bytes {
                if hash(&path)? != file.sha256.to_string() {
                    fs::remove_file(&path)?;
                    return Ok(Err(Refusal::new("the file does not have its SHA-256: send it again")));
                }
                fs::rename(&path, whole(&dir, &file))?;
            }
            Ok(Ok(end))
        })
        .await?
    }

    /// Where a file is, which is about to be booted.
    pub(super) async fn path(&self, user: &UserName, file: FileRef) -> Result<PathBuf, Refusal> {
        let dir = self.dir.join(user.as_str());
        let found = self.blocking(move || {
            let path = whole(&dir, &file);
            if length(&path) != Some(file.bytes) {
                return Ok(None);
            }
            File::options().append(true).open(&path)?.set_modified(SystemTime::now())?;
            Ok(Some(path))
        });
        let lacks = || Refusal::hinted("a file to be booted is not here", "send it again: pilab boot does");
        found.await?.ok_or_else(lacks)
    }

    /// Forgets what is old, also of users who do not come any more, for as long as it is polled.
    pub(super) async fn keep_swept(&self) {
        loop {
            if let Err(Refusal { error, .. }) = self.sweep().await {
                tracing::warn!(error, "old uploads are not removed");
            }
            sleep(SWEEP).await;
        }
    }

    async fn sweep(&self) -> Result<(), Refusal> {
        let all = self.dir.clone();
        self.blocking(move || {
            for (dir, meta) in entries(&all)? {
                if !meta.is_dir() {
                    continue;
                }
                // What is wrong with one user's keeps nobody else's.
                if let Err(error) = forget_old(&dir) {
                    tracing::warn!(dir = %dir.display(), %error, "old uploads are not removed");
                }
                // Refused where something is left.
                let _ = fs::remove_dir(&dir);
            }
            Ok(())
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _turn = self.turn.lock().await;
        let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)));
        done.map_err(|e| {
            let dir = self.dir.display();
            Refusal::new(format!("files cannot be kept in {dir} on the coordinator's machine: {}", Chain(&e)))
        })
    }
}

fn whole(dir: &Path, file: &FileRef) -> PathBuf {
    dir.join(file.sha256.to_string())
}

fn part(dir: &Path, file: &FileRef) -> PathBuf {
    dir.join(format!("{}.part", file.sha256))
}

fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.len())
}

fn entries(dir: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))).collect()
}

fn used(kept: &[(PathBuf, fs::Metadata)]) -> u64 {
    kept.iter().map(|(_, meta)| meta.len()).sum()
}

fn forget_old(dir: &Path) -> io::Result<()> {
    for (path, meta) in entries(dir)? {
        // A clock that was set back makes nothing old.
        if meta.modified()?.elapsed().is_ok_and(|age| age > KEPT) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn hash(path: &Path) -> io::Result<String> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; READ]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(data_encoding::HEXLOWER.encode(&hash.finalize())),
            read => hash.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> FileRef {
        let sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest(bytes));
        FileRef { sha256: sha256.try_into().unwrap(), bytes: bytes.len() as u64 }
    }

    fn piece(file: &FileRef, offset: u64, bytes: &[u8]) -> UploadPiece {
        UploadPiece { file: file.clone(), offset, bytes: bytes.to_owned() }
    }

    #[tokio::test]
    async fn a_file_comes_piece_by_piece_and_each_piece_once() {
        let dir = tempfile::tempdir().unwrap();
        let (uploads, ann) = (Uploads::new(dir.path().to_owned()), UserName::new("ann").unwrap());
        let whole = file(b"abcdef");
        let lacks = async || uploads.lacks(&ann, vec![whole.clone()]).await.map_err(|e| e.error).unwrap();
        let take = async |offset, bytes: &[u8]| {
            uploads.take(&ann, piece(&whole, offset, bytes)).await.map_err(|e| e.error)
        };
        assert_eq!(lacks().await, [(whole.clone(), 0)]);
        assert_eq!(take(0, b"abc").await, Ok(3));
        assert_eq!(take(0, b"abc").await, Ok(3), "an answer that was lost is given again");
        assert_eq!(take(5, b"f").await, Ok(3), "there are no holes");
        assert_eq!(take(3, b"defghi").await, Ok(3), "no more than was announced");
        assert_eq!(lacks().await, [(whole.clone(), 3)]);
        assert!(uploads.path(&ann, whole.clone()).await.is_err(), "it is not whole");
        assert_eq!(take(3, b"def").await, Ok(6));
        assert_eq!(lacks().await, []);
        let path = uploads.path(&ann, whole.clone()).await.map_err(|e| e.error).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abcdef");
        let bob = UserName::new("bob").unwrap();
        assert!(uploads.path(&bob, whole.clone()).await.is_err(), "another's files are another's");
        // After a day of no use it is gone.
        let old = SystemTime::now() - KEPT - Duration::from_secs(60);
        File::options().append(true).open(&path).unwrap().set_modified(old).unwrap();
        assert_eq!(lacks().await, [(whole.clone(), 0)]);
    }

    #[tokio::test]
    async fn what_is_not_what_it_says_or_too_much_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (uploads, ann) = (Uploads::new(dir.path().to_owned()), UserName::new("ann").unwrap());
        let wanted = file(b"abc");
        let refused = uploads.take(&ann, piece(&wanted, 0, b"xyz")).await.unwrap_err();
        assert!(refused.error.contains("does not have its SHA-256"), "{}", refused.error);
        assert_eq!(uploads.take(&ann, piece(&wanted, 0, b"abc")).await.map_err(|e| e.error), Ok(3));
        let long = FileRef { bytes: MAX_FILE + 1, ..wanted.clone() };
        assert!(uploads.lacks(&ann, vec![long.clone()]).await.is_err());
        assert!(uploads.take(&ann, piece(&long, 0, b"a")).await.is_err());
        assert!(uploads.lacks(&ann, vec![wanted.clone(); MAX_FILES + 1]).await.is_err());
        let empty = uploads.take(&ann, piece(&file(b"more"), 0, b"")).await.unwrap_err();
        assert!(empty.error.contains("holds no bytes"), "{}", empty.error);
        assert_eq!(uploads.take(&ann, piece(&file(b""), 0, b"")).await.map_err(|e| e.error), Ok(0));
        let kept = || fs::read_dir(dir.path().join("ann")).unwrap().count();
        assert_eq!(kept(), 2, "what is refused leaves nothing");
        for name in kept()..MAX_KEPT {
            File::create(dir.path().join(format!("ann/{name}"))).unwrap();
        }
        let refused = uploads.take(&ann, piece(&file(b"more"), 0, b"mo")).await.unwrap_err();
        assert!(refused.error.contains("4000 files of yours are here"), "{}", refused.error);
        fs::remove_file(dir.path().join("ann/3")).unwrap();
        assert_eq!(uploads.take(&ann, piece(&file(b"more"), 0, b"mo")).await.map_err(|e| e.error), Ok(2));
        assert_eq!(uploads.take(&ann, piece(&file(b"more"), 2, b"re")).await.map_err(|e| e.error), Ok(4));
        let full = File::create(dir.path().join("ann/4")).unwrap();
        full.set_len(QUOTA).unwrap();
        let refused = uploads.take(&ann, piece(&file(b"much"), 0, b"much")).await.unwrap_err();
        assert!(refused.error.contains("of yours are here") && refused.hint.is_some(), "{}", refused.error);
    }

    #[tokio::test]
    async fn what_is_old_goes_also_of_users_who_have_left() {
        let dir = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(dir.path().to_owned());
        uploads.sweep().await.map_err(|e| e.error).unwrap();
        let old = SystemTime::now() - KEPT - Duration::from_secs(60);
        for (path, is_old) in [("ann/old.part", true), ("ann/new", false), ("bob/old", true)] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = File::create(&path).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
        }
        uploads.sweep().await.map_err(|e| e.error).unwrap();
        let left: Vec<_> = entries(dir.path()).unwrap().into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, [dir.path().join("ann")]);
        assert_eq!(entries(&left[0]).unwrap().len(), 1);
    }
}
