//! A podman with a store of its own: its configuration, and commands in it.

use super::error::{ContainerError, prepare};
use crate::support::atomic_file;
use crate::support::command::{Command, CommandError};
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Where containers and their files lie, below the store's directory.
const STORE: &str = "store";
const CONTAINERS_CONF: &str = "containers.conf";
const STORAGE_CONF: &str = "storage.conf";
/// There on a host whose control groups are of version 2 only (cgroups(7)).
const CGROUP2: &str = "/sys/fs/cgroup/cgroup.controllers";
/// The most processes and open files of a container. podman asks for about a million each, which a host
/// without CAP_SYS_RESOURCE refuses.
const LIMIT: u64 = 4096;
/// How long monitors may outlive their containers: tenths of a second on a quiet host.
const SETTLE_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked for them.
const SETTLE_POLL: Duration = Duration::from_millis(20);

/// A store, by its directory. Two of them share nothing.
#[derive(Debug, Clone)]
pub(super) struct Podman {
    dir: PathBuf,
}

impl Podman {
    /// The store whose configuration lies in `dir`, whether or not there is one.
    pub(super) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes the store: containers and their files below `dir`, what must not outlive a boot of the host
    /// below `run_dir`, and `images` as a read-only store besides.
    pub(super) fn create(dir: &Path, run_dir: &Path, images: &Path) -> Result<Self, ContainerError> {
        for dir in [dir, run_dir] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(prepare(dir))?;
        }
        let files = [
            (
                CONTAINERS_CONF,
                containers_conf(run_dir, runtime()?, limit(Resource::Nofile), limit(Resource::Nproc)),
            ),
            (STORAGE_CONF, storage_conf(dir, run_dir, images)),
        ];
        for (name, content) in files {
            let path = dir.join(name);
            atomic_file::write(&path, content.as_bytes(), 0o600).map_err(prepare(path))?;
        }
        Ok(Self::at(dir))
    }

    /// Whether there is such a store.
    pub(super) fn exists(&self) -> bool {
        self.dir.join(CONTAINERS_CONF).is_file()
    }

    /// A podman command in this store. Ctrl-C on the terminal does not reach it: the lab is then tidied up
    /// with such commands.
    pub(super) fn command<T: Into<OsString>>(&self, args: impl IntoIterator<Item = T>) -> Command {
        let path = |name| self.dir.join(name).display().to_string();
        // With CONTAINER_HOST in the environment podman would ask another machine.
        Command::new("podman")
            .env("CONTAINERS_CONF", path(CONTAINERS_CONF))
            .env("CONTAINERS_STORAGE_CONF", path(STORAGE_CONF))
            .arg("--remote=false")
            .args(args)
            .own_group()
    }

    /// Runs a command to its end and answers what it printed.
    pub(super) async fn run(&self, args: &[&str]) -> Result<Vec<u8>, CommandError> {
        self.command(args.iter().copied()).output().await
    }

    /// A command for people.
    pub(super) fn line(&self, args: &str) -> String {
        let path = |name| self.dir.join(name).display().to_string();
        let (conf, storage) = (path(CONTAINERS_CONF), path(STORAGE_CONF));
        format!("CONTAINERS_CONF={conf} CONTAINERS_STORAGE_CONF={storage} podman {args}")
    }

    /// The names of containers, running or not, that `filter` lets through.
    pub(super) async fn names(&self, filter: &[&str]) -> Result<Vec<String>, ContainerError> {
        let args = [&["ps", "--all", "--format", "{{.Names}}"], filter].concat();
        let printed = self.run(&args).await;
        let printed =
            printed.map_err(|source| ContainerError::Podman { doing: "list containers", source })?;
        Ok(String::from_utf8_lossy(&printed).lines().map(str::to_owned).collect())
    }

    /// Removes containers by name, killing them; those that are not there are fine.
    pub(super) async fn remove(&self, names: &[String]) -> Result<(), ContainerError> {
        if names.is_empty() {
            return Ok(());
        }
        let fixed = ["rm", "--force", "--ignore", "--volumes", "--time", "0"].map(str::to_owned);
        let removed = self.command(fixed.iter().chain(names)).output().await;
        removed.map_err(|source| ContainerError::Podman { doing: "remove containers", source })?;
        Ok(())
    }

    /// Removes all containers of the store. After that nobody writes to it any more.
    pub(super) async fn remove_all(&self) -> Result<(), ContainerError> {
        let removed = self.run(&["rm", "--all", "--force", "--volumes", "--time", "0"]).await;
        removed.map_err(|source| ContainerError::Podman { doing: "remove all containers", source })?;
        self.settle().await
    }

    /// Waits until no process names the store. A container's monitor outlives it, and calls podman once more
    /// for the cleanup (conmon(8), `--exit-command`), which makes the store's directories when they are not there.
    async fn settle(&self) -> Result<(), ContainerError> {
        let store = self.dir.join(STORE);
        let deadline = Instant::now() + SETTLE_PATIENCE;
        loop {
            let left = processes_naming(&store).map_err(prepare("/proc"))?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ContainerError::Monitors { pids: left, timeout: SETTLE_PATIENCE });
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }
}

