//! What is damaged or taken away: each is told from the others, and nothing is left.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::pilab::{Bench, domains};
use ::pilab::image::{Image, Store};
use ::pilab::support::command::Command;
use std::path::Path;

/// Copies an image, and what tells that its base root is there, into a store of its own.
fn copy(store: &Store, image: &Image, to: &Path) {
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

#[tokio::test]
async fn an_image_with_one_wrong_byte_is_not_booted() {
    let Some(bench) = Bench::new().await else { return };
    let arch = std::env::var("PILAB_VM_ARCH").unwrap_or_else(|_| "aarch64".to_owned());
    let (store, images) = (Store::from_environment(), bench.path("images"));
    // The image that a run takes: a store may hold older ones, and those of other recipes.
    let built = bench.call("image", &["build", "--arch", &arch, "--json"]).await.exits(0);
    let built: serde_json::Value = serde_json::from_str(&built.stdout).unwrap();
    let image = store.get(built["id"].as_str().unwrap()).unwrap();
    copy(&store, &image, &images);
    let verify = ["image", "verify", &image.id];
    let run = ["run", "ping", "--arch", &arch];
    bench.start_with_images(&images, &verify).end().await.exits(0);

    let (role, part) = image.manifest.parts().into_iter().find(|(role, _)| role == "base root").unwrap();
    let file = images.join("parts").join(&part.sha256);
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.get_mut(4096).unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    for args in [verify.as_slice(), &run] {
        let ended = bench.start_with_images(&images, args).end().await.exits(4);
        ended.says(&format!("{role} of image {} is corrupt", image.id)).says("hint: remove the image");
    }
    bench.is_clean().await;
}

#[tokio::test]
async fn a_machine_that_is_taken_away_is_not_taken_for_a_silent_agent() {
    let Some(bench) = Bench::new().await else { return };
    let mut call = bench.start(&["tests/vm/scenarios/long.toml", "--json"]);
    call.shows("step_started").await;
    let instance = bench.booting().await;
    let domains = domains().await;
    let domain = domains.lines().find(|name| name.contains(&format!("-{instance}-"))).unwrap();
    Command::new("virsh").args(["destroy", domain]).output().await.unwrap();
    call.end().await.exits(4).says("the device went away");
    bench.is_clean().await;
}
