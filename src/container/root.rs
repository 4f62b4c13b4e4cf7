//! The root directory of the agents' containers: nothing but mount points. The agent and the libraries it
//! is linked with are the host's, mounted read-only, so that nothing has to be built or fetched.

use super::error::{ContainerError, prepare};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where programs and libraries are (hier(7)); on most hosts links into `/usr`.
const SYSTEM: &[&str] = &["bin", "lib", "lib32", "lib64"];
/// Where things of a running system are mounted.
const DIRECTORIES: &[&str] = &["dev", "etc", "proc", "run", "sys", "tmp", "usr"];
/// Files that podman mounts something over.
const FILES: &[&str] = &["etc/hostname", "etc/hosts", "etc/resolv.conf", AGENT];
/// The agent's executable, below the root.
pub(super) const AGENT: &str = "pilab-agent";

/// Makes it below `root` for the host whose files are below `host`; answers which of the host's directories
/// are to be mounted, read-only, at the same place.
pub(super) fn make(root: &Path, host: &Path) -> Result<Vec<PathBuf>, ContainerError> {
    for name in DIRECTORIES {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(prepare(path))?;
    }
    for name in FILES {
        let path = root.join(name);
        fs::write(&path, b"").map_err(prepare(path))?;
    }
    let mut mounts = vec![PathBuf::from("/usr")];
    for name in SYSTEM {
        let (there, here) = (host.join(name), root.join(name));
        match fs::read_link(&there) {
            Ok(target) => symlink(target, &here).map_err(prepare(here))?,
            Err(_) if there.is_dir() => {
                fs::create_dir(&here).map_err(prepare(here))?;
                mounts.push(Path::new("/").join(name));
            }
            Err(_) => {}
        }
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_made_alike_and_directories_are_mounted() {
        let (host, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(host.path().join("lib64")).unwrap();
        symlink("usr/lib", host.path().join("lib")).unwrap();
        let mounts = make(root.path(), host.path()).unwrap();
        assert_eq!(mounts, [Path::new("/usr"), Path::new("/lib64")]);
        assert_eq!(fs::read_link(root.path().join("lib")).unwrap(), Path::new("usr/lib"));
        assert!(root.path().join(AGENT).is_file() && !root.path().join("lib32").exists());
    }
}
