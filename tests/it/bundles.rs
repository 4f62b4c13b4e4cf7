//! Commands on runs that have been, through the program itself, on the recorded bundle of layout 1.

use crate::support::program::Program;
use serde_json::Value;
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
    async fn pilab(&self, args: &[&str]) -> crate::support::program::Ended {
        let home = self.0.path("home");
        let command = self.0.command(args).env("XDG_STATE_HOME", home.to_str().unwrap());
        let mut child = command.build();
        let child = child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        crate::support::program::end(child.spawn().unwrap()).await
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
