//! `pilab doctor` through the program itself: what is wrong is named, with what to do; nothing is left.

use crate::agent::lab::installed;
use pilab::support::command::Command;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

async fn doctor(dir: &Path, lab: &str, env: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    let path = dir.join("lab.toml");
    std::fs::write(&path, lab).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilab"))
        .args(["doctor", "--json", "--lab", path.to_str().unwrap()])
        .env("PILAB_STATE_DIR", dir.join("state").to_str().unwrap());
    for (key, value) in env {
        command = command.env(*key, *value);
    }
    let output = tokio::time::timeout(Duration::from_secs(60), command.build().output()).await;
    let output = output.expect("it did not end").unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn finding<'a>(findings: &'a [Value], part: &str) -> &'a Value {
    findings.iter().find(|finding| finding["part"] == part).unwrap_or_else(|| panic!("{part}: {findings:?}"))
}

#[tokio::test]
async fn what_is_wrong_is_named_with_what_to_do() {
    if !installed("nats-server", "podman") || !installed("podman", "podman") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pool = "name = \"l\"\n[[pools]]\nname = \"box\"\nbackend = \"container\"\ncount = 1\n";
    let (code, findings) =
        doctor(dir.path(), pool, &[("PILAB_CLOCK", "trusted"), ("PATH", "/usr/bin:/bin")]).await;
    assert_eq!(code, Some(0), "{findings:?}");
    for part in ["lab file", "nats-server", "clock", "state directory", "podman", "agent for containers"] {
        assert_eq!(finding(&findings, part)["condition"], "good", "{findings:?}");
    }
    assert!(!dir.path().join("state").exists(), "it only looks");

    // Debian has the server in /usr/sbin, which was not in PATH here: a lab finds it all the same.
    // Nobody listens on port 1, and there is no such adapter.
    let wired = "name = \"l\"\n[[devices]]\nid = \"pi\"\nmodel = \"pi4b\"\nconsole = { unix = \"/nonexistent/line\" }\n\
                 power = { driver = \"http\", kind = \"shelly-gen2\", url = \"http://127.0.0.1:1\" }\n";
    let (code, findings) = doctor(dir.path(), wired, &[]).await;
    assert_eq!(code, Some(4), "{findings:?}");
    let power = finding(&findings, "power of l-pi");
    assert_eq!(power["condition"], "bad", "{power}");
    assert!(power["seen"].as_str().unwrap().contains("127.0.0.1:1"), "{power}");

    let (code, findings) = doctor(dir.path(), "name = \"l\"\ncolour = 1\n", &[]).await;
    assert_eq!(code, Some(4));
    let file = finding(&findings, "lab file");
    assert!(file["seen"].as_str().unwrap().contains("lab.toml:2:1: unknown field `colour`"), "{file}");
}

#[tokio::test]
async fn a_libvirt_that_is_not_there_is_told_with_the_rest() {
    if !cfg!(feature = "vm") || !installed("nats-server", "podman") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pool = "name = \"l\"\n[[pools]]\nname = \"vm\"\nbackend = \"vm\"\ncount = 1\n";
    let images = dir.path().join("images");
    let env = [
        ("LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket=/nonexistent"),
        ("PILAB_IMAGE_DIR", images.to_str().unwrap()),
    ];
    let (code, findings) = doctor(dir.path(), pool, &env).await;
    assert_eq!(code, Some(4), "{findings:?}");
    let libvirt = finding(&findings, "libvirt");
    assert_eq!((&libvirt["condition"], libvirt["hint"].is_string()), (&"bad".into(), true), "{libvirt}");
    let image = finding(&findings, "image trixie aarch64");
    assert_eq!(image["condition"], "doubtful", "{image}");
    assert!(image["hint"].as_str().unwrap().contains("pilab image build"), "{image}");
}

/// libvirt's test driver has no network of ours, and knows no QEMU.
#[cfg(feature = "vm")]
#[tokio::test]
async fn what_a_lab_will_make_by_itself_is_no_fault_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let pool = "name = \"l\"\n[[pools]]\nname = \"vm\"\nbackend = \"vm\"\ncount = 1\n";
    let env = [("LIBVIRT_DEFAULT_URI", "test:///default"), ("PILAB_IMAGE_DIR", images.to_str().unwrap())];
    let (_, findings) = doctor(dir.path(), pool, &env).await;
    let libvirt = finding(&findings, "libvirt");
    let made = "network pilab is made when a lab starts";
    assert_eq!((&libvirt["condition"], &libvirt["seen"]), (&"good".into(), &made.into()), "{libvirt}");
    let guests = finding(&findings, "guests of aarch64");
    assert!(guests["seen"].as_str().unwrap().contains("qemu-system-aarch64 is not installed"), "{guests}");
    // There is no image, so it is told whether one can be built.
    for part in ["mmdebstrap", "mksquashfs", "mkfs.ext4"] {
        assert!(finding(&findings, part)["seen"].is_string(), "{findings:?}");
    }
    assert!(!images.exists() && !dir.path().join("state").exists(), "it only looks");
}
