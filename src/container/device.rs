//! [`ContainerDevice`]: one device as the container of its agent.

use super::Kept;
use super::error::{ContainerError, prepare};
use super::podman::Podman;
use super::root::AGENT;
use crate::console::port::{ByteStream, Line, LineFuture};
use crate::device::ports::{
    Boot, BootOffer, PortError, PortFuture, Power, REACH_OUTPUT_LIMIT, Reach, ReachOutput, ReachTarget,
    TicketFate, TicketGrant, TicketOffice,
};
use crate::model::id::DeviceId;
use crate::model::identity::{Identity, file};
use crate::model::lease::{Fence, FencingToken};
use crate::model::power::{PowerReading, PowerState};
use crate::model::workload::label;
use crate::support::atomic_file;
use crate::support::command::{Command, CommandError};
use crate::support::lock::lock;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};

/// How long podman may take to start an agent: a fifth of a second on a quiet host.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of what a failed start said is quoted, in bytes.
const QUOTE: u64 = 2000;
/// How long its last words are waited for.
const QUOTE_TIMEOUT: Duration = Duration::from_secs(2);
/// Where agents of this host reach the lab: they share the host's network.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Where the agent looks for podman.
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// What a device is made of.
pub(super) struct Parts {
    pub(super) id: DeviceId,
    /// Its identity and its agent's state while it is on.
    pub(super) dir: PathBuf,
    pub(super) root: PathBuf,
    pub(super) mounts: Vec<PathBuf>,
    pub(super) socket: PathBuf,
    pub(super) agent: PathBuf,
    pub(super) podman: Podman,
}

/// A device that is a container.
pub struct ContainerDevice {
    parts: Parts,
    fence: Mutex<Fence>,
    /// One act at a time. Holds who waits for the current identity to be used.
    acts: tokio::sync::Mutex<Option<watch::Sender<TicketFate>>>,
    /// The agent's output, until the console takes it.
    line: Mutex<Option<UnixStream>>,
    lines: Notify,
    /// The console had the agent's output, and has not been told yet how the agent ended.
    watched: AtomicBool,
}

