//! podman's service on the lab's socket, through which agents make containers. It ends with the lab. When it dies
//! before, that is told, and it is started again: agents that run then have lost it, for the socket they were given
//! is gone, but later ones find it. One that dies again and again is given up, and that is told to whoever comes.

use super::error::{ContainerError, prepare};
use super::podman::Podman;
use crate::device::ports::Broken;
use crate::support::chain::Chain;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// How long it may take to listen: a tenth of a second on a quiet host.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked.
const POLL: Duration = Duration::from_millis(10);
/// How long one that a killed lab left may take to end when it is killed.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How often it may die in a row: one that dies again and again is of no use.
const DEATHS: usize = 10;
/// For how long one lives whose death has nothing to do with the one before.
const QUIET: Duration = Duration::from_secs(600);
/// The most of its last line that is told, in characters.
const QUOTE: usize = 300;

/// The service, kept alive.
pub(super) struct Service {
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Also when it is not ended in good order.
    _stop: DropGuard,
    broke: watch::Receiver<Broken>,
}

/// Where it is and what it uses.
struct Place {
    podman: Podman,
    log: PathBuf,
    socket: PathBuf,
}

impl Service {
    /// Starts it.
    pub(super) async fn start(podman: Podman, log: PathBuf, socket: PathBuf) -> Result<Self, ContainerError> {
        let place = Place { podman, log, socket };
        let child = place.start().await?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (told, broke) = watch::channel(Broken::default());
        tasks.spawn(place.keep(child, told, stop.clone()));
        tasks.close();
        Ok(Self { tasks, _stop: stop.clone().drop_guard(), stop, broke })
    }

    /// Changes each time it dies, to how, and when it is given up.
    pub(super) fn broke(&self) -> watch::Receiver<Broken> {
        self.broke.clone()
    }

    /// Ends it.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Place {
    async fn keep(self, mut child: Child, told: watch::Sender<Broken>, stop: CancellationToken) {
        let mut deaths = 0;
        loop {
            let since = Instant::now();
            let Some(ended) = stop.run_until_cancelled(child.wait()).await else { break };
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let mut cause = format!("podman's service, which all devices share, ended in mid-run: {how}");
            if let Some(last) = self.said().lines().last() {
                cause.push_str("; its last line: ");
                cause.extend(last.chars().take(QUOTE));
            }
            deaths = in_a_row(deaths, since.elapsed());
            self.tell(&told, cause, deaths >= DEATHS);
            child = loop {
                if deaths >= DEATHS {
                    return;
                }
                match stop.run_until_cancelled(self.start()).await {
                    Some(Ok(again)) => break again,
                    Some(Err(error)) => {
                        deaths += 1;
                        let cause = format!("podman's service cannot be started again: {}", Chain(&error));
                        self.tell(&told, cause, true);
                    }
                    None => return,
                }
            };
            // No news to whoever was told that it broke.
            told.send_if_modified(|broken| {
                broken.lasting = false;
                false
            });
        }
        if let Err(error) = child.kill().await {
            tracing::debug!(%error, "podman's service had ended by itself");
        }
    }

    /// Tells of its end, and makes room for a new one, which cannot listen where a killed one did.
    fn tell(&self, told: &watch::Sender<Broken>, cause: String, lasting: bool) {
        tracing::warn!(lasting, "{cause}");
        told.send_replace(Broken { cause, lasting });
        if let Err(error) = fs::remove_file(&self.socket) {
            tracing::debug!(%error, "podman's service has removed its socket");
        }
    }

    /// What it said.
    fn said(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).trim().to_owned()
    }

    async fn start(&self) -> Result<Child, ContainerError> {
        let Self { podman, log, socket } = self;
        let file = File::create(log).map_err(prepare(log))?;
        let again = file.try_clone().map_err(prepare(log))?;
        // It ends with the lab, not after a time without requests.
        let command =
            podman.command(["system", "service", "--time=0", &format!("unix://{}", socket.display())]);
        let child = command.build().stdout(Stdio::from(file)).stderr(Stdio::from(again)).spawn();
        let mut child = child.map_err(|source| ContainerError::Podman {
            doing: "start podman's service",
            source: command.start_error(source),
        })?;
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(socket).await.is_err() {
            let ended = child.try_wait().ok().flatten().is_some();
            if ended || Instant::now() >= deadline {
                return Err(ContainerError::NoService {
                    socket: socket.clone(),
                    timeout: PATIENCE,
                    log: self.said(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(child)
    }
}

/// How often it has died in a row, when it had died `before` times and has `lived` since.
fn in_a_row(before: usize, lived: Duration) -> usize {
    if lived >= QUIET { 1 } else { before + 1 }
}

/// Kills whoever listens on the socket, left by a lab that was killed: the kernel knows who that is, so no other
/// process can be hit.
pub(super) async fn end_left_over(socket: &Path) -> Result<(), ContainerError> {
    let Ok(stream) = UnixStream::connect(socket).await else { return Ok(()) };
    let Some(pid) = stream.peer_cred().ok().and_then(|peer| peer.pid()) else { return Ok(()) };
    let Some(process) = Pid::from_raw(pid) else { return Ok(()) };
    let kill = || -> io::Result<()> {
        let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        rustix::process::pidfd_send_signal(&process, Signal::KILL)?;
        Ok(())
    };
    if let Err(source) = kill() {
        return Err(ContainerError::Orphan { pid, source });
    }
    drop(stream);
    let deadline = Instant::now() + KILL_PATIENCE;
    while UnixStream::connect(socket).await.is_ok() {
        if Instant::now() >= deadline {
            let source = io::Error::new(io::ErrorKind::TimedOut, "it still listens after SIGKILL");
            return Err(ContainerError::Orphan { pid, source });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::command::Command;
    use crate::support::skip::skip;

    #[test]
    fn who_has_lived_for_long_begins_anew() {
        let minute = Duration::from_secs(60);
        let deaths = [minute, minute, QUIET, minute].into_iter().scan(0, |deaths, lived| {
            *deaths = in_a_row(*deaths, lived);
            Some(*deaths)
        });
        assert_eq!(deaths.collect::<Vec<_>>(), [1, 2, 1, 2]);
    }

    #[tokio::test]
    async fn one_that_dies_again_and_again_is_given_up_and_that_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (images, socket) = (dir.path().join("images"), dir.path().join("socket"));
        fs::create_dir(&images).unwrap();
        if Command::new("podman").arg("--version").output().await.is_err() {
            return skip("podman", "podman is not installed");
        }
        let podman = Podman::create(&dir.path().join("podman"), &dir.path().join("run"), &images).unwrap();
        let service = Service::start(podman, dir.path().join("log"), socket.clone()).await.unwrap();
        let mut broke = service.broke();
        // It may be killed before its start is over, which counts as well.
        let given_up = async {
            loop {
                if let Ok(stream) = UnixStream::connect(&socket).await {
                    let pid = stream.peer_cred().unwrap().pid().and_then(Pid::from_raw).unwrap();
                    // It may have died of the last time just now.
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
                if service.tasks.is_empty() {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, given_up).await.expect("it is given up");
        broke.changed().await.unwrap();
        let told = broke.borrow().clone();
        assert!(told.lasting && told.cause.starts_with("podman's service"), "{told:?}");
        service.end().await;
    }
}
