//! Those who keep consoles: the coordinator, and conserver, each as it is installed.

use crate::load::{now, written_at};
use crate::process::{children, memory, processor};
use pilab::bus::connect::{Bus, BusOptions};
use pilab::config::login::Login;
use pilab::support::command::Command;
use pilab::wire::console::{ChunkKind, ConsoleChunk};
use pilab::wire::subject;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long bytes may be under way before they are lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// How late each line of text was, in nanoseconds.
pub(crate) type Late = Arc<Mutex<Vec<u64>>>;

pub(crate) trait Keeper {
    fn name(&self) -> &'static str;
    /// The names of the lines' terminals.
    fn names(&self) -> Vec<PathBuf>;
    /// The lines are there: opens what is opened then, and begins to read the first as users do.
    async fn attach(&mut self);
    /// Processor seconds of all its processes.
    fn processor(&self) -> f64;
    /// How many bytes it has of each line, once that is all or nothing more comes.
    async fn kept(&mut self, written: &[u64]) -> Vec<u64>;
    fn lateness(&self) -> &Late;

    fn late(&self) -> Vec<u64> {
        self.lateness().lock().unwrap().clone()
    }

    /// What was late so far does not count.
    fn forget(&self) {
        self.lateness().lock().unwrap().clear();
    }

    async fn stop(self);
}

fn names(dir: &Path, lines: usize) -> Vec<PathBuf> {
    (1..=lines).map(|line| dir.join(format!("line-{line}"))).collect()
}

/// Waits until `count` gives what was written, or as much as does not change any more.
async fn settled(written: &[u64], mut count: impl AsyncFnMut() -> Vec<u64>) -> Vec<u64> {
    let until = Instant::now() + PATIENCE;
    loop {
        let kept = count().await;
        if kept == written || Instant::now() > until {
            return kept;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Takes text apart into lines and notes how late each is.
#[derive(Default)]
struct Reader {
    line: Vec<u8>,
}

impl Reader {
    fn take(&mut self, bytes: &[u8], late: &Late) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            if let Some(at) = written_at(&self.line) {
                late.lock().unwrap().push(now().saturating_sub(at));
            }
            self.line.clear();
        }
    }
}

/// The program itself, and its readers over NATS.
pub(crate) struct Pilab {
    dir: TempDir,
    lines: usize,
    stalled: usize,
    child: Option<(Child, BufReader<ChildStderr>)>,
    readers: JoinSet<()>,
    late: Late,
}

impl Pilab {
    pub(crate) async fn start(lines: usize, stalled: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (child, readers) = (None, JoinSet::new());
        Self { dir, lines, stalled, child, readers, late: Late::default() }
    }

    /// Proportional memory of the coordinator and of its nats-server, in KiB.
    pub(crate) fn memory(&self) -> [u64; 2] {
        let pid = self.child.as_ref().and_then(|(child, _)| child.id()).unwrap();
        [memory(pid), children(pid).into_iter().map(memory).sum()]
    }

    /// One more reader of a console, that notes how late its bytes are or never reads them.
    async fn reader(&mut self, login: &Login, stalled: bool) {
        let options = BusOptions {
            url: login.url.clone().into(),
            creds: login.creds.clone(),
            name: "bench".to_owned(),
            inbox_prefix: subject::inbox(login.user.as_str()),
        };
        let bus = Bus::connect(options, Some(PATIENCE)).await.unwrap();
        let device = "bench-line-1".parse().unwrap();
        let mut chunks = bus.subscribe(subject::console(&login.lab, &device)).await.unwrap();
        bus.flush().await.unwrap();
        let late = Arc::clone(&self.late);
        self.readers.spawn(async move {
            // Its connection is held, and nothing is taken from it.
            if stalled {
                std::future::pending::<()>().await;
            }
            let mut reader = Reader::default();
            while let Some(message) = chunks.next().await {
                let chunk: ConsoleChunk = serde_json::from_slice(&message.payload).unwrap();
                if let ChunkKind::Bytes(bytes) = chunk.what {
                    reader.take(&bytes, &late);
                }
            }
            drop(bus);
        });
    }
}

impl Keeper for Pilab {
    fn name(&self) -> &'static str {
        "pilab coordinator, with its nats-server"
    }

    fn names(&self) -> Vec<PathBuf> {
        names(self.dir.path(), self.lines)
    }

    async fn attach(&mut self) {
        let mut lab = "name = \"bench\"\n".to_owned();
        for (number, name) in (1..).zip(self.names()) {
            write!(
                lab,
                "[[devices]]\nid = \"line-{number}\"\nmodel = \"pi4b\"\nconsole = {{ tty = {name:?} }}\n"
            )
            .unwrap();
        }
        let file = self.dir.path().join("lab.toml");
        std::fs::write(&file, lab).unwrap();
        let command = Command::new(env!("CARGO_BIN_EXE_pilab"))
            .env("PILAB_STATE_DIR", self.dir.path().join("state").to_str().unwrap())
            .env("USER", "local")
            .args(["coordinator", "--lab", file.to_str().unwrap()]);
        let mut child = command.build().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let login = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).await.unwrap() > 0, "the coordinator has ended");
            if let Some(path) = line.trim().strip_prefix("login: ") {
                break Login::read(Path::new(path)).unwrap();
            }
        };
        self.child = Some((child, said));
        self.reader(&login, false).await;
        for _ in 0..self.stalled {
            self.reader(&login, true).await;
            self.reader(&login, false).await;
        }
    }

    fn processor(&self) -> f64 {
        self.child.as_ref().and_then(|(child, _)| child.id()).map_or(0.0, processor)
    }

    async fn kept(&mut self, written: &[u64]) -> Vec<u64> {
        let state = self.dir.path().join("state");
        settled(written, async || {
            let mut kept = Vec::new();
            for number in 1..=written.len() {
                let device = format!("bench-line-{number}");
                let command = Command::new(env!("CARGO_BIN_EXE_pilab"))
                    .env("PILAB_STATE_DIR", state.to_str().unwrap())
                    .env("USER", "local")
                    .args(["console", &device, "--dump", "--raw"]);
                kept.push(command.build().output().await.unwrap().stdout.len() as u64);
            }
            kept
        })
        .await
    }

    fn lateness(&self) -> &Late {
        &self.late
    }

    async fn stop(mut self) {
        self.readers.shutdown().await;
        if let Some((mut child, _)) = self.child.take() {
            child.kill().await.unwrap();
        }
    }
}

