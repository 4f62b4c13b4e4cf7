//! Several labs at once: those whose logins are on this machine, wherever their NATS servers are.
//!
//! A login is one lab's, so a person of several has several: the files in `PILAB_LOGINS`, by default
//! `pilab/logins` in `XDG_CONFIG_HOME`, and those of the coordinators of this machine. All are asked at once; one that does not
//! answer is told with the reason and keeps none of the others waiting for longer than its time-out.

use super::args::LoginArgs;
use super::client::Client;
use super::error::CliError;
use super::local::Local;
use super::login::{connect_by, named};
use crate::config::login::Login;
use crate::model::id::LabName;
use futures_util::future::join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How long a lab may take to answer: it is one of several.
const ANSWER: Duration = Duration::from_secs(3);
/// The most labs that are asked.
const MAX_LABS: usize = 256;

/// A lab and what it has answered.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) lab: LabName,
    /// Its login.
    pub(super) login: PathBuf,
    /// Or why it has not, in words for people.
    pub(super) answer: Result<(Client, T), String>,
}

/// A lab that does not answer, for machines.
#[derive(Debug, Serialize)]
pub(super) struct Away<'a> {
    lab: &'a LabName,
    away: &'a str,
}

impl<T> Answer<T> {
    /// What is told of a lab that does not answer.
    pub(super) fn away(&self) -> Option<Away<'_>> {
        let away = self.answer.as_ref().err()?;
        Some(Away { lab: &self.lab, away })
    }
}

/// Asks all labs that there are logins for, sorted by name.
pub(super) async fn ask_all<T: DeserializeOwned>(
    local: &dyn Local,
    args: &LoginArgs,
    verb: &'static str,
    body: &(impl Serialize + Sync),
) -> Result<Vec<Answer<T>>, CliError> {
    let labs = logins(local, args)?;
    if labs.is_empty() {
        return Err(CliError::Usage {
            what: "there is no login of any lab here".to_owned(),
            hint: Some(format!("put login files into {}", dir().display())),
        });
    }
    let asked = labs.into_iter().map(|(lab, path)| async move {
        let answer = async {
            let client = connect_by(&path).await?;
            let answer = client.ask_within(verb, body, ANSWER).await?;
            Ok((client, answer))
        };
        Answer { lab, login: path.clone(), answer: answer.await.map_err(|error: CliError| words(&error)) }
    });
    Ok(join_all(asked).await)
}

fn words(error: &CliError) -> String {
    match error {
        CliError::NoLab { url, .. } => format!("its NATS servers do not let us in: {url}"),
        CliError::Request { .. } => "its coordinator does not answer".to_owned(),
        other => other.to_string(),
    }
}

/// One login for each lab. One that is named goes before those of this machine's coordinators, and those before files.
fn logins(local: &dyn Local, args: &LoginArgs) -> Result<BTreeMap<LabName, PathBuf>, CliError> {
    let mut paths = Vec::new();
    if args.login.is_some() {
        paths.push(named(local, args)?);
    }
    paths.extend(local.logins()?);
    let mut files: Vec<_> = std::fs::read_dir(dir())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    paths.extend(files);
    let mut labs = BTreeMap::new();
    for path in paths.into_iter().take(MAX_LABS) {
        labs.entry(Login::read(&path)?.lab).or_insert(path);
    }
    Ok(labs)
}

/// Where a person keeps logins.
fn dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("PILAB_LOGINS") {
        return dir;
    }
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    config.unwrap_or_default().join("pilab/logins")
}
