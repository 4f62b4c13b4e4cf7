//! Files of one's own: found, hashed, and sent to the coordinator over NATS as far as it does not have them.

use crate::cli::args::BootArgs;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::local::Progress;
use crate::model::id::DeviceId;
use crate::model::upload::{FileRef, MAX_FILE, MAX_FILES, TreePath};
use crate::wire::boot::{
    BootWhat, UPLOAD, UPLOAD_LACKS, UPLOAD_PIECE, UploadAsked, UploadLacks, UploadPiece, UploadTaken,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the coordinator may take for a piece, with the hash of a whole file after the last one.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often one piece is sent.
const TRIES: u32 = 5;
/// How deep a directory of boot files may be.
const MAX_DEPTH: usize = 8;
/// How much of a file is hashed at a time.
const READ: usize = 1 << 20;

/// What is to be booted, and where its files are.
pub(super) struct Own {
    pub(super) what: BootWhat,
    paths: BTreeMap<FileRef, PathBuf>,
}

impl Own {
    /// What the arguments name; none for an image.
    pub(super) fn find(args: &BootArgs) -> Result<Option<Self>, CliError> {
        let cmdline = args.cmdline.clone().unwrap_or_default();
        let mut paths = BTreeMap::new();
        let mut add = |path: &Path| -> Result<FileRef, CliError> {
            let file = hash(path)?;
            paths.insert(file.clone(), path.to_owned());
            Ok(file)
        };
        let what = match (&args.kernel, &args.tree) {
            (Some(kernel), _) => BootWhat::Kernel {
                kernel: add(kernel)?,
                initramfs: args.initrd.as_deref().map(&mut add).transpose()?,
                device_tree: args.dtb.as_deref().map(&mut add).transpose()?,
                cmdline,
            },
            (None, Some(dir)) => {
                let mut files = BTreeMap::new();
                for (path, file) in tree(dir)? {
                    files.insert(path, add(&file)?);
                }
                BootWhat::Tree { files, cmdline }
            }
            (None, None) if args.cmdline.is_some() => {
                let what = "--cmdline is that of a kernel of your own".to_owned();
                return Err(CliError::Usage {
                    what,
                    hint: Some("name it with --kernel, or --tree".to_owned()),
                });
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Self { what, paths }))
    }

    /// Sends what the coordinator lacks; answers how many bytes that were.
    pub(super) async fn send(
        &self,
        client: &Client,
        device: &DeviceId,
        progress: &Progress,
    ) -> Result<u64, CliError> {
        let asked = UploadAsked { device: device.clone(), files: self.paths.keys().cloned().collect() };
        let UploadLacks { lacks } = client.ask_within(UPLOAD_LACKS, &asked, PIECE_TIMEOUT).await?;
        let total = lacks.iter().map(|(file, there)| file.bytes - there.min(&file.bytes)).sum();
        let mut sent = 0;
        for (file, there) in lacks {
            let Some(path) = self.paths.get(&file) else { continue };
            progress.begin(format!("sending {}", path.display()));
            sent += send_file(client, &file, path, there, |now| progress.at(sent + now, total)).await?;
        }
        Ok(sent)
    }
}

/// Sends a file from an offset on; `told` hears how many bytes have been sent.
async fn send_file(
    client: &Client,
    file: &FileRef,
    path: &Path,
    from: u64,
    told: impl Fn(u64),
) -> Result<u64, CliError> {
    let unreadable = |source: io::Error| CliError::local(format!("read {}", path.display()), source);
    let open = File::open(path).map_err(unreadable)?;
    let (mut next, mut stuck) = (from, 0);
    // One of no bytes is there once it is said to be.
    loop {
        let mut bytes = vec![0; usize::try_from(file.bytes - next).unwrap_or(UPLOAD_PIECE).min(UPLOAD_PIECE)];
        open.read_exact_at(&mut bytes, next).map_err(unreadable)?;
        let piece = UploadPiece { file: file.clone(), offset: next, bytes };
        let taken = match client.ask_within::<UploadTaken>(UPLOAD, &piece, PIECE_TIMEOUT).await {
            // The answer may be lost: where to go on is asked by sending it again.
            Err(CliError::Request { .. }) if stuck < TRIES => None,
            taken => Some(taken?.next),
        };
        match taken {
            Some(taken) if taken == file.bytes => return Ok(taken - from),
            Some(taken) if taken > next => (next, stuck) = (taken, 0),
            // Somebody with the same login sends it too, or an answer was lost.
            taken if stuck < TRIES => (next, stuck) = (taken.unwrap_or(next).min(file.bytes), stuck + 1),
            _ => return Err(CliError::local(format!("send {}", path.display()), "it makes no progress")),
        }
        told(next.saturating_sub(from));
    }
}

fn hash(path: &Path) -> Result<FileRef, CliError> {
    let shown = path.display();
    let read = || -> io::Result<(String, u64)> {
        let mut file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; READ]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((data_encoding::HEXLOWER.encode(&hash.finalize()), length)),
                read => {
                    length += read as u64;
                    if length > MAX_FILE {
                        let cause = format!("it is longer than {MAX_FILE} bytes");
                        return Err(io::Error::new(io::ErrorKind::FileTooLarge, cause));
                    }
                    hash.update(buffer.get(..read).unwrap_or_default());
                }
            }
        }
    };
    let (sha256, bytes) = read().map_err(|e| CliError::local(format!("read {shown}"), e))?;
    let sha256 = sha256.try_into().map_err(|e| CliError::local(format!("read {shown}"), e))?;
    Ok(FileRef { sha256, bytes })
}

