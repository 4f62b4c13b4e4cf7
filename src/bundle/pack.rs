//! Writes archives: each file packed by itself, on disk when it may be large, then all in one with the list in front.

use super::error::BundleError;
use super::open::Bundle;
use super::{ARCHIVE, read};
use crate::model::bundle::{About, BUNDLE_VERSION, BundleContents, BundleFile, BundleGap, LIST, Redacted};
use crate::support::atomic_file;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What packed files are called after their names.
pub(super) const PACKED: &str = ".gz";

/// Collects a bundle's files.
pub struct Packer {
    /// Where large files are until they are all there.
    spool: PathBuf,
    members: Vec<Member>,
    gaps: Vec<BundleGap>,
    open: Option<Open>,
    /// How many files were spooled so far: their names there.
    spooled: usize,
}

struct Member {
    file: BundleFile,
    packed: Packed,
}

enum Packed {
    Memory(Vec<u8>),
    Spooled { path: PathBuf, size: u64 },
}

/// A file that is being written.
struct Open {
    name: String,
    path: PathBuf,
    out: GzEncoder<BufWriter<File>>,
    hash: Sha256,
    size: u64,
}

fn hex(hash: Sha256) -> String {
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

impl Packer {
    /// Begins a bundle whose large files are spooled in the directory `spool`, which is the packer's own.
    pub fn new(spool: impl Into<PathBuf>) -> Self {
        Self { spool: spool.into(), members: Vec::new(), gaps: Vec::new(), open: None, spooled: 0 }
    }

    /// Adds a file of which all is here. It takes no disk until [`Self::finish`].
    pub fn add(&mut self, name: &str, content: &[u8]) {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        // Memory does not refuse to be written.
        let packed = out.write_all(content).and_then(|()| out.finish()).unwrap_or_default();
        let sha256 = hex(Sha256::new().chain_update(content));
        let file = BundleFile { path: name.to_owned(), size: content.len() as u64, sha256 };
        self.members.push(Member { file, packed: Packed::Memory(packed) });
    }

    /// Begins a file that is written piece by piece. One at a time.
    pub fn begin(&mut self, name: &str) -> Result<(), BundleError> {
        let path = self.spool.join(self.spooled.to_string());
        self.spooled += 1;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.spool);
        let made = made.and_then(|()| {
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)
        });
        let file = made.map_err(|source| BundleError::Write { path: path.clone(), source })?;
        let out = GzEncoder::new(BufWriter::new(file), Compression::fast());
        self.open = Some(Open { name: name.to_owned(), path, out, hash: Sha256::new(), size: 0 });
        Ok(())
    }

    /// Adds bytes to the file that was begun.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.hash.update(bytes);
        open.size += bytes.len() as u64;
        open.out.write_all(bytes).map_err(|source| BundleError::Write { path: open.path.clone(), source })
    }

    /// The file that was begun is whole.
    pub fn end(&mut self) -> Result<(), BundleError> {
        let Some(Open { name, path, out, hash, size }) = self.open.take() else { return Ok(()) };
        let ended = out.finish().and_then(|mut out| {
            out.flush()?;
            Ok(out.get_ref().metadata()?.len())
        });
        let packed = match ended {
            Ok(length) => Packed::Spooled { path, size: length },
            Err(source) => {
                // What is left of it goes with the spool.
                let _ = fs::remove_file(&path);
                return Err(BundleError::Write { path, source });
            }
        };
        let file = BundleFile { path: name, size, sha256: hex(hash) };
        self.members.push(Member { file, packed });
        Ok(())
    }

    /// The file is not there, and why. One of this name that was begun is thrown away.
    pub fn gap(&mut self, name: &str, cause: impl Into<String>) {
        if let Some(open) = self.open.take_if(|open| open.name == name) {
            let _ = fs::remove_file(&open.path);
        }
        self.gaps.push(BundleGap { path: name.to_owned(), cause: cause.into() });
    }

    /// What is missing so far.
    pub fn gaps(&self) -> &[BundleGap] {
        &self.gaps
    }

    /// Writes the archive to `to`, whole or not at all. When there is no room for it, what is in memory is written
    /// alone, with the rest as gaps.
    pub fn finish(
        mut self,
        about: Option<About>,
        redacted: Option<Redacted>,
        to: &Path,
    ) -> Result<(), BundleError> {
        let partial = to.with_extension("partial");
        let done = self.write_archive(about.clone(), redacted.clone(), &partial, to).or_else(|error| {
            let _ = fs::remove_file(&partial);
            if self.spill(&error.to_string()) {
                self.write_archive(about, redacted, &partial, to)
            } else {
                Err(error)
            }
        });
        if done.is_err() {
            let _ = fs::remove_file(&partial);
        }
        done
    }

    /// The archive of what is in memory alone, in memory, with the rest as gaps.
    pub fn finish_in_memory(mut self, about: Option<About>, cause: &str) -> Vec<u8> {
        self.spill(cause);
        let mut archive = Vec::new();
        // Memory does not refuse to be written.
        if let Err(error) = self.write_to(about, None, &mut archive) {
            tracing::warn!(%error, "a bundle could not be made in memory");
        }
        archive
    }

    /// Makes gaps of what is on disk. Whether there was any.
    fn spill(&mut self, cause: &str) -> bool {
        let (members, spooled): (Vec<_>, Vec<_>) = std::mem::take(&mut self.members)
            .into_iter()
            .partition(|m| matches!(m.packed, Packed::Memory(_)));
        self.members = members;
        let gaps = spooled.iter().map(|member| &member.file.path);
        let gaps = gaps.map(|path| BundleGap { path: path.clone(), cause: cause.to_owned() });
        self.gaps.extend(gaps);
        // Room is what is wanted.
        let _ = fs::remove_dir_all(&self.spool);
        !spooled.is_empty()
    }

    fn write_archive(
        &self,
        about: Option<About>,
        redacted: Option<Redacted>,
        partial: &Path,
        to: &Path,
    ) -> Result<(), BundleError> {
        let failed = |source| BundleError::Write { path: to.to_owned(), source };
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(partial);
        let mut out = BufWriter::new(file.map_err(failed)?);
        self.write_to(about, redacted, &mut out)?;
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().and_then(|()| fs::rename(partial, to)).map_err(failed)
    }

    fn write_to(
        &self,
        about: Option<About>,
        redacted: Option<Redacted>,
        out: impl Write,
    ) -> Result<(), BundleError> {
        let seconds = about.as_ref().map_or(0, |about| about.ended_ms / 1000);
        let (gaps, files) =
            (self.gaps.clone(), self.members.iter().map(|member| member.file.clone()).collect());
        let list = BundleContents { version: BUNDLE_VERSION, about, gaps, redacted, files };
        let list = serde_json::to_vec_pretty(&list);
        let list = list.map_err(|source| BundleError::Json { what: "the bundle's list", source })?;
        let mut archive = tar::Builder::new(out);
        let failed = |source| BundleError::Write { path: self.spool.clone(), source };
        append(&mut archive, LIST, seconds, list.len() as u64, list.as_slice()).map_err(failed)?;
        for member in &self.members {
            let name = format!("{}{PACKED}", member.file.path);
            match &member.packed {
                Packed::Memory(bytes) => {
                    append(&mut archive, &name, seconds, bytes.len() as u64, bytes.as_slice())
                        .map_err(failed)?;
                }
                Packed::Spooled { path, size } => {
                    let file = File::open(path);
                    let file = file.map_err(|source| BundleError::Read { path: path.clone(), source })?;
                    append(&mut archive, &name, seconds, *size, BufReader::new(file)).map_err(failed)?;
                }
            }
        }
        archive.into_inner().and_then(|mut out| out.flush()).map_err(failed)
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.spool);
    }
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    seconds: u64,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(seconds);
    archive.append_data(&mut header, name, content)
}

