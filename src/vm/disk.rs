//! The data disk of a virtual machine: an ext4 file system in a sparse file, where a device keeps what must outlive
//! a reboot. Made anew for each lease, so nobody finds what the last holder has left.

use super::error::VmError;
use crate::support::command::Command;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

/// mkfs.ext4(8) leaves the inode tables to the kernel, so it takes tens of milliseconds whatever the size.
const MAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Where Debian has mkfs.ext4, which is not on everybody's `PATH`.
const SBIN: &str = "/usr/sbin:/sbin";

/// Makes an empty data disk at `path`, in place of one that is there. `user` is who runs QEMU, as libvirt writes it
/// (`+uid:+gid`); none when that is this process's own user.
pub(super) async fn make(path: &Path, mib: u32, user: Option<&str>) -> Result<(), VmError> {
    let failed = |source: io::Error| VmError::DataDisk { path: path.to_owned(), source: source.into() };
    remove(path).map_err(failed)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.set_len(u64::from(mib) << 20).map_err(failed)?;
    drop(file);
    let search = std::env::var("PATH").map_or_else(|_| SBIN.to_owned(), |path| format!("{path}:{SBIN}"));
    let mkfs = Command::new("mkfs.ext4").args(["-q", "-F", "-L", "pilab-data", "-E", "nodiscard"]).arg(path);
    let made = mkfs.env("PATH", &search).timeout(MAKE_TIMEOUT).own_group().output().await;
    made.map_err(|source| VmError::DataDisk { path: path.to_owned(), source: source.into() })?;
    if let Some((uid, gid)) = user.and_then(ids) {
        // Who is not root cannot give a file away. The directory, which others may enter but not read, and
        // the lab's short life are then what protects it.
        match chown(path, Some(uid), Some(gid)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
            }
            done => done.map_err(failed)?,
        }
    }
    Ok(())
}

/// Removes a data disk, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The numbers of a label `+uid:+gid`.
fn ids(label: &str) -> Option<(u32, u32)> {
    let (uid, gid) = label.split_once(':')?;
    Some((uid.trim_start_matches('+').parse().ok()?, gid.trim_start_matches('+').parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::skip::skip;
    use std::os::unix::fs::MetadataExt;

    #[tokio::test]
    async fn a_disk_is_empty_sparse_and_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.data");
        fs::write(&path, "what the last holder has left").unwrap();
        match make(&path, 64, None).await {
            Err(VmError::DataDisk { source, .. }) if source.to_string().contains("not installed") => {
                return skip("vm", "mkfs.ext4 is not installed");
            }
            made => made.unwrap(),
        }
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (64 << 20, 0o600));
        assert!(meta.blocks() * 512 < 8 << 20, "{} blocks are used", meta.blocks());
        let bytes = fs::read(&path).unwrap();
        // The superblock lies at 1024, its magic number at 0x38 (ext4(5), "Super Block").
        assert_eq!(bytes.get(1024 + 0x38..1024 + 0x3a), Some([0x53, 0xef].as_slice()));
        remove(&path).unwrap();
        remove(&path).unwrap();
    }

    #[test]
    fn a_label_is_two_numbers() {
        assert_eq!(ids("+64055:+994"), Some((64055, 994)));
        assert_eq!(ids("libvirt-qemu:kvm"), None);
    }
}
