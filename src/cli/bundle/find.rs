//! Which bundle is meant: by a path, by a run's id among the bundles of this machine, or by a run of the lab.

use super::{default_dir, fetch};
use crate::bundle::{Bundle, Form, Kept, kept};
use crate::cli::error::CliError;
use crate::cli::local::Local;
use crate::cli::login;
use crate::model::id::RunId;
use std::path::{Path, PathBuf};

/// Where bundles are looked for: the directory that is named, else the usual one and those of nights.
pub fn dirs(local: &dyn Local, named: Option<&Path>) -> Vec<PathBuf> {
    if let Some(dir) = named {
        return vec![dir.to_owned()];
    }
    let mut dirs = vec![default_dir(|name| std::env::var_os(name).map(PathBuf::from))];
    // A night's bundles are `<state>/nights/<lab>/<plan>/<night>/bundles`.
    let mut level: Vec<PathBuf> = local.state_dir().into_iter().map(|state| state.join("nights")).collect();
    for _ in 0..3 {
        level = level.iter().flat_map(|dir| below(dir)).collect();
    }
    dirs.extend(level.into_iter().map(|night| night.join("bundles")).filter(|dir| dir.is_dir()));
    dirs
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The bundles in all these directories, the oldest first.
pub fn all(dirs: &[PathBuf]) -> Result<Vec<Kept>, CliError> {
    let mut all = Vec::new();
    for dir in dirs {
        all.extend(kept(dir)?);
    }
    all.sort_by(|a, b| (a.at_ms, &a.run).cmp(&(b.at_ms, &b.run)));
    Ok(all)
}

/// The bundle on this machine that `name` means: a path, a run's id, or an unambiguous beginning of one.
pub fn here(name: &str, dirs: &[PathBuf]) -> Result<Option<PathBuf>, CliError> {
    let path = Path::new(name);
    if name.contains('/') || path.extension().is_some() || path.exists() {
        return Ok(Some(path.to_owned()));
    }
    let all = all(dirs)?;
    if let Some(exact) = all.iter().rev().find(|kept| kept.run.as_str() == name) {
        return Ok(Some(exact.path.clone()));
    }
    let mut begin: Vec<_> = all.iter().filter(|kept| kept.run.as_str().starts_with(name)).collect();
    begin.dedup_by(|a, b| a.run == b.run);
    match begin.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.path.clone())),
        several => {
            let names: Vec<_> = several.iter().rev().take(5).map(|kept| kept.run.to_string()).collect();
            Err(CliError::Usage {
                what: format!("{} runs begin with {name:?}", several.len()),
                hint: Some(format!("name one: {}", names.join(", "))),
            })
        }
    }
}

/// A bundle that is open, and the directory that it lies in only for as long as this lives.
pub struct Found {
    /// It.
    pub bundle: Bundle,
    _place: Option<tempfile::TempDir>,
}

/// Opens the bundle that `name` means; one that is not on this machine is fetched from the lab.
pub async fn open(
    local: &dyn Local,
    name: &str,
    login: &crate::cli::args::LoginArgs,
) -> Result<Found, CliError> {
    if let Some(path) = here(name, &dirs(local, None))? {
        return Ok(Found { bundle: Bundle::open(&path)?, _place: None });
    }
    let no_such = |why: String| CliError::Usage {
        what: format!("there is no bundle of a run {name:?} on this machine{why}"),
        hint: Some("pilab bundle ls lists them; a path will do as well".to_owned()),
    };
    let run = RunId::new(name).map_err(|_| no_such(String::new()))?;
    let client = login::connect(local, login).await.map_err(|error| no_such(format!(", and {error}")))?;
    let place = tempfile::tempdir().map_err(|e| CliError::local("make a place for the bundle", e))?;
    let fetched = fetch(&client, &run, place.path(), Form::Archive).await?;
    Ok(Found { bundle: Bundle::open(&fetched.path)?, _place: Some(place) })
}
