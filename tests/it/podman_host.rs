//! A real podman for tests: a service of its own on its own storage.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use crate::agent::lab::{Lab, installed};
use pilab::model::id::DeviceId;
use pilab::podman::topology::{PodmanOptions, PodmanTopology};
use pilab::support::command::Command;
use rustix::process::Pid;
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::Instant;

pub(crate) const V1: &str = "localhost/busybox:1";
pub(crate) const V2: &str = "localhost/busybox:2";
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at podman.
const LOOK: Duration = Duration::from_millis(2);
/// Small limits and runc: hosts with cgroups v1, or without the right to raise limits, refuse the defaults.
const CONTAINERS_CONF: &str = r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// podman with storage of its own, and two local images of the host's static busybox.
pub(crate) struct Podman {
    pub(crate) dir: tempfile::TempDir,
    service: Child,
}

impl Podman {
    pub(crate) async fn start() -> Option<Self> {
        let tools = ["podman", "runc", "busybox", "nats-server"];
        if !tools.iter().all(|tool| installed(tool, "podman")) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("containers.conf"), CONTAINERS_CONF).unwrap();
        std::fs::write(path("registries.conf"), "").unwrap();
        std::fs::create_dir_all(path("image/bin")).unwrap();
        std::fs::copy("/bin/busybox", path("image/bin/busybox")).unwrap();
        for applet in ["sh", "sleep", "cat", "httpd", "env", "grep", "head", "tail", "seq", "tr", "yes"] {
            symlink("busybox", path("image/bin").join(applet)).unwrap();
        }
        let tar = Command::new("tar").arg("-C").arg(path("image")).arg("-cf").arg(path("image.tar")).arg(".");
        tar.output().await.unwrap();
        for image in [V1, V2] {
            podman(dir.path(), &["import", "-q", path("image.tar").to_str().unwrap(), image])
                .output()
                .await
                .unwrap();
        }
        let service = serve(dir.path());
        let podman = Self { dir, service };
        podman.listens().await;
        Some(podman)
    }

    /// Writes registries.conf(5), and lets podman's service read it.
    pub(crate) async fn set_registries(&mut self, config: &str) {
        std::fs::write(self.dir.path().join("registries.conf"), config).unwrap();
        self.restart_service().await;
    }

    /// Sets where podman's service writes events from now on (`events_logger` of containers.conf(5)).
    pub(crate) async fn set_events_logger(&mut self, logger: &str) {
        let config = CONTAINERS_CONF.replace("\"file\"", &format!("{logger:?}"));
        std::fs::write(self.dir.path().join("containers.conf"), config).unwrap();
        self.restart_service().await;
    }

    /// Makes an image as a directory in the OCI layout; answers that and the image's id.
    pub(crate) async fn layout(&self, version: &str) -> (PathBuf, String) {
        let path = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let (label, image) = (format!("LABEL version={version}"), format!("localhost/layout:{version}"));
        self.run(&["import", "-q", "--change", &label, &path("image.tar"), &image]).await;
        let id = self.run(&["image", "inspect", "--format", "{{.Id}}", &image]).await;
        self.run(&["save", "-q", "--format", "oci-dir", "-o", &path(version), &image]).await;
        self.run(&["rmi", &image]).await;
        (path(version).into(), id)
    }

    /// Kills podman's service and starts it again.
    pub(crate) async fn restart_service(&mut self) {
        self.service.kill().await.unwrap();
        std::fs::remove_file(self.socket()).unwrap();
        self.service = serve(self.dir.path());
        self.listens().await;
    }

    async fn listens(&self) {
        let deadline = Instant::now() + DEADLINE;
        while tokio::net::UnixStream::connect(self.socket()).await.is_err() {
            assert!(Instant::now() < deadline, "podman's service does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The process that answers on the socket.
    pub(crate) fn service_pid(&self) -> u32 {
        self.service.id().unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("podman.sock")
    }

    /// What happens to containers from about now on, on standard output: a word, a blank and the name.
    pub(crate) fn events(&self) -> Child {
        let format = "{{.Status}} {{.Name}}";
        let args = ["events", "--filter", "type=container", "--format", format];
        podman(self.dir.path(), &args).build().stdout(std::process::Stdio::piped()).spawn().unwrap()
    }

    /// The arguments of an agent's program that is the device of this lab, on this podman. Its state outlives it.
    pub(crate) fn agent_args(&self, lab: &Lab) -> Vec<OsString> {
        let path = |name: &str| self.dir.path().join(name);
        std::fs::create_dir_all(path("identity")).unwrap();
        let (nats_url, creds) = lab.identity();
        let identity = json!({ "version": 1, "device": lab.device, "attempt": 1, "nats_url": nats_url });
        std::fs::write(path("identity/identity.json"), identity.to_string()).unwrap();
        std::fs::write(path("identity/nats.creds"), creds).unwrap();
        let (dir, socket, state) = (path("identity"), self.socket(), path("state"));
        let args = [("--identity-dir", dir), ("--podman-socket", socket), ("--state-dir", state)];
        let args = args.into_iter().flat_map(|(name, path)| [name.into(), path.into_os_string()]);
        args.chain(["--oci-runtime".into(), "runc".into()]).collect()
    }

    /// An agent's program that is the device of this lab, on this podman.
    pub(crate) fn agent(&self, lab: &Lab) -> Child {
        Command::new(env!("CARGO_BIN_EXE_pilab-agent")).args(self.agent_args(lab)).build().spawn().unwrap()
    }

    /// A directory of the host's for containers to write in.
    pub(crate) fn shared(&self) -> PathBuf {
        let path = self.dir.path().join("shared");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn topology(&self, device: &str) -> PodmanTopology {
        let options = PodmanOptions { socket: self.socket(), oci_runtime: Some("runc".into()) };
        PodmanTopology::new(DeviceId::new(device).unwrap(), options)
    }

    /// What podman itself says, without the adapter.
    pub(crate) async fn run(&self, args: &[&str]) -> String {
        String::from_utf8(podman(self.dir.path(), args).output().await.unwrap()).unwrap()
    }

    /// podman itself, left to run.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        podman(self.dir.path(), args).build().spawn().unwrap()
    }

    /// What podman says of a container, once it says `wanted`; nothing while there is none of that name.
    pub(crate) async fn inspected(&self, format: &str, name: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let args = ["ps", "-a", "--format", "{{.Names}}", "--filter", &format!("name=^{name}$")];
            let listed = !self.run(&args).await.is_empty();
            let said =
                if listed { self.run(&["inspect", "--format", format, name]).await } else { String::new() };
            if wanted(said.trim()) {
                return said.trim().to_owned();
            }
            assert!(Instant::now() < deadline, "{name}: not in {DEADLINE:?}; last: {said:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The number of a process of a container that runs: `Pid` or `ConmonPid`.
    pub(crate) async fn process(&self, name: &str, which: &str) -> Pid {
        let format = format!("{{{{.State.Running}}}} {{{{.State.{which}}}}}");
        let said = self.inspected(&format, name, |said| said.starts_with("true")).await;
        Pid::from_raw(said.split_once(' ').unwrap().1.parse().unwrap()).unwrap()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.run(&["ps", "-a", "--format", "{{.Names}}"]).await.lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

/// Ends an agent without a chance to do anything about it.
pub(crate) async fn kill(mut agent: Child) {
    agent.start_kill().unwrap();
    agent.wait().await.unwrap();
}

/// Also when a test fails, no container outlives it.
impl Drop for Podman {
    fn drop(&mut self) {
        // Not through the runtime: a drop cannot wait for a future. The storage goes with the directory.
        let mut remove = podman(self.dir.path(), &["rm", "-af", "-t", "0"]).build().into_std();
        let _ = remove.stdout(std::process::Stdio::null()).status();
    }
}

fn serve(dir: &std::path::Path) -> Child {
    let socket = format!("unix://{}", dir.join("podman.sock").display());
    podman(dir, &["system", "service", "--time=0", &socket]).build().spawn().unwrap()
}

fn podman(dir: &std::path::Path, args: &[&str]) -> Command {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    Command::new("podman")
        .env("CONTAINERS_CONF", path("containers.conf"))
        .env("CONTAINERS_REGISTRIES_CONF", path("registries.conf"))
        .args(["--storage-driver", "vfs", "--root", &path("root"), "--runroot", &path("runroot")])
        .args(["--tmpdir", &path("tmp")])
        .args(args.iter().copied())
}

/// A podman, or the end of the test where there is none.
macro_rules! podman_or_return {
    () => {
        match $crate::podman_host::Podman::start().await {
            Some(podman) => podman,
            None => return,
        }
    };
}
pub(crate) use podman_or_return;
