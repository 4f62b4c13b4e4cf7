//! The program itself as a user calls it, in a state directory of its own, and what it must not leave.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests fail by panicking and print times")]

use crate::guest::skip;
use ::pilab::support::command::Command;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

/// The bound of one call: three scenarios one after the other take a minute on two idle cores, and 240 s were seen to be too little on a
/// host whose neighbours are busy.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a value is looked at that a test waits for.
const POLL: Duration = Duration::from_millis(50);
/// One at a time also where the test runner knows of no groups.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PROGRAM: &str = env!("CARGO_BIN_EXE_pilab");

/// What begins or stands in a secret: an nkeys user seed, a user JWT in a credentials file, a private key.
pub(crate) const SECRETS: [&str; 4] =
    ["BEGIN OPENSSH PRIVATE KEY", "BEGIN USER NKEY SEED", "BEGIN NATS USER JWT", "eyJ0eXAi"];

/// Of the machines that tests boot.
pub(crate) fn arch() -> String {
    std::env::var("PILAB_VM_ARCH").unwrap_or_else(|_| "aarch64".to_owned())
}

/// A place for calls of the program.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

/// How a call ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Fails unless the call ended with `code`.
    pub(crate) fn exits(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "stdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }

    /// Fails unless one of the outputs holds `text`.
    pub(crate) fn says(self, text: &str) -> Self {
        let Self { stdout, stderr, .. } = &self;
        let said = stdout.contains(text) || stderr.contains(text);
        assert!(said, "nothing says {text:?}; stdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }
}

/// A running call.
pub(crate) struct Call {
    child: tokio::process::Child,
    began: Instant,
    what: String,
}

impl Bench {
    /// None, with the reason printed, where virtual machines are not to be booted.
    pub(crate) async fn new() -> Option<Self> {
        if std::env::var("PILAB_VM_E2E").is_ok_and(|value| value == "1") {
            return Some(Self { dir: tempfile::tempdir().unwrap(), _turn: TURN.lock().await });
        }
        skip("set PILAB_VM_E2E=1 to boot virtual machines; tests/run prepares agent and image for them");
        None
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a lab file with these kernel arguments; answers its path.
    pub(crate) fn lab(&self, kernel_arg: &str) -> String {
        let text = std::fs::read_to_string("lab/laptop.toml").unwrap();
        let path = self.path("lab.toml");
        std::fs::write(&path, format!("kernel_args = [{kernel_arg:?}]\n{text}")).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Starts `pilab run ARGS`.
    pub(crate) fn start(&self, args: &[&str]) -> Call {
        let mut command = self.command("run").args(args.iter().copied());
        if !args.contains(&"--bundle") {
            command = command.arg("--bundle").arg(self.path("bundles"));
        }
        if let Ok(arch) = std::env::var("PILAB_VM_ARCH") {
            command = command.arg("--arch").arg(arch);
        }
        if std::env::var("PILAB_KEEP").is_ok_and(|keep| keep == "1") {
            command = command.arg("--keep");
        }
        Call::start(command, args)
    }

    /// Starts `pilab ARGS` with `images` as its store of images.
    pub(crate) fn start_with_images(&self, images: &Path, args: &[&str]) -> Call {
        let (verb, rest) = args.split_first().unwrap();
        let command = self.command(verb).args(rest.iter().copied());
        Call::start(command.env("PILAB_IMAGE_DIR", images.to_str().unwrap()), args)
    }

    fn command(&self, verb: &str) -> Command {
        self.with_state(Command::new(PROGRAM)).arg(verb)
    }

    fn with_state(&self, command: Command) -> Command {
        command.env("PILAB_STATE_DIR", self.path("state").to_str().unwrap())
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        self.start(args).end().await
    }

    /// Starts `pilab coordinator` and waits until it has told how to reach it.
    pub(crate) async fn coordinator(&self) -> Call {
        match std::env::var("PILAB_VM_ARCH") {
            Ok(arch) => self.coordinator_of("laptop", &["--arch", &arch]).await,
            Err(_) => self.coordinator_of("laptop", &[]).await,
        }
    }

    /// The same with these arguments, for the lab of that name.
    pub(crate) async fn coordinator_of(&self, lab: &str, args: &[&str]) -> Call {
        let login = self.path(&format!("state/labs/{lab}/login.json"));
        let _ = std::fs::remove_file(&login);
        let call = Call::start(self.command("coordinator").args(args.iter().copied()), &["coordinator"]);
        let deadline = Instant::now() + PATIENCE;
        while !login.exists() {
            assert!(Instant::now() < deadline, "the coordinator is not up");
            sleep(POLL).await;
        }
        call
    }

    /// Calls `pilab VERB ARGS`.
    pub(crate) async fn call(&self, verb: &str, args: &[&str]) -> Ended {
        self.begin(verb, args).end().await
    }

    /// Starts `pilab VERB ARGS`.
    pub(crate) fn begin(&self, verb: &str, args: &[&str]) -> Call {
        Call::start(self.command(verb).args(args.iter().copied()), &[&[verb], args].concat())
    }

    /// The same from another network.
    pub(crate) async fn call_from(&self, namespace: &str, args: &[&str]) -> Ended {
        let command = Command::new("ip").args(["netns", "exec", namespace, PROGRAM]);
        Call::start(self.with_state(command.args(args.iter().copied())), args).end().await
    }

    /// Looks at a device of the coordinator until it is so.
    pub(crate) async fn device(&self, id: &str, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = self.call("devices", &["--json"]).await.exits(0).stdout;
            let rows = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let row = rows.into_iter().find(|row| row["id"] == id).unwrap();
            if is_so(&row) {
                return;
            }
            assert!(Instant::now() < deadline, "waited for {what}: {row}");
            sleep(POLL * 10).await;
        }
    }

    /// Waits until it is so.
    pub(crate) async fn becomes(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "waited for {what}");
            sleep(POLL).await;
        }
    }

    fn instances(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("state/instances")) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The seeds of a running lab's keys: who has one is the operator, an account, or signs for devices.
    pub(crate) fn seeds(&self, instance: &str) -> Vec<String> {
        let path = self.path("state/instances").join(instance).join("keys/keys.json");
        let keys: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let seeds = keys.as_object().unwrap().values();
        seeds.map(|seed| seed.as_str().unwrap().to_owned()).collect()
    }

    /// Waits for a lab with a running domain; answers the lab's name.
    pub(crate) async fn booting(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let domains = domains().await;
            let found = self.instances().into_iter().find(|name| domains.contains(&format!("-{name}-")));
            if let Some(found) = found {
                return found;
            }
            assert!(Instant::now() < deadline, "no domain of {:?}; there are: {domains}", self.instances());
            sleep(POLL).await;
        }
    }

    /// Nothing of any lab in this place is left: instance, process, domain, sockets.
    pub(crate) async fn is_clean(&self) {
        if std::env::var("PILAB_KEEP").is_ok_and(|keep| keep == "1") {
            return;
        }
        assert_eq!(self.instances(), Vec::<String>::new(), "an instance is left");
        assert_eq!(self.processes(), Vec::<String>::new(), "a process is left");
        let domains = domains().await;
        let sockets = std::fs::read_dir("/run/pilab").into_iter().flatten().flatten();
        let sockets: Vec<String> =
            sockets.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        for mark in ["instances", "labs"].map(|places| self.mark(places)) {
            assert!(!domains.contains(&format!("pilab-{mark}-")), "a domain of {mark} is left: {domains}");
            let own = sockets.iter().find(|name| name.starts_with(&format!("{mark}-")));
            assert_eq!(own, None, "sockets are left");
        }
    }

    /// The command lines of the processes that name this place.
    pub(crate) fn processes(&self) -> Vec<String> {
        let lines = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(self.dir.path().to_str().unwrap())).collect()
    }

    /// What the names of domains and of directories of sockets begin with, of all labs of one kind here: the names are the
    /// machine's, so each has the CRC-32 of the place, its lower half.
    fn mark(&self, places: &str) -> String {
        let places = self.path("state").join(places);
        format!("{:04x}", crc32fast::hash(places.as_os_str().as_encoded_bytes()) & 0xffff)
    }
}