/// Debian's conserver and its client.
pub(crate) struct Conserver {
    dir: TempDir,
    lines: usize,
    children: Vec<Child>,
    readers: JoinSet<()>,
    late: Late,
}

impl Conserver {
    /// None when it is not installed.
    pub(crate) async fn start(lines: usize) -> Option<Self> {
        let there = Command::new("conserver").arg("-V").build().output().await.is_ok()
            && Command::new("console").arg("-V").build().output().await.is_ok();
        let dir = tempfile::tempdir().unwrap();
        there.then(|| Self {
            dir,
            lines,
            children: Vec::new(),
            readers: JoinSet::new(),
            late: Late::default(),
        })
    }
}

impl Keeper for Conserver {
    fn name(&self) -> &'static str {
        "conserver"
    }

    fn names(&self) -> Vec<PathBuf> {
        names(self.dir.path(), self.lines)
    }

    async fn attach(&mut self) {
        let dir = self.dir.path().display();
        let mut config = "config * { primaryport 33782; secondaryport 0; sslrequired no; }\n\
            access * { trusted 127.0.0.1; }\n"
            .to_owned();
        for number in 1..=self.lines {
            writeln!(
                config,
                "console line-{number} {{ master localhost; type device; device {dir}/line-{number}; baud 115200; \
                 parity none; logfile {dir}/line-{number}.log; rw *; }}"
            )
            .unwrap();
        }
        let (file, none) = (self.dir.path().join("conserver.cf"), self.dir.path().join("none"));
        std::fs::write(&file, config).unwrap();
        std::fs::write(&none, "*any*:\n").unwrap();
        let command = Command::new("conserver")
            .args([
                "-C",
                file.to_str().unwrap(),
                "-P",
                none.to_str().unwrap(),
                "-p",
                "33782",
                "-M",
                "127.0.0.1",
            ])
            .args(["-a", "t"]);
        self.children.push(command.build().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect("127.0.0.1:33782").await.is_err() {
            assert!(Instant::now() < until, "conserver does not listen");
            sleep(Duration::from_millis(50)).await;
        }
        // -s: look on; it reads until its input ends.
        let command = Command::new("console").args([
            "-M",
            "127.0.0.1",
            "-p",
            "33782",
            "-E",
            "-s",
            "line-1",
            "-l",
            "root",
        ]);
        let mut client = command.build().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut out, late) = (client.stdout.take().unwrap(), Arc::clone(&self.late));
        self.children.push(client);
        self.readers.spawn(async move {
            let (mut reader, mut bytes) = (Reader::default(), [0; 4096]);
            while let Ok(read) = out.read(&mut bytes).await {
                if read == 0 {
                    return;
                }
                reader.take(&bytes[..read], &late);
            }
        });
    }

    fn processor(&self) -> f64 {
        self.children.first().and_then(Child::id).map_or(0.0, processor)
    }

    async fn kept(&mut self, written: &[u64]) -> Vec<u64> {
        let dir = self.dir.path().to_owned();
        settled(written, async || {
            // Its own remarks stand in lines that begin so.
            let own = |line: &&[u8]| line.starts_with(b"[-- ");
            let size = |number: usize| {
                let log = std::fs::read(dir.join(format!("line-{number}.log"))).unwrap_or_default();
                let remarks: usize =
                    log.split_inclusive(|byte| *byte == b'\n').filter(own).map(<[u8]>::len).sum();
                (log.len() - remarks) as u64
            };
            (1..=written.len()).map(size).collect()
        })
        .await
    }

    fn lateness(&self) -> &Late {
        &self.late
    }

    async fn stop(mut self) {
        self.readers.shutdown().await;
        let mut children = self.children.into_iter();
        if let Some(mut master) = children.next() {
            // It ends the processes that it has for every 16 lines when it is asked to, and leaves them behind when it is killed.
            let pid = rustix::process::Pid::from_raw(master.id().unwrap().cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            master.wait().await.unwrap();
        }
        for mut client in children {
            client.kill().await.unwrap();
        }
    }
}
