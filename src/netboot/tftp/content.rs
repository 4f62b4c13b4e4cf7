//! What a file is made of, and who says which files there are.

use super::path::BootPath;
use bytes::Bytes;
use rustix::fs::Advice;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// How much of a file is read at a time, in bytes. Each running transfer keeps so much: 256 of them 16 MiB.
const READ_AHEAD: usize = 64 * 1024;

/// A file to be served.
#[derive(Debug, Clone)]
pub enum Content {
    /// Made for this boot: `config.txt`, `cmdline.txt`.
    Bytes(Bytes),
    /// On disk. Served with the length it had when it was opened.
    File {
        /// The open file.
        file: Arc<File>,
        /// Its length in bytes.
        length: u64,
    },
    /// Several, one after the other.
    Joined {
        /// Each with where it begins.
        parts: Arc<[(u64, Content)]>,
        /// The length of all in bytes.
        length: u64,
    },
}

impl Content {
    /// Opens a file on disk, and lets the kernel begin to read it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        // Advice: a filesystem that takes none serves as well.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::WillNeed);
        Ok(Self::File { file: Arc::new(file), length: metadata.len() })
    }

    /// One after the other.
    pub fn join(contents: Vec<Self>) -> Self {
        let (mut parts, mut length) = (Vec::new(), 0);
        for content in contents {
            let long = content.length();
            parts.push((length, content));
            length += long;
        }
        Self::Joined { parts: parts.into(), length }
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } | Self::Joined { length, .. } => *length,
        }
    }

    /// Fills `to` with what is at `offset`. An error beyond the end, which a file may have come to before its time.
    pub fn read_exact_at(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let bytes = bytes.get(from..from.saturating_add(to.len()));
                to.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::File { file, .. } => file.read_exact_at(to, offset),
            Self::Joined { parts, .. } => {
                let (mut left, mut at) = (to, offset);
                while !left.is_empty() {
                    // Each begins where the one before ends: one that has nothing is not the last that begins there.
                    let number = parts.partition_point(|(start, _)| *start <= at).saturating_sub(1);
                    let (start, part) = parts.get(number).ok_or(io::ErrorKind::UnexpectedEof)?;
                    let has = part.length().saturating_sub(at - start);
                    let now = usize::try_from(has).unwrap_or(usize::MAX).min(left.len());
                    if now == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let (first, rest) = left.split_at_mut(now);
                    part.read_exact_at(first, at - start)?;
                    (left, at) = (rest, at + now as u64);
                }
                Ok(())
            }
        }
    }
}

/// Why a file is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such file here. Usual: a Pi asks for many files that it can do without.
    #[error("there is no such file")]
    NotFound,
    /// Whoever asks must not have it, or nobody must.
    #[error("{0}")]
    Forbidden(String),
    /// It is there and cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

/// Says which file a client gets. Called for each request, from the thread that serves all clients, so it must
/// not wait for anything but the opening of a file.
pub trait BootFiles: Send + Sync + 'static {
    /// The file that `peer` gets for `path`.
    fn open(&self, peer: SocketAddr, path: &BootPath) -> Result<Content, Refusal>;
}

impl<F> BootFiles for F
where
    F: Fn(SocketAddr, &BootPath) -> Result<Content, Refusal> + Send + Sync + 'static,
{
    fn open(&self, peer: SocketAddr, path: &BootPath) -> Result<Content, Refusal> {
        self(peer, path)
    }
}

/// Reads a content from front to back, a piece at a time.
#[derive(Debug)]
pub struct Reader {
    content: Content,
    ahead: Vec<u8>,
    /// The offset of `ahead` in the content.
    at: u64,
}

impl Reader {
    /// At the beginning.
    pub fn new(content: Content) -> Self {
        Self { content, ahead: Vec::new(), at: 0 }
    }

    /// The `length` bytes from `offset` on, which must lie within the content's length. An error when the
    /// file has become shorter.
    pub fn slice(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let end = offset.saturating_add(length as u64);
        if end > self.content.length() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let all = match &self.content {
            Content::Bytes(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                return bytes
                    .get(from..from.saturating_add(length))
                    .ok_or(io::ErrorKind::InvalidInput.into());
            }
            Content::File { length, .. } | Content::Joined { length, .. } => *length,
        };
        if offset < self.at || end > self.at + self.ahead.len() as u64 {
            let left = usize::try_from(all - offset).unwrap_or(usize::MAX);
            self.ahead.resize(READ_AHEAD.max(length).min(left), 0);
            self.at = offset;
            if let Err(error) = self.content.read_exact_at(&mut self.ahead, offset) {
                self.ahead.clear();
                return Err(error);
            }
        }
        let from = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
        self.ahead.get(from..from.saturating_add(length)).ok_or(io::ErrorKind::InvalidInput.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_read_in_pieces_that_need_not_follow_each_other() {
        let bytes: Vec<u8> = (0..251).cycle().take(300_000).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let joined = Content::join(vec![
            Content::Bytes(bytes[..70_000].to_vec().into()),
            Content::Bytes(Bytes::new()),
            Content::Bytes(bytes[70_000..70_001].to_vec().into()),
            Content::Bytes(bytes[70_001..].to_vec().into()),
            Content::Bytes(Bytes::new()),
        ]);
        let contents = [Content::open(file.path()).unwrap(), Content::Bytes(bytes.clone().into()), joined];
        for content in contents {
            assert_eq!(content.length(), 300_000);
            let mut reader = Reader::new(content);
            for (offset, length) in
                [(0, 1468), (1468, 1468), (0, 8), (65_000, 3000), (200_000, 100_000), (300_000, 0), (1, 1)]
            {
                assert_eq!(reader.slice(offset as u64, length).unwrap(), &bytes[offset..offset + length]);
            }
            assert!(reader.slice(300_000, 1).is_err());
            assert!(reader.slice(u64::MAX, 1).is_err());
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error_and_a_directory_no_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1; 5000]).unwrap();
        let mut reader = Reader::new(Content::open(file.path()).unwrap());
        file.as_file().set_len(100).unwrap();
        assert!(reader.slice(0, 1468).is_err());
        assert!(Content::open(Path::new("/")).is_err());
    }
}
