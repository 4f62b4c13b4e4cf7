//! Bad input and missing tools, through the program itself. Nothing is booted.

use pilab::support::command::Command;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// No call here boots anything or builds an image.
const PATIENCE: Duration = Duration::from_secs(60);

/// Exit code and standard error of `pilab ARGS`.
async fn pilab(dir: &TempDir, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let state = dir.path().join("state");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilab"))
        .args(args.iter().copied())
        .env("PILAB_STATE_DIR", state.to_str().unwrap());
    for (key, value) in env {
        command = command.env(*key, *value);
    }
    let output = tokio::time::timeout(PATIENCE, command.build().output()).await.expect("pilab did not end");
    let output = output.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// No lab of this place is left.
fn is_clean(state: &Path) {
    let left = std::fs::read_dir(state.join("instances")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "an instance is left in {}", state.display());
}

#[tokio::test]
async fn a_wrong_file_is_named_with_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let head = "summary = \"s\"\nunder_test = \"agent\"\n[needs.dut]\n";
    let pools = "[[pools]]\nname = \"vm\"\nbackend = \"vm\"\n";
    let key = write(&dir, "key.toml", &format!("{head}[[steps]]\npnig = {{ on = \"dut\" }}\n"));
    let kind = write(&dir, "kind.toml", &format!("{head}[[steps]]\nping = 3\n"));
    let lab_key = write(&dir, "lab-key.toml", &format!("name = \"l\"\ncolour = 1\n{pools}count = 1\n"));
    let lab_kind = write(&dir, "lab-kind.toml", &format!("name = \"l\"\n{pools}count = \"two\"\n"));
    let table: [(&[&str], &str); 6] = [
        (&["run", &key], "key.toml:5:1: unknown field `pnig`"),
        (&["check", &key], "key.toml:5:1: unknown field `pnig`"),
        (&["run", &kind], "kind.toml:5:8: steps[0].ping: invalid type: integer `3`, expected a table"),
        (&["run", "ping", "--lab", &lab_key], "lab-key.toml:2:1: unknown field `colour`"),
        (&["check", "ping", "--lab", &lab_key], "lab-key.toml:2:1: unknown field `colour`"),
        (
            &["run", "ping", "--lab", &lab_kind],
            "lab-kind.toml:5:9: pools[0].count: invalid type: string \"two\"",
        ),
    ];
    for (args, words) in table {
        let (code, stderr) = pilab(&dir, args, &[]).await;
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?} should say {words:?}: {stderr}");
    }
    is_clean(&dir.path().join("state"));
}

#[cfg(feature = "vm")]
#[tokio::test]
async fn a_libvirt_that_is_not_there_or_has_ended_is_named_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    // A daemon that was killed leaves its socket.
    let ended = dir.path().join("libvirt-sock");
    drop(std::os::unix::net::UnixListener::bind(&ended).unwrap());
    for (socket, cause) in [("/nonexistent", "No such file"), (ended.to_str().unwrap(), "Connection refused")]
    {
        let uri = format!("qemu+unix:///system?socket={socket}");
        let (code, stderr) = pilab(&dir, &["run", "ping"], &[("LIBVIRT_DEFAULT_URI", &uri)]).await;
        assert_eq!(code, Some(4), "{stderr}");
        for words in ["cannot connect to libvirt", cause, "hint: is libvirtd running? Start it with"] {
            assert!(stderr.contains(words), "{words:?}: {stderr}");
        }
        is_clean(&dir.path().join("state"));
    }
}

#[cfg(feature = "vm")]
#[tokio::test]
async fn a_libvirt_that_hangs_does_not_keep_ctrl_c_from_ending_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("libvirt-sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilab"))
        .args(["run", "ping"])
        .env("PILAB_STATE_DIR", dir.path().join("state").to_str().unwrap())
        .env("LIBVIRT_DEFAULT_URI", format!("qemu+unix:///system?socket={}", socket.display()))
        .build();
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let (_silent, _) = listener.accept().await.unwrap();
    crate::support::program::signal(&child, rustix::process::Signal::INT);
    let status = tokio::time::timeout(PATIENCE / 2, child.wait()).await.expect("once is enough").unwrap();
    assert_eq!(status.code(), Some(130));
    is_clean(&dir.path().join("state"));
}
