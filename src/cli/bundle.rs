//! Fetches a run's bundle: the evidence, file by file, in pieces, over NATS. The coordinator names the
//! files, so each name, size and hash is checked before it counts.

use super::client::Client;
use super::error::CliError;
use crate::model::id::RunId;
use crate::wire::request::{BundleFile, BundleList};
use sha2::{Digest, Sha256};
use std::path::{Component, Path, PathBuf};
use tokio::fs;
use tokio::io::AsyncWriteExt;

/// The most bytes of one bundle: some hundred times what a run on VMs writes.
const MAX_BYTES: u64 = 4 << 30;
/// The most files of one bundle.
const MAX_FILES: usize = 10_000;
/// The longest path in bytes, well under `PATH_MAX` (4096, limits.h).
const MAX_PATH: usize = 1024;

/// A bundle that is here.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its directory.
    pub path: PathBuf,
    /// How to enter and remove each device that was kept: lines for people.
    pub kept: Vec<String>,
}

/// Where bundles go when nobody says: `pilab/bundles` in `$XDG_STATE_HOME` (XDG Base Directory
/// Specification 0.8), or in `~/.local/state`, or in the working directory.
pub fn default_dir(var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name| var(name).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map_or_else(|| PathBuf::from("pilab-bundles"), |state| state.join("pilab/bundles"))
}

/// Fetches the bundle of `run` into `<dir>/<run>`, which appears only once all of it is here and right.
pub async fn fetch(client: &Client, run: &RunId, dir: &Path) -> Result<Fetched, CliError> {
    let BundleList { files, kept } = client.bundle(run).await?;
    let bad = |cause| CliError::Bundle { run: run.to_string(), cause };
    let files = check(files).map_err(bad)?;
    let path = dir.join(run.as_str());
    let partial = dir.join(format!(".{run}.partial"));
    fresh_dir(&partial).await?;
    for (relative, file) in &files {
        let to = partial.join(relative);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).await.map_err(write_error(parent))?;
        }
        fetch_file(client, run, file, &to).await?;
    }
    fs::rename(&partial, &path).await.map_err(write_error(&path))?;
    Ok(Fetched { path, kept })
}

async fn fresh_dir(path: &Path) -> Result<(), CliError> {
    match fs::remove_dir_all(path).await {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(write_error(path)(source)),
    }
    fs::create_dir_all(path).await.map_err(write_error(path))
}

async fn fetch_file(client: &Client, run: &RunId, file: &BundleFile, to: &Path) -> Result<(), CliError> {
    let bad = |cause| CliError::Bundle { run: run.to_string(), cause };
    let mut out = fs::File::create(to).await.map_err(write_error(to))?;
    let mut hash = Sha256::new();
    let mut offset = 0;
    while offset < file.size {
        let piece = client.bundle_read(run, &file.path, offset).await?;
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if length == 0 || length > file.size - offset {
            return Err(bad(format!("{:?} is not {} bytes as announced", file.path, file.size)));
        }
        hash.update(&piece);
        out.write_all(&piece).await.map_err(write_error(to))?;
        offset += length;
    }
    out.flush().await.map_err(write_error(to))?;
    let sha256 = data_encoding::HEXLOWER.encode(&hash.finalize());
    if !sha256.eq_ignore_ascii_case(&file.sha256) {
        return Err(bad(format!("{:?} has SHA-256 {sha256}, announced was {:?}", file.path, file.sha256)));
    }
    Ok(())
}

/// Lets pass a list that is of bounded size and whose paths stay inside the bundle.
fn check(files: Vec<BundleFile>) -> Result<Vec<(PathBuf, BundleFile)>, String> {
    if files.len() > MAX_FILES {
        return Err(format!("{} files; at most {MAX_FILES} are fetched", files.len()));
    }
    let bytes = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
    if bytes > MAX_BYTES {
        return Err(format!("{bytes} bytes; at most {MAX_BYTES} are fetched"));
    }
    files.into_iter().map(|file| Ok((relative(&file.path)?, file))).collect()
}

/// The path of a file in a bundle: relative, `/` between parts, no part that leads elsewhere.
fn relative(path: &str) -> Result<PathBuf, String> {
    let plain = |part: &str| {
        !part.is_empty() && matches!(Path::new(part).components().next(), Some(Component::Normal(_)))
    };
    let clean = path.len() <= MAX_PATH && !path.chars().any(|c| c.is_control() || c == '\\');
    if clean && path.split('/').all(plain) {
        Ok(PathBuf::from(path))
    } else {
        Err(format!("{:?} is not a path inside a bundle", path.chars().take(80).collect::<String>()))
    }
}

fn write_error(path: &Path) -> impl Fn(std::io::Error) -> CliError + use<> {
    let path = path.to_owned();
    move |source| CliError::Write { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_bundle_pass() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a/..",
            "./a",
            "a//b",
            "a/",
            "a\0b",
            "a\\..\\b",
            &"a".repeat(1025),
        ] {
            assert!(relative(bad).is_err(), "{bad:?}");
        }
        for good in ["run.jsonl", "devices/laptop-vm-1/console.log", "..a/b"] {
            assert_eq!(relative(good), Ok(PathBuf::from(good)));
        }
    }

    #[test]
    fn a_list_without_bound_is_refused() {
        let file = |size| BundleFile { path: "a".into(), size, sha256: String::new() };
        assert!(check(vec![file(u64::MAX), file(u64::MAX)]).is_err());
        assert!(check(vec![file(0); MAX_FILES + 1]).is_err());
        assert!(check(vec![file(MAX_BYTES)]).is_ok());
    }

    #[test]
    fn bundles_have_a_home_also_without_a_home() {
        let dir = |vars: &'static [(&str, &str)]| {
            default_dir(|name| {
                vars.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            })
        };
        assert_eq!(dir(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Path::new("/s/pilab/bundles"));
        assert_eq!(
            dir(&[("XDG_STATE_HOME", "s"), ("HOME", "/h")]),
            Path::new("/h/.local/state/pilab/bundles")
        );
        assert_eq!(dir(&[]), Path::new("pilab-bundles"));
    }
}
