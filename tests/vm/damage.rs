//! What is damaged or taken away: each is told from the others, and nothing is left.

use crate::image::{built, copy};
use crate::pilab::{Bench, arch, domains};
use ::pilab::image::Store;
use ::pilab::support::command::Command;

#[tokio::test]
async fn an_image_with_one_wrong_byte_is_not_booted() {
    let Some(bench) = Bench::new().await else { return };
    let arch = arch();
    let (store, images) = (Store::from_environment(), bench.path("images"));
    let image = built(&bench).await;
    copy(&store, &image, &images);
    let verify = ["image", "verify", &image.id];
    let run = ["run", "ping", "--arch", &arch, "--image", &image.id];
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
    // Whoever names no image gets one that is made anew.
    let call = bench.start_with_images(&images, &["run", "ping", "--arch", &arch]);
    bench.becomes("a build", || !file.exists()).await;
    call.interrupt().await;
    call.end().await.exits(130).says(&format!("{role} of image {} is corrupt", image.id));
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