/// Writes a bundle of any form as one file. What is damaged is refused.
pub fn export(bundle: &Bundle, to: &Path) -> Result<(), BundleError> {
    let mut packer = Packer::new(to.with_extension("spool"));
    for file in bundle.files() {
        packer.begin(&file.path)?;
        bundle.copy(&file.path, &mut Pour(&mut packer))?;
        packer.end()?;
    }
    let contents = bundle.contents();
    packer.gaps.extend(contents.gaps.iter().cloned());
    packer.finish(bundle.about(), contents.redacted.clone(), to)
}

/// A packer's file as something to write to.
struct Pour<'a>(&'a mut Packer);

impl Write for Pour<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a bundle of any form as the directory `to`, which appears only once all of it is there and right.
pub fn unpack(bundle: &Bundle, to: &Path) -> Result<(), BundleError> {
    let name = to.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = to.with_file_name(format!(".{name}.partial"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BundleError::Write { path, source }
    };
    if let Err(source) = fs::remove_dir_all(&partial)
        && source.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(&partial)(source));
    }
    let done = (|| {
        for file in bundle.files() {
            let relative = read::relative(&file.path)
                .map_err(|cause| BundleError::NotOne { path: bundle.path().to_owned(), cause })?;
            let path = partial.join(relative);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed(parent))?;
            }
            let mut out = BufWriter::new(File::create(&path).map_err(failed(&path))?);
            bundle.copy(&file.path, &mut out)?;
            out.flush().map_err(failed(&path))?;
        }
        let list = serde_json::to_vec_pretty(&bundle.contents());
        let list = list.map_err(|source| BundleError::Json { what: "the bundle's list", source })?;
        fs::create_dir_all(&partial).map_err(failed(&partial))?;
        atomic_file::write(&partial.join(LIST), &list, 0o644).map_err(failed(&partial))?;
        fs::rename(&partial, to).map_err(failed(to))
    })();
    if done.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    done
}

/// The path of a run's archive in a directory of bundles.
pub(super) fn archive_path(dir: &Path, run: &str) -> PathBuf {
    dir.join(format!("{run}.{ARCHIVE}"))
}
