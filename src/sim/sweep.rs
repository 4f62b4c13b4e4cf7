//! Removes what virtual racks whose process is gone have left: kernels that still run, namespaces with their wires,
//! sockets and files.
//!
//! A rack has a directory with a lock that its process holds (flock(2)); all that it makes bears its tag.

use super::SimError;
use super::net::{Names, ip, tag_of};
use crate::support::chain::Chain;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What a rack's directory is called before its tag.
const DIR: &str = "rack-";
const LOCK: &str = "lock";

/// Where a rack has its files.
pub(super) fn dir(root: &Path, tag: &str) -> PathBuf {
    root.join(format!("{DIR}{tag}"))
}

/// A rack's lock, taken; none when another process has it. What it locks may be removed by nobody else.
pub(super) fn lock(root: &Path, tag: &str) -> Result<(PathBuf, Option<File>), SimError> {
    let dir = dir(root, tag);
    let path = dir.join(LOCK);
    let opened = fs::create_dir_all(&dir)
        .and_then(|()| File::options().create(true).truncate(false).write(true).open(&path));
    let file = opened.map_err(|source| SimError::File { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok((path, Some(file))),
        Err(fs::TryLockError::WouldBlock) => Ok((path, None)),
        Err(fs::TryLockError::Error(source)) => Err(SimError::File { path, source }),
    }
}

/// The racks that have a directory, and the namespaces of each. Namespaces without one are those of racks that have their
/// files elsewhere.
fn by_tag(namespaces: &str, dirs: impl Iterator<Item = String>) -> BTreeMap<String, Vec<String>> {
    let tags = dirs.filter_map(|dir| dir.strip_prefix(DIR).filter(|tag| !tag.is_empty()).map(str::to_owned));
    let mut found: BTreeMap<String, Vec<String>> = tags.map(|tag| (tag, Vec::new())).collect();
    for name in namespaces.lines().filter_map(|line| line.split_ascii_whitespace().next()) {
        if let Some(names) = tag_of(name).and_then(|tag| found.get_mut(tag)) {
            names.push(name.to_owned());
        }
    }
    found
}

/// Removes what dead racks have left; answers their tags. `root` is where racks have their files.
pub async fn sweep(root: &Path) -> Result<Vec<String>, SimError> {
    let dirs = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(SimError::File { path: root.to_owned(), source }),
        Ok(entries) => {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
    };
    let has_wires = rustix::process::geteuid().is_root();
    let namespaces = if has_wires { ip(&["netns", "list"]).await? } else { Vec::new() };
    let mut swept = Vec::new();
    for (tag, namespaces) in by_tag(&String::from_utf8_lossy(&namespaces), dirs.into_iter()) {
        let (_, Some(_lock)) = lock(root, &tag)? else { continue };
        tracing::info!(tag, "what a virtual rack has left is removed");
        remove(root, &tag, &namespaces).await;
        swept.push(tag);
    }
    Ok(swept)
}

/// Removes a rack of which the lock is held. What cannot be removed is told, and left to the next sweep.
pub(super) async fn remove(root: &Path, tag: &str, namespaces: &[String]) {
    for namespace in namespaces {
        if let Err(error) = empty(namespace).await {
            tracing::warn!(namespace, "what runs in it cannot be ended: {}", Chain(&error));
        }
        if let Err(error) = ip(&["netns", "del", namespace]).await {
            tracing::warn!(namespace, "cannot be removed: {}", Chain(&error));
        }
    }
    if !namespaces.is_empty() {
        // It has most likely gone with the namespace.
        let _ = ip(&["link", "del", &Names::new(tag).host()]).await;
    }
    if let Err(error) = fs::remove_dir_all(dir(root, tag)) {
        tracing::warn!(tag, %error, "the files of a virtual rack cannot be removed");
    }
}

/// Ends what runs in a namespace: it is ours, and so is all in it.
async fn empty(namespace: &str) -> Result<(), SimError> {
    let pids = ip(&["netns", "pids", namespace]).await?;
    for pid in String::from_utf8_lossy(&pids).split_ascii_whitespace() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_told_by_its_tag() {
        let namespaces = "pilab-rack-aa (id: 3)\npilab-rack-aa-0\npilab-test-9\npilab-rack-bb-1 (id: 0)\n";
        let dirs = ["rack-cc", "rack-aa", "rack-", "0f00-1"].map(str::to_owned);
        // Nothing of bb: its files are elsewhere.
        let found = by_tag(namespaces, dirs.into_iter());
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected = [("aa", names(&["pilab-rack-aa", "pilab-rack-aa-0"])), ("cc", names(&[]))];
        assert_eq!(found, expected.map(|(tag, names)| (tag.to_owned(), names)).into());
    }

    #[tokio::test]
    async fn a_rack_in_use_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let (_, held) = lock(root.path(), "test-a").unwrap();
        assert!(held.is_some());
        assert!(lock(root.path(), "test-a").unwrap().1.is_none());
        assert_eq!(
            sweep(root.path()).await.unwrap().iter().filter(|tag| tag.starts_with("test-")).count(),
            0
        );
        drop(held);
        assert!(sweep(root.path()).await.unwrap().contains(&"test-a".to_owned()));
        assert!(!dir(root.path(), "test-a").exists());
    }
}
