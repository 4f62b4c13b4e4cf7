//! What one lab has on this machine, and the sweeping of what a killed one left.
//!
//! An instance is a directory whose lock file its process holds (flock(2)). An embedded lab makes one, under a
//! number, for as long as it runs: a lock that can be taken tells that the process is gone, however it
//! went, and what it had may be removed, unless its devices were kept on purpose, until those are gone. A
//! coordinator opens the one that bears its lab's name, which outlives it and which no sweep looks at.

use crate::bus::server::EmbeddedServer;
use crate::container;
use crate::model::id::LabName;
use crate::support::chain::Chain;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const INSTANCES: &str = "instances";
/// Where the lasting places are, one for each lab.
const LABS: &str = "labs";
const LOCK: &str = "lock";
/// Where root's instances have their sockets.
const RUN_ROOT: &str = "/run/pilab";
/// The most embedded labs on one machine.
const MAX_INSTANCES: u32 = 1000;

/// How long making an instance's directory and locking it may take.
const MOMENT: Duration = Duration::from_secs(10);

/// One embedded lab's place.
pub(super) struct Instance {
    name: String,
    dir: PathBuf,
    lasting: bool,
    /// Held for as long as the process lives.
    _lock: File,
}

impl Instance {
    /// Makes a new one, under the lowest number that is free. Numbers come again, and with them the names
    /// and MAC addresses of virtual machines: their network's DHCP server then knows them, and neither runs out
    /// of addresses nor spends seconds on finding out whether one is in use.
    pub(super) fn create() -> io::Result<Self> {
        let root = state_root()?.join(INSTANCES);
        let place = mark(&root);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        if is_root() {
            make_enterable(Path::new(RUN_ROOT))?;
        }
        for number in 1..=MAX_INSTANCES {
            let name = format!("{place:04x}-{number}");
            let dir = root.join(&name);
            // One that is there is somebody's, or waits for the sweep.
            match fs::DirBuilder::new().mode(0o700).create(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let lock = File::create(dir.join(LOCK))?;
            if lock.try_lock().is_err() {
                // A sweep looked at it in this very moment, and removes it.
                continue;
            }
            return Ok(Self { name, dir, lasting: false, _lock: lock });
        }
        Err(io::Error::other(format!("{MAX_INSTANCES} labs are on this machine already")))
    }

    /// Opens the lasting one of a lab. None when another process has it.
    pub(super) fn open(lab: &LabName) -> io::Result<Option<Self>> {
        let root = state_root()?.join(LABS);
        let name = format!("{:04x}-lab-{lab}", mark(&root));
        let dir = root.join(lab.as_str());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        if is_root() {
            make_enterable(Path::new(RUN_ROOT))?;
        }
        Ok(Some(Self { name, dir, lasting: true, _lock: lock }))
    }

    /// Whether it outlives this process.
    pub(super) fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// Tells it from others on this machine.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where its files lie, for its owner alone.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its sockets lie; QEMU's user must get there.
    pub(super) fn run_dir(&self) -> PathBuf {
        run_dir(&self.name)
    }

    /// The file that it holds locked.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.dir.join(LOCK)
    }

    /// Removes all its files; of one that is to last, only its sockets, and those only when nothing is left that
    /// has one open.
    pub(super) fn remove(&self, in_use: bool) -> io::Result<()> {
        match (self.lasting, in_use) {
            (false, _) => remove(&self.name, &self.dir),
            (true, false) => remove_dir(&self.run_dir()),
            (true, true) => Ok(()),
        }
    }
}

/// Tells instances of two state directories apart: their names are the machine's.
fn mark(root: &Path) -> u32 {
    crc32fast::hash(root.as_os_str().as_bytes()) & 0xffff
}

/// The directories of all labs that have, or had, a coordinator here.
pub(super) fn lasting() -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(state_root()?.join(LABS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Removes what instances whose process is gone have left, their NATS servers and containers first. Their
/// virtual machines must have been swept before: `in_use` tells of a lock path whether some may still be there.
pub(super) async fn sweep(in_use: impl Fn(&Path) -> bool) -> io::Result<()> {
    let root = state_root()?.join(INSTANCES);
    let entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (dir, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let lock_path = dir.join(LOCK);
        let lock = match File::open(&lock_path) {
            Ok(lock) => lock,
            // Being made, or being removed, just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_fresh(&dir) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove(&name, &dir)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        if lock.try_lock().is_err() || in_use(&lock_path) || container::is_kept(&dir).await {
            continue;
        }
        let server = dir.join(super::nats::DIR);
        if let Err(error) = EmbeddedServer::sweep(&server).await {
            tracing::warn!(instance = name, error = %Chain(&error), "the NATS server left there cannot be ended");
            continue;
        }
        if let Err(error) = container::sweep(&dir, &run_dir(&name)).await {
            tracing::warn!(instance = name, error = %Chain(&error), "the containers left there cannot be removed");
            continue;
        }
        match remove(&name, &dir) {
            Ok(()) => tracing::info!(instance = name, "what a killed lab left is removed"),
            // The next start tries again; this one needs none of it.
            Err(error) => tracing::warn!(instance = name, %error, "what a killed lab left cannot be removed"),
        }
    }
    Ok(())
}

/// Whether a directory changed within the last moments: its owner may be between two steps.
fn is_fresh(dir: &Path) -> bool {
    let changed = fs::metadata(dir).and_then(|meta| meta.modified()).ok();
    changed.and_then(|changed| changed.elapsed().ok()).is_none_or(|age| age < MOMENT)
}

fn remove(name: &str, dir: &Path) -> io::Result<()> {
    remove_dir(&run_dir(name))?;
    remove_dir(dir)
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a directory that all may enter and nobody else may list, whatever the umask and whoever made it
/// before: instances of containers and of virtual machines share it, and QEMU runs as another user.
fn make_enterable(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `PILAB_STATE_DIR`, else `/var/lib/pilab` for root (FHS 3.0 §5.8), else `pilab` below
/// `XDG_STATE_HOME` (XDG Base Directory 0.8).
pub(super) fn state_root() -> io::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("PILAB_STATE_DIR") {
        return Ok(dir);
    }
    if is_root() {
        return Ok(PathBuf::from("/var/lib/pilab"));
    }
    let home = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    let home = home.ok_or_else(|| io::Error::other("neither PILAB_STATE_DIR nor HOME is set"))?;
    Ok(home.join("pilab"))
}

/// Where virtual racks have their files: known to all labs of this user, for each sweeps what dead ones have left.
#[cfg(feature = "sim")]
pub(super) fn rack_root() -> io::Result<PathBuf> {
    if is_root() { Ok(PathBuf::from(RUN_ROOT)) } else { Ok(state_root()?.join("racks")) }
}

/// Where the memory lies that devices start from: it outlives labs, whose devices have the same names time and again.
pub(super) fn saves_root() -> io::Result<PathBuf> {
    Ok(state_root()?.join("warm"))
}

/// Short, since a unix socket's path has at most 107 bytes (unix(7)), and not below a home directory,
/// which QEMU's user may not enter.
fn run_dir(name: &str) -> PathBuf {
    if is_root() {
        Path::new(RUN_ROOT).join(name)
    } else {
        std::env::temp_dir().join(format!("pilab-{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_directory_is_opened() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("run/pilab");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).unwrap();
        make_enterable(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o711);
        make_enterable(&place.path().join("new")).unwrap();
    }
}
