//! The name of a file as a boot tree knows it.

use std::fmt;
use std::sync::Arc;

/// The longest name, in bytes. The longest a Pi asks for is a prefix of at most 32 bytes, `/overlays/` and
/// an overlay's name.
const MAX: usize = 255;

/// A name that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing is left of it.
    #[error("the name is empty")]
    Empty,
    /// It is too long.
    #[error("the name has {0} bytes, more than {MAX}")]
    Long(usize),
    /// It has `.` or `..` as a part: somebody wants out.
    #[error("the name has . or .. as a part")]
    Escape,
    /// It has a byte that no boot file's name has.
    #[error("the name has the byte {0:#04x}")]
    Byte(u8),
}

/// A file's path in a boot tree: parts of printable ASCII with one `/` between two, and none of them `.` or
/// `..`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootPath(Arc<str>);

impl BootPath {
    /// Reads a name as a client wrote it. Slashes at its beginning and end count for nothing, and several
    /// for one: Pis ask for `bd989ae1//config.txt`.
    pub fn parse(name: &[u8]) -> Result<Self, PathError> {
        if name.len() > MAX {
            return Err(PathError::Long(name.len()));
        }
        if let Some(byte) = name.iter().find(|byte| !byte.is_ascii_graphic() || **byte == b'\\') {
            return Err(PathError::Byte(*byte));
        }
        let mut path = String::with_capacity(name.len());
        for part in name.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if part == b"." || part == b".." {
                return Err(PathError::Escape);
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.extend(part.iter().map(|byte| char::from(*byte)));
        }
        if path.is_empty() { Err(PathError::Empty) } else { Ok(Self(path.into())) }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first part and the rest; none for a name of one part.
    pub fn split_first(&self) -> Option<(&str, &str)> {
        self.0.split_once('/')
    }
}

impl fmt::Display for BootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slashes_are_made_one_and_escapes_refused() {
        let read = |text: &str| BootPath::parse(text.as_bytes()).map(|path| path.to_string());
        assert_eq!(read("bd989ae1//config.txt").as_deref(), Ok("bd989ae1/config.txt"));
        assert_eq!(read("///a///b/").as_deref(), Ok("a/b"));
        assert_eq!(read("..a/b..").as_deref(), Ok("..a/b.."));
        for text in ["..", "a/..", "../a", "a/./b", "/..//", "a/../../b"] {
            assert_eq!(read(text), Err(PathError::Escape), "{text}");
        }
        for text in ["", "/", "////"] {
            assert_eq!(read(text), Err(PathError::Empty), "{text}");
        }
        assert_eq!(read("a\\..\\b"), Err(PathError::Byte(b'\\')));
        assert_eq!(read("a\u{1b}[2J"), Err(PathError::Byte(0x1b)));
        assert_eq!(read("a b"), Err(PathError::Byte(b' ')));
        assert_eq!(read("ä"), Err(PathError::Byte(0xc3)));
        assert_eq!(read(&"a".repeat(256)), Err(PathError::Long(256)));
    }

    proptest! {
        #[test]
        fn what_is_read_stays_below_the_tree(name in prop::collection::vec(prop::sample::select(
            &b"a./\\b~"[..]), 0..40)) {
            if let Ok(path) = BootPath::parse(&name) {
                prop_assert!(path.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")));
                prop_assert_eq!(BootPath::parse(path.as_str().as_bytes()), Ok(path));
            }
        }
    }
}
