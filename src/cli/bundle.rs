//! Fetches a run's bundle, the evidence, in pieces over NATS, and the commands on bundles that are here. The coordinator
//! names the files, so each name, size and hash is checked before it counts.

pub mod find;
pub mod verbs;

use super::client::Client;
use super::error::CliError;
use crate::bundle::{self, Bundle, BundleError, Form, MAX_BYTES, MAX_FILES, relative};
use crate::model::bundle::{BundleFile, BundleGap};
use crate::model::id::RunId;
use crate::wire::request::BundleList;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

/// How long a bundle may take to be written once its run has ended; a coordinator gives up sooner.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause before a bundle that is being written is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A bundle that is here.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its directory.
    pub path: PathBuf,
    /// How to enter and remove each device that was kept: lines for people.
    pub kept: Vec<String>,
    /// What could not be written of it.
    pub gaps: Vec<BundleGap>,
}

/// Where bundles go when nobody says: `pilab/bundles` in `$XDG_STATE_HOME` (XDG Base Directory
/// Specification 0.8), or in `~/.local/state`, or in the working directory.
pub fn default_dir(var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name| var(name).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map_or_else(|| PathBuf::from("pilab-bundles"), |state| state.join("pilab/bundles"))
}

/// Fetches the bundle of `run` into `<dir>/<run>`, or as one file `<dir>/<run>.tar`. It appears only once all of it is here
/// and right.
pub async fn fetch(client: &Client, run: &RunId, dir: &Path, form: Form) -> Result<Fetched, CliError> {
    let BundleList { files, kept, archive, .. } = ready(client, run).await?;
    if let Some(archive) = archive {
        let (path, gaps) = fetch_archive(client, run, &archive, dir, form).await?;
        return Ok(Fetched { path, kept, gaps });
    }
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
    Ok(Fetched { path, kept, gaps: Vec::new() })
}

/// The bundle's list, once it is written: the run has ended before.
async fn ready(client: &Client, run: &RunId) -> Result<BundleList, CliError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = client.bundle(run).await?;
        if !list.pending {
            return Ok(list);
        }
        if Instant::now() >= deadline {
            let cause = format!("it was not written within {} s", PATIENCE.as_secs());
            return Err(CliError::Bundle { run: run.to_string(), cause });
        }
        sleep(ASK_AGAIN).await;
    }
}

async fn fetch_archive(
    client: &Client,
    run: &RunId,
    archive: &BundleFile,
    dir: &Path,
    form: Form,
) -> Result<(PathBuf, Vec<BundleGap>), CliError> {
    let bad = |cause| CliError::Bundle { run: run.to_string(), cause };
    if archive.size > MAX_BYTES {
        return Err(bad(format!("{} bytes; at most {MAX_BYTES} are fetched", archive.size)));
    }
    fs::create_dir_all(dir).await.map_err(write_error(dir))?;
    let partial = dir.join(format!(".{run}.tar.partial"));
    let fetched = async {
        fetch_file(client, run, archive, &partial).await?;
        let (from, run, to) = (partial.clone(), run.to_string(), dir.to_owned());
        let placed = tokio::task::spawn_blocking(move || place(&from, &run, &to, form)).await;
        placed.map_err(|e| CliError::Panicked { what: e.to_string() })?.map_err(CliError::from)
    };
    let fetched = fetched.await;
    if fetched.is_err() {
        // Nothing that looks whole is left; what is left of this goes with the next fetch.
        let _ = fs::remove_file(&partial).await;
    }
    fetched
}

/// Checks the archive, and puts it where it belongs.
fn place(from: &Path, run: &str, dir: &Path, form: Form) -> Result<(PathBuf, Vec<BundleGap>), BundleError> {
    let bundle = Bundle::open(from)?;
    let gaps = bundle.contents().gaps;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BundleError::Write { path, source }
    };
    match form {
        Form::Archive => {
            let path = dir.join(format!("{run}.{}", bundle::ARCHIVE));
            std::fs::rename(from, &path).map_err(failed(&path))?;
            Ok((path, gaps))
        }
        Form::Directory => {
            let path = dir.join(run);
            bundle::unpack(&bundle, &path)?;
            std::fs::remove_file(from).map_err(failed(from))?;
            Ok((path, gaps))
        }
    }
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

fn write_error(path: &Path) -> impl Fn(std::io::Error) -> CliError + use<> {
    let path = path.to_owned();
    move |source| CliError::Write { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

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
