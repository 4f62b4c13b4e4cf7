//! Images as a user builds them, and what is in them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::pilab::{Bench, SECRETS, arch};
use ::pilab::image::{Image, Store};
use ::pilab::support::command::Command;
use std::path::{Path, PathBuf};

/// The image that a run takes: a store may hold older ones, and those of other recipes.
pub(crate) async fn built(bench: &Bench) -> Image {
    let built = bench.call("image", &["build", "--arch", &arch(), "--json"]).await.exits(0);
    Store::from_environment().get(&id(&built.stdout)).unwrap()
}

/// The id in the answer of `image build --json`.
fn id(stdout: &str) -> String {
    let built: serde_json::Value = serde_json::from_str(stdout).unwrap();
    built["id"].as_str().unwrap().to_owned()
}

/// Copies an image, and what tells that its base root is there, into a store of its own.
pub(crate) fn copy(store: &Store, image: &Image, to: &Path) {
    for directory in ["images", "parts", "bases"] {
        std::fs::create_dir_all(to.join(directory)).unwrap();
    }
    let copy = |file: &Path| std::fs::copy(store.root().join(file), to.join(file)).unwrap();
    copy(&Path::new("images").join(format!("{}.json", image.id)));
    let parts = image.manifest.parts();
    let mut parts: Vec<String> = parts.iter().map(|(_, part)| part.sha256.clone()).collect();
    for record in std::fs::read_dir(store.root().join("bases")).unwrap().flatten() {
        let base: serde_json::Value = serde_json::from_slice(&std::fs::read(record.path()).unwrap()).unwrap();
        let part = |name: &str| base[name]["sha256"].as_str().unwrap().to_owned();
        if parts.contains(&part("root")) {
            copy(&Path::new("bases").join(record.file_name()));
            parts.extend(["kit", "busybox"].map(part));
        }
    }
    for part in parts {
        copy(&Path::new("parts").join(part));
    }
}

/// The regular files below `dir`, not through links.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

/// What would be wrong with a file in an image, if it is.
fn fault(path: &Path, content: &[u8]) -> Option<String> {
    let name = path.file_name().unwrap().to_str().unwrap_or_default();
    if name.starts_with("ssh_host_") || ["authorized_keys", "identity.json", "nats.creds"].contains(&name) {
        return Some("it tells who the device is, or whom it lets in".to_owned());
    }
    if name == "machine-id" && !content.is_empty() {
        return Some("all devices would have the same machine id".to_owned());
    }
    if name == "shadow" {
        let has_password =
            |line: &&str| line.split(':').nth(1).is_some_and(|hash| !["*", "!", "!*", "x"].contains(&hash));
        return String::from_utf8_lossy(content)
            .lines()
            .find(has_password)
            .map(|line| format!("a password: {line}"));
    }
    // Programs hold the words by which they know a key.
    let is_program = content.starts_with(b"\x7fELF");
    let secret =
        SECRETS.iter().find(|secret| content.windows(secret.len()).any(|at| at == secret.as_bytes()));
    secret.filter(|_| !is_program).map(|secret| format!("{secret:?}"))
}

#[tokio::test]
async fn an_image_holds_no_secret_and_no_identity() {
    let Some(bench) = Bench::new().await else { return };
    let image = built(&bench).await;
    let mut seen = 0;
    for (at, layer) in image.layers.iter().enumerate() {
        let tree = bench.path(&format!("layer-{at}"));
        let unpack = Command::new("unsquashfs").args(["-quiet", "-no-progress", "-no-xattrs", "-d"]);
        unpack.arg(&tree).arg(&layer.path).output().await.unwrap();
        for path in files(&tree) {
            let fault = fault(&path, &std::fs::read(&path).unwrap());
            assert_eq!(fault, None, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 1000, "{seen} files are no system");
    let initramfs = std::fs::read(&image.initramfs).unwrap();
    let secret =
        SECRETS.iter().find(|secret| initramfs.windows(secret.len()).any(|at| at == secret.as_bytes()));
    assert_eq!(secret, None, "in the initramfs");
    // The look itself sees what it looks for.
    assert!(fault(Path::new("/etc/x"), b"-----BEGIN OPENSSH PRIVATE KEY-----").is_some());
    assert!(fault(Path::new("/etc/ssh/ssh_host_rsa_key"), b"").is_some());
    assert!(fault(Path::new("/etc/shadow"), b"root:$y$j9T$x:1::::::\n").is_some());
}

#[tokio::test]
async fn two_builds_at_once_come_to_the_same_image() {
    let Some(bench) = Bench::new().await else { return };
    let (images, agent) = (bench.path("images"), bench.path("agent"));
    copy(&Store::from_environment(), &built(&bench).await, &images);
    std::fs::write(&agent, "another agent").unwrap();
    let arch = arch();
    let args = ["image", "build", "--arch", &arch, "--agent", agent.to_str().unwrap(), "--json"];
    let (one, other) = (bench.start_with_images(&images, &args), bench.start_with_images(&images, &args));
    let (one, other) = (one.end().await.exits(0), other.end().await.exits(0));
    assert_eq!(id(&one.stdout), id(&other.stdout));
    let verify = ["image", "verify", &id(&one.stdout)];
    bench.start_with_images(&images, &verify).end().await.exits(0);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_disk_that_fills_up_under_a_build_is_told_and_nothing_is_left() {
    let Some(bench) = Bench::new().await else { return };
    let (images, arch) = (bench.path("images"), arch());
    std::fs::create_dir(&images).unwrap();
    let tmpfs = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
    tmpfs.arg(&images).output().await.unwrap();
    let ended = bench.start_with_images(&images, &["run", "ping", "--arch", &arch]).end().await;
    let left: Vec<usize> = ["work", "images", "parts"]
        .map(|of| std::fs::read_dir(images.join(of)).into_iter().flatten().count())
        .into();
    Command::new("umount").arg(&images).output().await.unwrap();
    ended.exits(4).says("the disk is full").says("hint: free some room");
    assert_eq!(left, [0, 0, 0], "in work, images, parts");
    bench.is_clean().await;
}
