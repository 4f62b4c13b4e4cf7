//! Files that are either the old or the new content, also after a power cut.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes `content` beside `path`, fsyncs it, renames it over `path` and fsyncs the directory.
/// The file has exactly `mode`, for example 0o600, whatever the umask.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::other("path has no file name"))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = parent.join(temporary);
    let done = write_and_rename(&temporary, path, content, mode);
    if done.is_err() {
        // The error that matters is the first one; what is left over is only a temporary file.
        let _ = fs::remove_file(&temporary);
    }
    done?;
    File::open(parent)?.sync_all()
}

fn write_and_rename(temporary: &Path, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(temporary)?;
    // open(2) takes the umask's bits away: what others must read, they could not.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}
