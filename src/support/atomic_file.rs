//! Files that are either the old or the new content, also after a power cut.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Writes `content` beside `path`, fsyncs it, renames it over `path` and fsyncs the directory.
/// The file has exactly `mode`, for example 0o600, whatever the umask.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, None)
}

/// Writes `content` to a file that somebody else made: it keeps its mode and its owner, and a name that leads to it by a
/// symbolic link still does.
pub fn rewrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let was = fs::metadata(&path)?;
    put(&path, content, was.mode() & 0o7777, Some((was.uid(), was.gid())))
}

fn put(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::other("path has no file name"))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = parent.join(temporary);
    let done = write_and_rename(&temporary, path, content, mode, owner);
    if done.is_err() {
        // The error that matters is the first one; what is left over is only a temporary file.
        let _ = fs::remove_file(&temporary);
    }
    done?;
    File::open(parent)?.sync_all()
}

fn write_and_rename(
    temporary: &Path,
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(temporary)?;
    if let Some((user, group)) = owner {
        match fchown(&file, Some(user), Some(group)) {
            // Only root gives files away: then it is whose who writes.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            given => given?,
        }
    }
    // open(2) takes the umask's bits away: what others must read, they could not.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_that_is_rewritten_keeps_its_mode_and_the_link_that_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("lab.toml"), dir.path().join("link.toml"));
        write(&file, b"old", 0o640).unwrap();
        symlink("lab.toml", &link).unwrap();
        rewrite(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside them");
        let gone = rewrite(&dir.path().join("none"), b"x").unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
