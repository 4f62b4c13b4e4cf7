//! Opens bundles of any form and version, whole or not, and checks them.

use super::error::BundleError;
use super::pack::PACKED;
use super::read::relative;
use super::{MAX_BYTES, MAX_FILES};
use crate::model::bundle::{About, BUNDLE_VERSION, BundleContents, BundleFile, LIST};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The largest list that is read, in bytes: [`MAX_FILES`] files take some 2 MB.
const MAX_LIST: u64 = 16 << 20;
/// How much is copied at a time.
const PIECE: usize = 64 * 1024;

/// How a bundle lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A directory.
    Directory,
    /// One file.
    Archive,
}

/// How a file of a bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// As it was written.
    Whole,
    /// Not as it was written: why.
    Damaged(String),
    /// Not there: the bundle was cut short, or somebody took it away.
    Missing,
    /// There, but the list does not know it, so nobody can say whether it is whole.
    Unlisted,
}

/// A bundle that can be read.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    form: Form,
    /// None when there is none: the bundle was never finished.
    listed: Option<BundleContents>,
    /// What is really there, the list apart.
    there: BTreeMap<String, Place>,
    /// Why no more is there, when reading the archive came to an end before its end.
    cut: Option<String>,
}

/// Where a packed file lies in an archive; nowhere for a file of a directory.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    offset: u64,
    packed: u64,
}

