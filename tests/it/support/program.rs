//! The program itself, in a state directory of its own: calls of it, its coordinator, and how they end.

use pilab::support::command::Command;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// A bound for what takes tenths of a second on a quiet host.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A place for calls, and the lab file in it.
pub struct Program {
    pub dir: TempDir,
    pub lab: PathBuf,
    /// The store of images; none for that of the host.
    pub images: Option<PathBuf>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn is_done(&self) -> bool {
        self.code == Some(0)
    }

    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn refused(&self, words: &str) {
        assert_ne!(self.code, Some(0), "{}", self.stdout);
        assert!(self.stderr.contains(words), "{words:?} is not in:\n{}", self.stderr);
    }

    pub fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Program {
    /// With this lab file.
    pub fn new(lab: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::within(dir, lab)
    }

    /// The same in a directory that is there.
    pub fn within(dir: TempDir, lab: &str) -> Self {
        let path = dir.path().join("lab.toml");
        std::fs::write(&path, lab).unwrap();
        Self { dir, lab: path, images: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let command = Command::new(env!("CARGO_BIN_EXE_pilab"))
            .env("PILAB_STATE_DIR", self.state().to_str().unwrap())
            .env("USER", "local");
        let images = self.images.iter().map(|dir| dir.to_str().unwrap());
        images.fold(command, |command, dir| command.env("PILAB_IMAGE_DIR", dir)).args(args.iter().copied())
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub async fn pilab(&self, args: &[&str]) -> Ended {
        end(self.spawn(args)).await
    }

    pub async fn as_user(&self, login: &Path, args: &[&str]) -> Ended {
        self.pilab(&[args, &["--login", login.to_str().unwrap()]].concat()).await
    }

    /// Starts the coordinator, and waits until it says that it is up.
    pub async fn coordinator(&self) -> Child {
        self.coordinator_with(&[]).await
    }

    /// The same with more arguments.
    pub async fn coordinator_with(&self, more: &[&str]) -> Child {
        let command = self.command(&[&["coordinator", "--lab", self.lab.to_str().unwrap()], more].concat());
        let mut child = command.build().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut told = String::new();
        let up = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                told.push_str(&line);
                told.push('\n');
                if line.starts_with("login: ") {
                    return true;
                }
            }
            false
        };
        let up = timeout(PATIENCE, up).await;
        assert!(matches!(up, Ok(true)), "the coordinator is not up:\n{told}");
        // Its further words are nobody's concern, but must not fill the pipe.
        let mut rest = JoinSet::new();
        rest.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        rest.detach_all();
        child
    }

    pub async fn login(&self, user: &str, role: &str) -> PathBuf {
        let path = self.path(&format!("{user}.json"));
        self.pilab(&["login", user, "--role", role, "-o", path.to_str().unwrap()]).await.done();
        path
    }

    pub async fn devices(&self) -> Vec<Value> {
        self.pilab(&["devices", "--json"]).await.done().json()
    }

    /// Looks at a device of the coordinator until `is_so`.
    pub async fn device_until(&self, id: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let device = self.devices().await.into_iter().find(|row| row["id"] == id).unwrap();
            if is_so(&device) {
                return device;
            }
            assert!(Instant::now() < deadline, "waited for {what}: {device}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits for the end of a call.
pub async fn end(child: Child) -> Ended {
    end_within(child, PATIENCE).await
}

/// The same with another bound.
pub async fn end_within(child: Child, patience: Duration) -> Ended {
    let output = timeout(patience, child.wait_with_output()).await.expect("pilab did not end").unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn signal(child: &Child, signal: Signal) {
    signal_process(child.id().unwrap(), signal);
}

pub fn signal_process(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// Tells a call to end, which it must do well.
pub async fn finish(child: Child) {
    signal(&child, Signal::TERM);
    end(child).await.done();
}