/// The processes with `place` on their command lines (proc(5)).
fn processes_naming(place: &Path) -> io::Result<Vec<u32>> {
    let place = place.as_os_str().as_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile names nothing.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(place.len()).any(|part| part == place) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The OCI runtime, where podman's own choice does not work: crun refuses control groups of version 1
/// beside those of version 2.
fn runtime() -> Result<Option<&'static str>, ContainerError> {
    if Path::new(CGROUP2).exists() {
        return Ok(None);
    }
    // Debian has it in /usr/sbin, which is not in everybody's PATH; podman looks there by itself.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = places.into_iter().any(|dir| dir.join("runc").is_file());
    if found { Ok(Some("runc")) } else { Err(ContainerError::NoRuntime) }
}

/// [`LIMIT`], or what this process may have at the most.
fn limit(resource: Resource) -> u64 {
    getrlimit(resource).maximum.unwrap_or(LIMIT).min(LIMIT)
}

/// containers.conf(5). The network of containers is their own loopback: no bridge, no firewall rule and no
/// address of the host's that two labs could fight for.
fn containers_conf(run_dir: &Path, runtime: Option<&str>, files: u64, processes: u64) -> String {
    let path = |name: &str| json!(run_dir.join(name).to_string_lossy()).to_string();
    let runtime = runtime.map(|runtime| format!("runtime = {}\n", json!(runtime))).unwrap_or_default();
    format!(
        "# Written at each start; changes are lost.\n\
         [containers]\n\
         netns = \"none\"\n\
         log_driver = \"k8s-file\"\n\
         default_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n\
         [engine]\n\
         {runtime}\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n\
         lock_type = \"file\"\n\
         tmp_dir = {}\n\
         [network]\n\
         network_config_dir = {}\n",
        path("libpod"),
        path("networks"),
    )
}

/// containers-storage.conf(5). The home is not made a mount of its own, so that it can be removed.
fn storage_conf(dir: &Path, run_dir: &Path, images: &Path) -> String {
    let path = |path: &Path| json!(path.to_string_lossy()).to_string();
    format!(
        "# Written at each start; changes are lost.\n\
         [storage]\n\
         driver = \"overlay\"\n\
         graphroot = {}\n\
         runroot = {}\n\
         [storage.options]\n\
         additionalimagestores = [{}]\n\
         [storage.options.overlay]\n\
         skip_mount_home = \"true\"\n",
        path(&dir.join(STORE)),
        path(&run_dir.join("storage")),
        path(images),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml_and_names_only_own_places() {
        let (dir, run) = (Path::new("/a \"b\"/podman"), Path::new("/run/x"));
        for runtime in [None, Some("runc")] {
            let conf: toml::Table = containers_conf(run, runtime, 100, 200).parse().unwrap();
            let engine = &conf["engine"];
            assert_eq!(engine["tmp_dir"].as_str(), Some("/run/x/libpod"));
            assert_eq!(engine.get("runtime").and_then(toml::Value::as_str), runtime);
            assert_eq!(conf["containers"]["default_ulimits"][0].as_str(), Some("nofile=100:100"));
        }
        let storage: toml::Table = storage_conf(dir, run, Path::new("/images")).parse().unwrap();
        assert_eq!(storage["storage"]["graphroot"].as_str(), Some("/a \"b\"/podman/store"));
        assert_eq!(storage["storage"]["options"]["additionalimagestores"][0].as_str(), Some("/images"));
    }

    #[test]
    fn limits_are_never_above_what_this_process_may_have() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert!((1..=LIMIT.min(hard)).contains(&limit(Resource::Nofile)));
    }
}