/// All files below a directory, by their paths in it. A link is followed, as long as it stays inside.
fn tree(dir: &Path) -> Result<Vec<(TreePath, PathBuf)>, CliError> {
    let failed = |path: &Path, source: io::Error| CliError::local(format!("read {}", path.display()), source);
    let refused = |path: &Path, why: String| CliError::Usage {
        what: format!("{} cannot be booted: {why}", path.display()),
        hint: Some("leave it out of the directory that --tree names".to_owned()),
    };
    let root = dir.canonicalize().map_err(|e| failed(dir, e))?;
    let mut found = Vec::new();
    let mut dirs = vec![(root.clone(), String::new(), 0)];
    while let Some((at, prefix, depth)) = dirs.pop() {
        for entry in fs::read_dir(&at).map_err(|e| failed(&at, e))? {
            let path = entry.map_err(|e| failed(&at, e))?.path();
            let real = path.canonicalize().map_err(|e| failed(&path, e))?;
            if !real.starts_with(&root) {
                return Err(refused(&path, "it leads out of the directory".to_owned()));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{prefix}{name}");
            if real.is_dir() && depth < MAX_DEPTH {
                dirs.push((real, format!("{name}/"), depth + 1));
            } else if real.is_file() {
                let tree_path = TreePath::try_from(name).map_err(|e| refused(&path, e.to_string()))?;
                found.push((tree_path, real));
            } else {
                return Err(refused(&path, "it is no file, or too deep".to_owned()));
            }
            if found.len() > MAX_FILES {
                return Err(refused(dir, format!("it has more than {MAX_FILES} files")));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_what_is_below_its_directory_and_nothing_from_outside() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(dir.path().join("overlays")).unwrap();
        for file in ["config.txt", "overlays/a.dtbo"] {
            fs::write(dir.path().join(file), file).unwrap();
        }
        std::os::unix::fs::symlink("config.txt", dir.path().join("tryboot.txt")).unwrap();
        let paths = || {
            let mut paths: Vec<_> = tree(dir.path())?.into_iter().map(|(path, _)| path.to_string()).collect();
            paths.sort();
            Ok::<_, CliError>(paths)
        };
        assert_eq!(paths().unwrap(), ["config.txt", "overlays/a.dtbo", "tryboot.txt"]);
        fs::write(outside.path().join("secret"), "s").unwrap();
        for (target, why) in [(outside.path().join("secret"), "leads out"), ("/dev/null".into(), "leads out")]
        {
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(target, &link).unwrap();
            let error = paths().unwrap_err();
            assert!(error.to_string().contains(why) && error.hint().is_some(), "{error}");
            fs::remove_file(link).unwrap();
        }
        fs::write(dir.path().join("a b"), "").unwrap();
        assert!(paths().unwrap_err().to_string().contains("no path in a boot tree"));
        fs::remove_file(dir.path().join("a b")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("overlays/loop")).unwrap();
        assert!(paths().is_err(), "a circle has an end");
        assert!(tree(&dir.path().join("nothing")).is_err());
    }
}