impl Call {
    fn start(command: Command, args: &[&str]) -> Self {
        Self::spawn(&mut command.own_group().build(), format!("pilab {}", args.join(" ")))
    }

    /// Runs a line of a shell's on a terminal of its own (script(1)), to type on.
    pub(crate) fn terminal(line: &str) -> Self {
        let script = Command::new("script").args(["-q", "-e", "-c", line, "/dev/null"]);
        Self::spawn(script.build().stdin(Stdio::piped()), line.to_owned())
    }

    fn spawn(command: &mut tokio::process::Command, what: String) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, began: Instant::now(), what }
    }

    pub(crate) async fn types(&mut self, keys: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(keys).await.unwrap();
    }

    /// Interrupts it and all in its process group, as Ctrl-C on a terminal does.
    pub(crate) async fn interrupt(&self) {
        let group = format!("-{}", self.child.id().unwrap());
        Command::new("kill").args(["-s", "INT", "--", &group]).output().await.unwrap();
    }

    /// Sends a signal by its name.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        Command::new("kill").args(["-s", name, &pid]).output().await.unwrap();
    }

    /// Reads until standard output, which must be that of `--json` or a terminal's, holds `text`.
    pub(crate) async fn shows(&mut self, text: &str) {
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut seen = String::new();
        let reading = async {
            let mut chunk = [0; 4096];
            while !seen.contains(text) {
                let read = stdout.read(&mut chunk).await.unwrap();
                assert!(read > 0, "it ended before it said {text:?}:\n{seen}");
                seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        };
        let read = timeout(PATIENCE, reading).await;
        assert!(read.is_ok(), "waited for {text:?} in vain:\n{seen}");
    }

    pub(crate) async fn end(self) -> Ended {
        let ended = timeout(PATIENCE, self.child.wait_with_output()).await;
        let output = ended.unwrap_or_else(|_| panic!("{} did not end", self.what)).unwrap();
        eprintln!("{:6.1} s  {}", self.began.elapsed().as_secs_f64(), self.what);
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The names of libvirt's domains, one a line.
pub(crate) async fn domains() -> String {
    String::from_utf8(Command::new("virsh").args(["list", "--all", "--name"]).output().await.unwrap())
        .unwrap()
}