impl Bundle {
    /// Opens a directory or archive. What is damaged in it is found when it is read.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let metadata = fs::metadata(path).map_err(read_error(path))?;
        let bundle = if metadata.is_dir() { Self::directory(path)? } else { Self::archive(path)? };
        if let Some(BundleContents { version, files, .. }) = &bundle.listed {
            let (version, path) = (*version, path.to_owned());
            if version > BUNDLE_VERSION {
                return Err(BundleError::Newer { path, version, known: BUNDLE_VERSION });
            }
            let bytes = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
            if files.len() > MAX_FILES || bytes > MAX_BYTES {
                let cause = format!("it lists {} files of {bytes} bytes", files.len());
                return Err(BundleError::NotOne { path, cause });
            }
            for file in files {
                relative(&file.path).map_err(|cause| BundleError::NotOne { path: path.clone(), cause })?;
            }
        }
        Ok(bundle)
    }

    fn directory(path: &Path) -> Result<Self, BundleError> {
        let listed = match File::open(path.join(LIST)) {
            Ok(file) => Some(parse(path, file)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(BundleError::Read { path: path.join(LIST), source }),
        };
        let mut there = BTreeMap::new();
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            let entries = fs::read_dir(path.join(&dir)).map_err(read_error(&path.join(&dir)))?;
            for entry in entries.flatten() {
                let name = format!("{dir}{}", entry.file_name().to_string_lossy());
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => dirs.push(format!("{name}/")),
                    Ok(kind) if kind.is_file() && name != LIST => drop(there.insert(name, Place::default())),
                    _ => {}
                }
                if there.len() > MAX_FILES {
                    let cause = format!("it has more than {MAX_FILES} files");
                    return Err(BundleError::NotOne { path: path.to_owned(), cause });
                }
            }
        }
        if listed.is_none() && !there.contains_key("events.jsonl") {
            let cause = format!("it has neither {LIST} nor events.jsonl");
            return Err(BundleError::NotOne { path: path.to_owned(), cause });
        }
        Ok(Self { path: path.to_owned(), form: Form::Directory, listed, there, cut: None })
    }

    fn archive(path: &Path) -> Result<Self, BundleError> {
        let file = File::open(path).map_err(read_error(path))?;
        let length = file.metadata().map_err(read_error(path))?.len();
        let not_one = |cause: String| BundleError::NotOne { path: path.to_owned(), cause };
        let mut archive = tar::Archive::new(BufReader::new(file));
        let mut listed = None;
        let (mut there, mut cut) = (BTreeMap::new(), None);
        let entries = archive.entries_with_seek().map_err(read_error(path))?;
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if listed.is_none() => return Err(not_one(error.to_string())),
                Err(error) => {
                    cut = Some(error.to_string());
                    break;
                }
            };
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let place = Place { offset: entry.raw_file_position(), packed: entry.size() };
            if listed.is_none() {
                if name != LIST {
                    return Err(not_one(format!(
                        "it begins with {:?}",
                        name.chars().take(80).collect::<String>()
                    )));
                }
                listed = Some(parse(path, entry)?);
            } else if place.offset.saturating_add(place.packed) > length {
                cut = Some(format!("it ends within {name}"));
                break;
            } else if let Some(name) = name.strip_suffix(PACKED) {
                there.insert(name.to_owned(), place);
            }
            if there.len() > MAX_FILES {
                return Err(not_one(format!("it has more than {MAX_FILES} files")));
            }
        }
        if listed.is_none() {
            return Err(not_one("it is empty".to_owned()));
        }
        Ok(Self { path: path.to_owned(), form: Form::Archive, listed, there, cut })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it lies there.
    pub fn form(&self) -> Form {
        self.form
    }

    /// What it says of itself; of one that was never finished, what is there, without hashes.
    pub fn contents(&self) -> BundleContents {
        self.listed.clone().unwrap_or_else(|| {
            let files = self.there.keys().map(|path| {
                let size = fs::metadata(self.path.join(path)).map_or(0, |file| file.len());
                BundleFile { path: path.clone(), size, sha256: String::new() }
            });
            BundleContents {
                version: 1,
                about: None,
                gaps: Vec::new(),
                redacted: None,
                files: files.collect(),
            }
        })
    }

    /// The files that it lists; of one that was never finished, those that are there.
    pub fn files(&self) -> Vec<BundleFile> {
        self.contents().files
    }

    /// The run it is of, from its list or else from its events.
    pub fn about(&self) -> Option<About> {
        let listed = self.listed.as_ref().and_then(|list| list.about.clone());
        listed.or_else(|| About::of(&self.events().ok()?.0))
    }

    /// Whether it has a list, and everything of it is there. Whether it is as it was written, [`Self::check`] says.
    pub fn is_whole(&self) -> bool {
        let all = |list: &BundleContents| list.files.iter().all(|file| self.there.contains_key(&file.path));
        self.cut.is_none() && self.listed.as_ref().is_some_and(all)
    }

    /// Why there is no more of it, in words; none of a whole one.
    pub fn cut(&self) -> Option<String> {
        match &self.cut {
            _ if self.is_whole() => None,
            Some(cause) => Some(format!("it was cut short: {cause}")),
            None if self.listed.is_none() => Some("it was never finished: it has no list".to_owned()),
            None => Some("files that it lists are not there".to_owned()),
        }
    }

    /// Reads everything and says how each file is, in the order of the list.
    pub fn check(&self) -> Vec<(String, Condition)> {
        let listed = self.listed.as_ref().map(|list| list.files.as_slice()).unwrap_or_default();
        let mut found: Vec<_> = listed
            .iter()
            .map(|file| {
                let condition = match self.copy(&file.path, &mut io::sink()) {
                    Ok(()) => Condition::Whole,
                    Err(BundleError::NoSuchFile { .. }) => Condition::Missing,
                    Err(BundleError::Damaged { cause, .. }) => Condition::Damaged(cause),
                    Err(error) => Condition::Damaged(crate::support::chain::Chain(&error).to_string()),
                };
                (file.path.clone(), condition)
            })
            .collect();
        let known = |path: &String| listed.iter().any(|file| file.path == *path);
        found.extend(self.there.keys().filter(|path| !known(path)).map(|p| (p.clone(), Condition::Unlisted)));
        found
    }

    /// Copies a file's content, and fails when it is not what the list says.
    pub fn copy(&self, name: &str, out: &mut impl Write) -> Result<(), BundleError> {
        let damaged = |cause: String| {
            let (path, file) = (self.path.clone(), name.to_owned());
            BundleError::Damaged { path, file, cause }
        };
        let listed = self.listed.as_ref().and_then(|list| list.files.iter().find(|file| file.path == name));
        let most = listed.map_or(MAX_BYTES, |file| file.size);
        let mut from = self.reader(name)?;
        let (mut hash, mut size, mut piece) = (Sha256::new(), 0_u64, vec![0; PIECE]);
        loop {
            let count =
                from.read(&mut piece).map_err(|error| damaged(format!("it cannot be unpacked: {error}")))?;
            let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            size += count as u64;
            if size > most {
                return Err(damaged(format!("it has more than {most} bytes")));
            }
            hash.update(bytes);
            let path = PathBuf::from(name);
            out.write_all(bytes).map_err(|source| BundleError::Write { path, source })?;
        }
        let Some(file) = listed else { return Ok(()) };
        if size != file.size {
            return Err(damaged(format!("it has {size} bytes, not {}", file.size)));
        }
        let sha256 = data_encoding::HEXLOWER.encode(&hash.finalize());
        if !sha256.eq_ignore_ascii_case(&file.sha256) {
            return Err(damaged(format!("its SHA-256 is {sha256}, not {}", file.sha256)));
        }
        Ok(())
    }

    /// A file's content as far as it can be read, and what is wrong with it, if anything is. At most `most` bytes.
    pub fn read(&self, name: &str, most: u64) -> Result<(Vec<u8>, Option<BundleError>), BundleError> {
        let mut content = Vec::new();
        let damaged = self.copy(name, &mut Bounded { content: &mut content, most }).err();
        match damaged {
            // Memory refuses nothing but what is beyond the bound.
            Some(BundleError::Write { .. }) => {
                let (path, file) = (self.path.clone(), name.to_owned());
                Ok((content, Some(BundleError::TooLarge { path, file, most })))
            }
            Some(error @ (BundleError::NoSuchFile { .. } | BundleError::Read { .. })) => Err(error),
            damaged => Ok((content, damaged)),
        }
    }

    fn reader(&self, name: &str) -> Result<Box<dyn Read + '_>, BundleError> {
        let file: String = name.chars().take(200).collect();
        let place = self.there.get(name);
        let place = place.ok_or_else(|| BundleError::NoSuchFile { path: self.path.clone(), file })?;
        match self.form {
            Form::Directory => {
                let path = self.path.join(name);
                Ok(Box::new(File::open(&path).map_err(read_error(&path))?))
            }
            Form::Archive => {
                let mut file = File::open(&self.path).map_err(read_error(&self.path))?;
                file.seek(SeekFrom::Start(place.offset)).map_err(read_error(&self.path))?;
                Ok(Box::new(GzDecoder::new(BufReader::new(file.take(place.packed)))))
            }
        }
    }
}

struct Bounded<'a> {
    content: &'a mut Vec<u8>,
    most: u64,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.content.len() + bytes.len()) as u64 > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.content.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn parse(path: &Path, from: impl Read) -> Result<BundleContents, BundleError> {
    let mut bytes = Vec::new();
    from.take(MAX_LIST).read_to_end(&mut bytes).map_err(read_error(path))?;
    let version = |value: &serde_json::Value| value.get("version").and_then(serde_json::Value::as_u64);
    let parsed = serde_json::from_slice(&bytes);
    // One of a newer version may well have another shape: its version is what to tell.
    if parsed.is_err()
        && let Some(version) = serde_json::from_slice(&bytes).ok().as_ref().and_then(version)
        && version > u64::from(BUNDLE_VERSION)
    {
        let version = u32::try_from(version).unwrap_or(u32::MAX);
        return Err(BundleError::Newer { path: path.to_owned(), version, known: BUNDLE_VERSION });
    }
    parsed.map_err(|error| BundleError::NotOne { path: path.to_owned(), cause: format!("{LIST}: {error}") })
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> BundleError + use<> {
    let path = path.to_owned();
    move |source| BundleError::Read { path, source }
}
