//! One file of the store: a header line with version and checksum, then JSON; and what happens to a file
//! that cannot be used.
//!
//! ```text
//! pilab-state 1 9f86d081884c7d65…\n
//! {"revision":4, …}
//! ```
//!
//! A file that is damaged, or that a newer agent wrote, is renamed to `<name>.bad-<n>` or `<name>.newer-<n>`:
//! what it held may matter to a person, and nothing may be written over it.

use crate::model::state_note::StateProblem;
use crate::plan::spec::hex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// What each header begins with.
const MAGIC: &str = "pilab-state";
/// The longest file that is read: eight times the longest message that NATS carries.
const MAX_SIZE: u64 = 8 * 1024 * 1024;
/// How many files of one name are kept aside for each cause; the oldest goes when there is one more.
pub(super) const MAX_ASIDE: usize = 3;
/// What a file that was cut off while it was written ends with (`support::atomic_file`).
pub(super) const UNFINISHED: &str = ".tmp";

/// Why a file cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Not what was written.
    Damaged(String),
    /// Of a version above the one asked for.
    Newer(u32),
}

/// The bytes of a file that holds `content`.
pub(super) fn encode<T: Serialize>(version: u32, content: &T) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(content)?;
    let mut bytes = format!("{MAGIC} {version} {}\n", hex(&Sha256::digest(&json))).into_bytes();
    bytes.extend(json);
    Ok(bytes)
}

/// Reads what [`encode`] wrote.
pub(super) fn decode<T: DeserializeOwned>(version: u32, bytes: &[u8]) -> Result<T, Unusable> {
    let damaged = |cause: &str| Unusable::Damaged(cause.to_owned());
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no header"))?;
    let (header, json) = bytes.split_at(end);
    let json = json.get(1..).unwrap_or_default();
    let header = std::str::from_utf8(header).unwrap_or_default();
    let mut words = header.split(' ');
    let (Some(MAGIC), Some(found), Some(checksum), None) =
        (words.next(), words.next().and_then(|word| word.parse().ok()), words.next(), words.next())
    else {
        return Err(damaged("its header is not one"));
    };
    if found > version {
        return Err(Unusable::Newer(found));
    }
    if checksum != hex(&Sha256::digest(json)) {
        return Err(damaged("its content does not have its checksum"));
    }
    if found < version {
        return Err(damaged("it is of a version that is no longer read"));
    }
    serde_json::from_slice(json).map_err(|error| Unusable::Damaged(error.to_string()))
}

/// Reads a file; none when there is none.
pub(super) fn read<T: DeserializeOwned>(version: u32, path: &Path) -> Option<Result<T, Unusable>> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > MAX_SIZE => {
            Some(Err(Unusable::Damaged(format!("it is longer than {MAX_SIZE} bytes"))))
        }
        Ok(bytes) => Some(decode(version, &bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(Unusable::Damaged(format!("it cannot be read: {error}")))),
    }
}

/// Renames a file that cannot be used; answers what to say of it.
pub(super) fn keep_aside(path: &Path, unusable: Unusable) -> StateProblem {
    let suffix = match unusable {
        Unusable::Damaged(_) => ".bad-",
        Unusable::Newer(_) => ".newer-",
    };
    let kept_as = match rename_aside(path, suffix) {
        Ok(name) => Some(name),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a file that cannot be used cannot be kept aside");
            None
        }
    };
    match unusable {
        Unusable::Damaged(cause) => StateProblem::Damaged { cause, kept_as },
        Unusable::Newer(version) => StateProblem::Newer { version, kept_as },
    }
}

/// Whether this is the name of a file that was kept aside.
pub(super) fn is_aside(name: &str) -> bool {
    [".bad-", ".newer-"].iter().any(|suffix| number(name, suffix).is_some())
}

/// The `n` of `<name><suffix><n>`.
fn number(name: &str, suffix: &str) -> Option<u64> {
    name.rsplit_once(suffix)?.1.parse().ok()
}

fn rename_aside(path: &Path, suffix: &str) -> io::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let parent = path.parent().unwrap_or(Path::new("."));
    let prefix = format!("{name}{suffix}");
    let mut numbers: Vec<u64> = fs::read_dir(parent)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let kept = format!("{prefix}{}", numbers.last().map_or(1, |last| last.saturating_add(1)));
    fs::rename(path, parent.join(&kept))?;
    let too_many = (numbers.len() + 1).saturating_sub(MAX_ASIDE);
    for number in numbers.iter().take(too_many) {
        fs::remove_file(parent.join(format!("{prefix}{number}")))?;
    }
    File::open(parent)?.sync_all()?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_version_above_ours_is_told_from_damage() {
        let bytes = encode(2, &"x").unwrap();
        assert_eq!(decode::<String>(2, &bytes).unwrap(), "x");
        assert_eq!(decode::<String>(1, &bytes), Err(Unusable::Newer(2)));
        assert!(matches!(decode::<String>(3, &bytes), Err(Unusable::Damaged(_))));
        assert!(matches!(decode::<u32>(2, &bytes), Err(Unusable::Damaged(_))));
    }

    #[test]
    fn names_of_files_kept_aside_are_known() {
        for (name, aside) in
            [("a.json.bad-1", true), ("a.json.newer-12", true), ("a.json", false), ("b.bad-", false)]
        {
            assert_eq!(is_aside(name), aside, "{name}");
        }
    }

    proptest! {
        /// One changed byte, or any cut, is noticed.
        #[test]
        fn no_damage_goes_unnoticed(text in ".{0,40}", at in 0_usize..1000, bit in 0_u32..8, cut in any::<bool>()) {
            let good = encode(1, &text).unwrap();
            let mut bad = good.clone();
            let at = at % bad.len();
            if cut { bad.truncate(at) } else { bad[at] ^= 1 << bit }
            match decode::<String>(1, &bad) {
                Err(_) => {}
                // The header's digits may read the same, as in `01` or `+1`; the content is what was written.
                Ok(read) => prop_assert_eq!(read, text),
            }
        }
    }
}