impl ContainerDevice {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            fence: Mutex::default(),
            acts: tokio::sync::Mutex::default(),
            line: Mutex::default(),
            lines: Notify::new(),
            watched: AtomicBool::new(false),
        }
    }

    /// How to enter the agent's container, and how to remove what the lab has.
    pub fn keep_instructions(&self) -> Kept {
        let podman = &self.parts.podman;
        Kept {
            enter: podman.line(&format!("exec -it {} sh", self.agent_name())),
            remove: podman.line("rm --all --force --time 0"),
        }
    }

    /// No service's container has such a name: theirs hold the device's id first.
    fn agent_name(&self) -> String {
        format!("pilab-agent.{}", self.parts.id)
    }

    fn admit(&self, token: FencingToken) -> Result<(), PortError> {
        Ok(lock(&self.fence).admit(token)?)
    }

    fn write_identity(&self, files: &[(String, Vec<u8>)]) -> Result<(), ContainerError> {
        self.remove_identity()?;
        let dir = &self.parts.dir;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(prepare(dir))?;
        // Nobody logs in to a container, so the SSH keys are of no use there.
        for (name, content) in
            files.iter().filter(|(name, _)| [file::IDENTITY, file::NATS_CREDS].contains(&&**name))
        {
            let path = dir.join(name);
            atomic_file::write(&path, content, 0o600).map_err(prepare(path))?;
        }
        Ok(())
    }

    fn remove_identity(&self) -> Result<(), ContainerError> {
        match fs::remove_dir_all(&self.parts.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(prepare(&self.parts.dir)(error)),
            _ => Ok(()),
        }
    }

    /// Starts the agent. Its output goes to the console from its first byte.
    async fn switch_on(&self, fate: Option<&watch::Sender<TicketFate>>) -> Result<(), ContainerError> {
        if self.reading().await? == PowerReading::On {
            return Ok(());
        }
        let fate = fate.ok_or(ContainerError::NoIdentity)?;
        // One that has ended keeps its name.
        self.parts.podman.remove(&[self.agent_name()]).await?;
        let command = self.start_command();
        let io =
            |source| ContainerError::Podman { doing: "start the agent", source: command.start_error(source) };
        let (mut ours, theirs) = UnixStream::pair().map_err(io)?;
        let theirs = theirs.into_std().map_err(io)?;
        theirs.set_nonblocking(false).map_err(io)?;
        let mut child = {
            // Dropped before the wait: the last copies of the other end are podman's and the agent's.
            let mut process = command.build();
            process.stdout(Stdio::null()).stderr(Stdio::from(OwnedFd::from(theirs)));
            process.spawn().map_err(io)?
        };
        let status = tokio::time::timeout(START_TIMEOUT, child.wait()).await;
        let status = match status {
            Ok(status) => status.map_err(io)?,
            Err(_) => {
                let source = CommandError::TimedOut { line: command.line(), timeout: START_TIMEOUT };
                return Err(ContainerError::Podman { doing: "start the agent", source });
            }
        };
        if !status.success() {
            let mut output = Vec::new();
            // What it has said by then is enough.
            let _ =
                tokio::time::timeout(QUOTE_TIMEOUT, (&mut ours).take(QUOTE).read_to_end(&mut output)).await;
            let output = String::from_utf8_lossy(&output).trim().to_owned();
            return Err(ContainerError::NotStarted { status: status.to_string(), output });
        }
        *lock(&self.line) = Some(ours);
        self.lines.notify_one();
        fate.send_replace(TicketFate::Redeemed { address: ADDRESS });
        Ok(())
    }

    fn start_command(&self) -> Command {
        let Parts { id, dir, root, mounts, socket, agent, podman } = &self.parts;
        let volume = |from: &std::path::Path, to: &str, options: &str| {
            ["--volume".to_owned(), format!("{}:{to}:{options}", from.display())]
        };
        let fixed = [
            "run",
            "--detach",
            "--network",
            "host",
            "--pid",
            "host",
            "--restart",
            "no",
            "--read-only",
            // Its output is passed through as it is, to the socket that podman inherits.
            "--log-driver",
            "passthrough",
            "--security-opt",
            "label=disable",
        ];
        let mut args: Vec<String> = fixed.map(str::to_owned).to_vec();
        // Not the label of what the agent makes: it is no container of its own.
        args.extend([
            "--name".to_owned(),
            self.agent_name(),
            "--label".to_owned(),
            format!("pilab.agent-of={id}"),
        ]);
        for mount in mounts {
            args.extend(volume(mount, &mount.to_string_lossy(), "ro"));
        }
        args.extend(volume(agent, &format!("/{AGENT}"), "ro"));
        args.extend(volume(socket, PODMAN_SOCKET, "rw"));
        args.extend(volume(dir, Identity::DIR, "rw"));
        args.extend(["--rootfs".to_owned(), root.display().to_string(), format!("/{AGENT}")]);
        podman.command(args).timeout(START_TIMEOUT)
    }

    /// Removes the agent, then all that it has made.
    async fn switch_off(&self) -> Result<(), ContainerError> {
        let podman = &self.parts.podman;
        podman.remove(&[self.agent_name()]).await?;
        let made = podman.names(&["--filter", &self.label_filter()]).await?;
        podman.remove(&made).await
    }

    async fn reading(&self) -> Result<PowerReading, ContainerError> {
        let name = format!("name=^{}$", self.agent_name());
        let running = self.parts.podman.names(&["--filter", &name, "--filter", "status=running"]).await?;
        Ok(if running.is_empty() { PowerReading::Off } else { PowerReading::On })
    }

    /// How the agent ended, if it did so by itself: one that is switched off leaves no container.
    async fn end(&self) -> Option<String> {
        let name = format!("name=^{}$", self.agent_name());
        let ended = ["--filter", "status=exited", "--filter", "status=stopped", "--format", "{{.ExitCode}}"];
        let args: Vec<&str> = ["ps", "--all", "--filter", &name].into_iter().chain(ended).collect();
        let code = String::from_utf8(self.parts.podman.run(&args).await.ok()?).ok()?;
        let code = code.trim();
        (!code.is_empty()).then(|| format!("the agent's container ended with exit code {code}"))
    }

    fn label_filter(&self) -> String {
        format!("label={}={}", label::DEVICE, self.parts.id)
    }

    /// podman's own word on this device's containers, and nothing else.
    async fn look(&self, command: &[String], timeout: Duration) -> Result<ReachOutput, ContainerError> {
        let args = match command {
            [podman, ps, args @ ..] if podman == "podman" && ps == "ps" => args,
            _ => return Err(ContainerError::NoCommands { command: command.to_vec() }),
        };
        let filter = self.label_filter();
        let args = ["ps", "--filter", &filter].into_iter().chain(args.iter().map(String::as_str));
        let ran = self.parts.podman.command(args).timeout(timeout).output().await;
        let bounded = |mut bytes: Vec<u8>| {
            bytes.truncate(REACH_OUTPUT_LIMIT);
            bytes
        };
        match ran {
            Ok(stdout) => Ok(ReachOutput { exit_code: Some(0), stdout: bounded(stdout), stderr: Vec::new() }),
            Err(CommandError::Failed { status, stderr, .. }) => {
                let stderr = bounded(stderr.into_bytes());
                Ok(ReachOutput { exit_code: status.code(), stdout: Vec::new(), stderr })
            }
            Err(source) => Err(ContainerError::Podman { doing: "list containers", source }),
        }
    }

    fn failed(&self, verb: &str) -> impl FnOnce(ContainerError) -> PortError {
        let operation = format!("{verb} {}", self.parts.id);
        move |error| error.into_port(operation)
    }
}

