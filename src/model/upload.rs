//! Files of users on their way to a lab: named by their bytes, and by their place in a boot tree. What these types hold has
//! been checked, from wherever it comes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest file, in bytes: a kernel with all its drivers and an initramfs have some 100 MB.
pub const MAX_FILE: u64 = 512 << 20;
/// The most files of one boot tree. Debian's firmware for all boards has some 300.
pub const MAX_FILES: usize = 2000;
/// The most bytes that a lab keeps of one user.
pub const QUOTA: u64 = 2 << 30;
/// The longest path of a file in a boot tree, in bytes.
const MAX_PATH: usize = 200;

/// A file by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileRef {
    /// Their SHA-256.
    pub sha256: Sha256Hex,
    /// How many there are.
    pub bytes: u64,
}

/// A SHA-256: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Sha256Hex(String);

/// A file's path in a boot tree: parts of printable ASCII with `/` between two, none of them `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TreePath(String);

/// A text that is none of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotThat {
    /// It is no SHA-256.
    #[error("{0:?} is no SHA-256 of 64 hexadecimal digits")]
    Sha256(String),
    /// It is no path.
    #[error(
        "{0:?} is no path in a boot tree: at most {MAX_PATH} printable ASCII characters, without blanks and backslashes, none of its parts empty, . or .."
    )]
    Path(String),
}

impl TryFrom<String> for Sha256Hex {
    type Error = NotThat;
    fn try_from(text: String) -> Result<Self, NotThat> {
        let hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if text.len() == 64 && hex { Ok(Self(text)) } else { Err(NotThat::Sha256(cut(&text))) }
    }
}

impl TryFrom<String> for TreePath {
    type Error = NotThat;
    fn try_from(text: String) -> Result<Self, NotThat> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let parts = text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if printable && parts && text.len() <= MAX_PATH {
            Ok(Self(text))
        } else {
            Err(NotThat::Path(cut(&text)))
        }
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_of_a_tree_is_no_path() {
        for good in ["config.txt", "overlays/a.dtbo", "..a/b..", "a"] {
            assert_eq!(TreePath::try_from(good.to_owned()).unwrap().to_string(), good);
        }
        let long = "a".repeat(MAX_PATH + 1);
        for bad in
            ["", "/", "/etc/passwd", "..", "a/../b", "a/./b", "a//b", "a/", "a b", "a\\b", "ä", "a\n", &long]
        {
            let read = serde_json::from_value::<TreePath>(bad.into());
            assert!(read.unwrap_err().to_string().contains("no path in a boot tree"), "{bad:?}");
        }
        for bad in ["", "ab", &"A".repeat(64), &"../".repeat(22)[..64]] {
            assert!(Sha256Hex::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
