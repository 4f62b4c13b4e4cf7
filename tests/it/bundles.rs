//! Commands on runs that have been, through the program itself, on the recorded bundle of layout 1.

use crate::agent::lab::installed;
use crate::support::program::{Ended, Program, end, finish};
use pilab::support::command::Command;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

fn first() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bundle-v1")
}

struct Bench(Program);

impl Bench {
    fn new() -> Self {
        Self(Program::new("name = \"none\"\n"))
    }

    /// The same in the place where `pilab run` would put it.
    async fn pilab(&self, args: &[&str]) -> Ended {
        let home = self.0.path("home");
        let command = self.0.command(args).env("XDG_STATE_HOME", home.to_str().unwrap());
        let mut child = command.build();
        let child = child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        end(child.spawn().unwrap()).await
    }

    fn bundles(&self) -> PathBuf {
        self.0.path("home/pilab/bundles")
    }
}

#[tokio::test]
async fn a_bundle_is_packed_checked_redacted_and_thrown_away() {
    let bench = Bench::new();
    let (first, dir) = (first(), bench.bundles());
    std::fs::create_dir_all(&dir).unwrap();
    let packed = dir.join("ping-3f9c.tar");
    bench.pilab(&["bundle", "export", first.to_str().unwrap(), "-o", packed.to_str().unwrap()]).await.done();

    // A beginning of the name will do, where it is one run's.
    let shown = bench.pilab(&["bundle", "show", "ping"]).await.done().stdout;
    assert!(
        shown.contains("run ping-3f9c of ping: passed") && shown.contains("dut = laptop-vm-1"),
        "{shown}"
    );
    let listed = bench.pilab(&["bundle", "ls", "--json"]).await.done().json();
    assert_eq!((&listed[0]["run"], &listed[0]["whole"]), (&"ping-3f9c".into(), &true.into()), "{listed:?}");
    let sound = bench.pilab(&["bundle", "verify", "--json"]).await.done().json();
    assert_eq!(sound[0]["whole"], true);

    let shared = bench.0.path("shared.tar");
    let shared = shared.to_str().unwrap();
    bench.pilab(&["bundle", "redact", "ping-3f9c", "-o", shared, "--hide", "laptop"]).await.done();
    let shown = bench.pilab(&["bundle", "show", shared]).await.done().stdout;
    assert!(shown.contains("REDACTED"), "{shown}");
    bench.pilab(&["bundle", "verify", shared]).await.done();
    bench.pilab(&["bundle", "redact", "ping-3f9c", "--hide", "("]).await.refused("is no pattern");

    // Cut short: told from a whole one, and what is there is shown.
    let whole = std::fs::read(&packed).unwrap();
    std::fs::write(&packed, &whole[..whole.len() / 2]).unwrap();
    let ended = bench.pilab(&["bundle", "verify"]).await;
    assert_eq!(ended.code, Some(4), "{}", ended.stdout);
    assert!(ended.stdout.contains("NOT WHOLE: it was cut short"), "{}", ended.stdout);
    let replayed = bench.pilab(&["replay", "ping-3f9c", "--no-pause"]).await.done();
    assert!(
        replayed.stdout.contains("ping is queued") && replayed.stderr.contains("not whole"),
        "{replayed:?}"
    );
    // Damaged: the file is named.
    let mut damaged = whole.clone();
    let at = whole.windows(11).position(|window| window == b"run.json.gz").unwrap() + 512 + 40;
    damaged[at] ^= 0xff;
    std::fs::write(&packed, damaged).unwrap();
    let ended = bench.pilab(&["bundle", "verify"]).await;
    assert!(ended.code == Some(4) && ended.stdout.contains("run.json: damaged"), "{}", ended.stdout);

    std::fs::write(dir.join("pong-1.tar"), &whole).unwrap();
    bench.pilab(&["bundle", "prune", "--keep", "1", "--dry-run"]).await.done();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
    let gone = bench.pilab(&["bundle", "prune", "--keep", "1", "--json"]).await.done().json();
    assert_eq!((&gone[0]["run"], &gone[0]["why"]), (&"ping-3f9c".into(), &"count".into()));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    bench.pilab(&["bundle", "show", "nothing"]).await.refused("there is no bundle of a run \"nothing\"");
}