impl Power for ContainerDevice {
    /// `On` starts the agent with the identity it was given; `Off` removes it and all it has made.
    fn set(&self, token: FencingToken, state: PowerState) -> PortFuture<'_, ()> {
        Box::pin(async move {
            let acts = self.acts.lock().await;
            self.admit(token)?;
            match state {
                PowerState::On => {
                    self.switch_on(acts.as_ref()).await.map_err(self.failed("start the agent of"))
                }
                PowerState::Off => self.switch_off().await.map_err(self.failed("remove the containers of")),
            }
        })
    }

    fn get(&self) -> PortFuture<'_, PowerReading> {
        Box::pin(async move { self.reading().await.map_err(self.failed("look for the agent of")) })
    }
}

/// There is nothing to boot from: the agent's executable is the same for all attempts.
impl Boot for ContainerDevice {
    fn offer(&self, token: FencingToken, _offer: BootOffer) -> PortFuture<'_, ()> {
        Box::pin(async move { self.admit(token) })
    }

    fn withdraw(&self, token: FencingToken) -> PortFuture<'_, ()> {
        Box::pin(async move { self.admit(token) })
    }
}

/// A ticket is not exchanged over a network here: its files lie in a directory that only the owner of the
/// lab can read and that the agent's container has. It is used when the agent starts, and goes with it.
impl TicketOffice for ContainerDevice {
    fn issue(&self, grant: TicketGrant) -> PortFuture<'_, Vec<String>> {
        Box::pin(async move {
            let mut acts = self.acts.lock().await;
            self.write_identity(&grant.files).map_err(self.failed("write the identity of"))?;
            *acts = Some(grant.fate);
            Ok(Vec::new())
        })
    }

    fn revoke<'a>(&'a self, _device: &'a DeviceId) -> PortFuture<'a, ()> {
        Box::pin(async move {
            *self.acts.lock().await = None;
            self.remove_identity().map_err(self.failed("remove the identity of"))
        })
    }
}

impl Reach for ContainerDevice {
    /// `podman ps` alone, on the host, and of this device's containers alone.
    fn run<'a>(
        &'a self,
        token: FencingToken,
        _target: &'a ReachTarget,
        command: &'a [String],
        timeout: Duration,
    ) -> PortFuture<'a, ReachOutput> {
        Box::pin(async move {
            self.admit(token)?;
            self.look(command, timeout).await.map_err(self.failed("run a command on"))
        })
    }
}

impl ByteStream for ContainerDevice {
    fn open(&self) -> LineFuture<'_> {
        Box::pin(async move {
            loop {
                let line = lock(&self.line).take();
                if let Some(line) = line {
                    self.watched.store(true, Ordering::Relaxed);
                    let line: Box<dyn Line> = Box::new(line);
                    return Ok(line);
                }
                if self.watched.load(Ordering::Relaxed) {
                    let end = self.end().await;
                    self.watched.store(false, Ordering::Relaxed);
                    if let Some(end) = end {
                        return Err(io::Error::other(end));
                    }
                }
                self.lines.notified().await;
            }
        })
    }
}
