//! The shipped scenarios, and what becomes of a run that is stopped or killed, through the command that
//! a user types. Needs an image and an agent: `tests/run` makes both.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A place of its own for a test's labs.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// None when virtual machines are not asked for; says so.
    #[expect(clippy::print_stderr, reason = "says why a test was skipped")]
    fn new() -> Option<Self> {
        let asked =
            |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is.split(',').any(|is| is == value));
        if !asked("PILAB_VM_E2E", "1") {
            assert!(!asked("PILAB_REQUIRE", "vm"), "PILAB_REQUIRE names vm: set PILAB_VM_E2E=1");
            eprintln!("skipped: set PILAB_VM_E2E=1 to run scenarios on virtual machines");
            return None;
        }
        Some(Self { dir: tempfile::tempdir().unwrap() })
    }

    #[expect(clippy::disallowed_methods, reason = "tests drive the program as a user does")]
    fn pilab(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilab"));
        command.args(args).args(["--bundle", self.path("bundles").to_str().unwrap()]);
        if let Ok(arch) = std::env::var("PILAB_VM_ARCH") {
            command.args(["--arch", &arch]);
        }
        if std::env::var("PILAB_KEEP").is_ok_and(|keep| keep == "1") {
            command.arg("--keep");
        }
        command.env("PILAB_STATE_DIR", self.path("state")).current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Names of what is there of this place's labs: instances on the disk and domains in libvirt.
    fn left(&self) -> Vec<String> {
        let instances = std::fs::read_dir(self.path("state/instances")).unwrap();
        let mut left: Vec<String> =
            instances.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let prefix = format!(
            "pilab-{:04x}-",
            crc32fast::hash(self.path("state/instances").as_os_str().as_encoded_bytes()) & 0xffff
        );
        left.extend(domains().into_iter().filter(|name| name.starts_with(&prefix)));
        left
    }
}

#[expect(clippy::disallowed_methods, reason = "libvirt's own word")]
fn domains() -> Vec<String> {
    let output = Command::new("virsh").args(["list", "--all", "--name"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// Reads the program's progress until a line has `word`; the deadline is the test runner's.
fn wait_for(child: &mut Child, word: &str) -> impl Read + use<> {
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended before {word:?}:\n{seen}");
        seen.push_str(&line);
        if line.contains(word) {
            return lines;
        }
    }
}

fn start(place: &Place) -> Child {
    place.pilab(&["run", "ping"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn the_shipped_scenarios_pass_and_leave_nothing_behind() {
    let Some(place) = Place::new() else { return };
    let junit = place.path("report.xml");
    let args = ["run", "ping", "isolation", "deploy-lifecycle", "--json", "--junit", junit.to_str().unwrap()];
    let output = place.pilab(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("tests=\"3\"") && junit.contains("failures=\"0\""), "{junit}");
    let ended =
        output.stdout.split(|byte| *byte == b'\n').filter(|line| contains(line, "\"kind\":\"ended\""));
    assert_eq!(ended.count(), 3);

    let bundle = files(&place.path("bundles"));
    let consoles: Vec<_> =
        bundle.iter().filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    assert_eq!(consoles.len(), 4, "a console for each device of each run: {bundle:?}");
    for console in consoles {
        let bytes = std::fs::read(console).unwrap();
        for line in ["Linux version", "pilab: switch-root"] {
            assert!(contains(&bytes, line), "{} lacks {line:?}", console.display());
        }
    }
    for path in bundle {
        let bytes = std::fs::read(&path).unwrap();
        for secret in ["OPENSSH PRIVATE KEY", "NATS USER JWT", "USER NKEY SEED", "eyJ0eXAiOiJKV1Qi"] {
            assert!(!contains(&bytes, secret), "{} holds {secret:?}", path.display());
        }
    }
    if std::env::var_os("PILAB_KEEP").is_none() {
        assert_eq!(place.left(), Vec::<String>::new());
    }
}

#[test]
fn a_run_that_is_stopped_while_it_boots_is_cancelled_and_leaves_nothing_behind() {
    let Some(place) = Place::new() else { return };
    let mut child = start(&place);
    let mut rest = wait_for(&mut child, " kernel ");
    signal(&child, Signal::INT);
    let mut said = String::new();
    rest.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn what_a_killed_run_left_is_swept_by_the_next() {
    let Some(place) = Place::new() else { return };
    let mut child = start(&place);
    let _rest = wait_for(&mut child, " kernel ");
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    let left = place.left();
    assert_eq!(left.len(), 2, "a killed run leaves its instance and its machine: {left:?}");
    let output = place.pilab(&["run", "ping"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(place.left(), Vec::<String>::new());
}