#[tokio::test]
async fn a_run_is_shown_again_and_compared() {
    let bench = Bench::new();
    let first = first();
    let first = first.to_str().unwrap();
    let shown = bench.pilab(&["replay", first, "--speed", "1000"]).await.done().stdout;
    let kinds = ["run", "power", "boot", "console", "step"];
    for kind in kinds {
        assert!(shown.lines().any(|line| line.contains(&format!("  {kind} "))), "{kind}:\n{shown}");
    }
    let at = |text: &str| shown.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{shown}"));
    assert!(at("Linux version") < at("pilab-init: address 192") && at("Started ssh.service") < at("begins"));
    // A line that came in two pieces is one, at the time of its first.
    assert!(
        shown.contains("    2.700  laptop-vm-1  console  pilab-init: address 192.168.122.40/24\n"),
        "{shown}"
    );
    let from = bench.pilab(&["replay", first, "--from", "1", "--no-pause", "--json"]).await.done().json();
    assert_eq!((&from[0]["kind"], &from[0]["begins"]), (&"step".into(), &0.into()), "{from:?}");
    bench.pilab(&["replay", first, "--from", "dance"]).await.refused("no step \"dance\" began");

    let of_device = ["logs", first, "--device", "laptop-vm-1", "--since-step", "ping", "--json"];
    let logs = bench.pilab(&of_device).await.done().json();
    assert!(logs.iter().all(|row| row["kind"] != "console"), "{logs:?}");
    assert!(logs.iter().any(|row: &Value| row["text"].as_str().unwrap().starts_with("ended after")));

    let same = bench.pilab(&["compare", first, first]).await.done().stdout;
    assert!(same.ends_with("they are the same, but for times and consoles\n"), "{same}");
    let other = bench.0.path("other");
    copied(Path::new(first), &other);
    let events = std::fs::read_to_string(other.join("events.jsonl")).unwrap();
    std::fs::write(
        other.join("events.jsonl"),
        events.replace("\"verdict\": \"passed\"", "\"verdict\": \"failed\""),
    )
    .unwrap();
    let ended = bench.pilab(&["compare", first, other.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("verdict  passed  failed"), "{}", ended.stdout);
}

/// A file system that is full, for as long as this lives.
struct Full(PathBuf);

impl Full {
    async fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"]).arg(&at);
        mounted.output().await.ok()?;
        let mut file = std::fs::File::create(at.join("fill")).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
        Some(Self(at))
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // Lazily: what still has a file open there ends by itself.
        let _ = Command::new("umount").arg("-l").arg(&self.0).build().as_std_mut().status();
    }
}

#[tokio::test]
async fn a_full_disk_is_a_gap_in_the_bundle_and_no_failed_run() {
    let tools = ["podman", "runc", "busybox", "nats-server"];
    if !tools.iter().all(|tool| installed(tool, "podman")) {
        return;
    }
    let text = "name = \"full\"\n[[pools]]\nname = \"box\"\nbackend = \"container\"\ncount = 1\n";
    let bench = Bench(Program::new(text));
    let Some(_full) = Full::mount(bench.0.state().join("labs/full/bundles")).await else { return };
    let coordinator = bench.0.coordinator().await;
    let ended = bench.pilab(&["run", "ping", "--lab", bench.0.lab.to_str().unwrap()]).await.done();
    assert!(ended.stdout.contains("1 run: 1 passed"), "{ended:?}");
    assert!(
        ended.stderr.contains("has a gap: console/full-box-1.log: ")
            && ended.stderr.contains("No space left"),
        "{ended:?}"
    );
    let shown = bench.pilab(&["bundle", "show", "ping"]).await.done().stdout;
    assert!(shown.contains(": passed") && shown.contains("GAP journal/full-box-1.jsonl"), "{shown}");
    bench.pilab(&["bundle", "verify"]).await.done();
    finish(coordinator).await;
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
