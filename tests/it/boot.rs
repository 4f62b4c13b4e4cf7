//! `pilab boot` through the program itself: a board played packet by packet, its holder's files, and what goes wrong.

use crate::netboot::Bench;
use crate::support::pi::Pi;
use crate::support::program::{PATIENCE, end, end_within, finish};
use crate::support::store::KERNEL;
use serde_json::Value;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::timeout;

/// Until the first board has its power, or has it no more.
async fn power(bench: &Bench, on: bool) {
    power_of(bench, 0, on).await;
}

async fn power_of(bench: &Bench, board: usize, on: bool) {
    let mut contacts = bench.plug.contacts();
    let switched = timeout(PATIENCE, contacts.wait_for(|closed| closed[board] == on)).await;
    drop(switched.expect("it is switched").unwrap());
}

/// What a board fetches, until it has its kernel; answers that and the kernel's arguments.
async fn fetch(pi: &Pi) -> (Vec<u8>, String) {
    assert_eq!(pi.lease().await, pi.address);
    pi.file("config.txt").await.unwrap();
    pi.file("start4.elf").await.unwrap();
    let cmdline = String::from_utf8(pi.file("cmdline.txt").await.unwrap()).unwrap();
    (pi.file("vmlinuz").await.unwrap(), cmdline)
}

async fn held() -> Option<(Bench, Child)> {
    let bench = Bench::new().await?;
    let coordinator = bench.coordinator().await;
    bench.program.pilab(&["reserve", "rack-pi-1", "--for", "1h"]).await.done();
    Some((bench, coordinator))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_of_one_s_own_is_sent_once_and_booted() {
    let Some((bench, coordinator)) = held().await else { return };
    let program = &bench.program;
    // Several pieces, and the last one a short one.
    let kernel: Vec<u8> = (0..600_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(program.path("Image"), &kernel).unwrap();
    std::fs::write(program.path("initrd"), "").unwrap();
    let (image, initrd) = (program.path("Image"), program.path("initrd"));
    let args =
        ["boot", "rack-pi-1", "--kernel", image.to_str().unwrap(), "--initrd", initrd.to_str().unwrap()];
    let args = [&args[..], &["--cmdline", "root=/dev/ram0 quiet"]].concat();
    let boot = program.spawn(&args);
    power(&bench, true).await;
    let (fetched, cmdline) = fetch(&bench.one).await;
    assert!(fetched == kernel, "{} bytes", fetched.len());
    assert_eq!(cmdline, "console=ttyS1,115200 root=/dev/ram0 quiet\n", "no ticket");
    let ended = end(boot).await.done();
    for words in [
        "sent 600001 bytes",
        "power on",
        "DHCP: has 127.0.0.11",
        "file: vmlinuz, 600001 bytes in ",
        "rack-pi-1 is up: kernel ",
    ] {
        assert!(ended.stderr.contains(words), "{words:?} is not in:\n{}", ended.stderr);
    }
    assert_eq!(ended.stdout, "");

    // The second time it is there, and its power was cut in between. `--json` is for machines.
    let boot = program.spawn(&[&args[..], &["--json"]].concat());
    power(&bench, false).await;
    power(&bench, true).await;
    fetch(&bench.one).await;
    let ended = end(boot).await.done();
    assert!(ended.stderr.contains("sent 0 bytes"), "{}", ended.stderr);
    let lines = ended.json();
    let file = |line: &&Value| line["event"]["what"] == "file_done" && line["event"]["path"] == "vmlinuz";
    let file = lines.iter().find(file).unwrap_or_else(|| panic!("{lines:#?}"));
    assert!(file["event"]["bytes"] == 600_001 && file["after"].as_f64().unwrap() > 0.0, "{file}");
    let last = lines.last().unwrap();
    assert_eq!((&last["outcome"], &last["reached"]), (&"up".into(), &"kernel".into()), "{last}");
    finish(coordinator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boot_tree_is_served_as_it_is_and_nothing_that_would_harm_the_board() {
    let Some((bench, coordinator)) = held().await else { return };
    let program = &bench.program;
    let tree = program.path("tree");
    std::fs::create_dir_all(tree.join("overlays")).unwrap();
    for file in ["config.txt", "start4.elf", "fixup4.dat", "kernel8.img", "overlays/a.dtbo"] {
        std::fs::write(tree.join(file), file).unwrap();
    }
    let boot = ["boot", "rack-pi-1", "--tree", tree.to_str().unwrap()];
    let ended = program.spawn(&boot);
    power(&bench, true).await;
    let one = bench.one;
    assert_eq!(one.file("config.txt").await.unwrap(), b"config.txt");
    assert_eq!(one.file("overlays/a.dtbo").await.unwrap(), b"overlays/a.dtbo");
    assert_eq!(one.file("cmdline.txt").await.unwrap(), b"console=ttyS1,115200\n");
    assert!(one.file("vmlinuz").await.is_err(), "it is the lab's");
    assert_eq!(one.file("kernel8.img").await.unwrap(), b"kernel8.img");
    end(ended).await.done();

    std::fs::write(tree.join("recovery.bin"), "x").unwrap();
    let ended = program.pilab(&boot).await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    ended.refused("recovery.bin is never served");
    ended.refused("hint: remove recovery.bin");
    std::fs::remove_file(tree.join("recovery.bin")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
    let ended = program.pilab(&boot).await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    ended.refused("it leads out of the directory");
    assert!(one.file("config.txt").await.is_err(), "what was there is of an attempt that is over");
    finish(coordinator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boot_is_its_holder_s_and_says_how_it_ended() {
    let Some((bench, coordinator)) = held().await else { return };
    let program = &bench.program;
    let ann = program.login("ann", "user").await;
    program.as_user(&ann, &["boot", "rack-pi-1"]).await.refused("rack-pi-1 is local's");
    program.pilab(&["boot", "rack-pi-2"]).await.refused("nobody holds rack-pi-2");
    let mine = program.path("lab.toml");
    let ended = program.as_user(&ann, &["boot", "rack-pi-1", "--kernel", mine.to_str().unwrap()]).await;
    ended.refused("rack-pi-1 is local's");
    assert!(!ended.stderr.contains("sent "), "nothing is sent in vain: {}", ended.stderr);
    assert!(!bench.plug.relay(0) && !bench.plug.relay(1));
    for (args, code, words) in [
        (&["--image", "bullseye"][..], 2, "bullseye"),
        (&["--image", "0123456789"], 2, "there is no image"),
        (&["--kernel", "/nonexistent"], 4, "cannot read /nonexistent"),
        (&["--cmdline", "quiet"], 2, "hint: name it with --kernel"),
        (&["--until", "kernel"], 2, "has no console"),
        (&["--until", "midnight"], 2, "midnight"),
        (&["--timeout", "1s"], 5, "is not up within 1 s"),
    ] {
        let ended = program.pilab(&[&["boot", "rack-pi-1"], args].concat()).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
        ended.refused(words);
    }

    // The lab's own image, by its name: nobody answers, and it is switched off.
    let boot = program.spawn(&["boot", "rack-pi-1", "--image", &bench.store.image]);
    power(&bench, false).await;
    power(&bench, true).await;
    let (kernel, cmdline) = fetch(&bench.one).await;
    assert!(kernel == KERNEL && cmdline.contains("pilab.ticket="), "{cmdline}");
    program.pilab(&["power", "off", "rack-pi-1"]).await.done();
    let ended = end(boot).await;
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    ended.refused("rack-pi-1 was switched off");
    finish(coordinator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_that_stands_still_is_cut_and_told_of_and_one_that_was_switched_off_is_left() {
    let Some((bench, coordinator)) = held().await else { return };
    let program = &bench.program;
    program.pilab(&["reserve", "rack-pi-2", "--for", "1h"]).await.done();
    std::fs::write(program.path("Image"), "a kernel of mine").unwrap();
    let image = program.path("Image").to_str().unwrap().to_owned();
    // Both take their addresses, and ask for nothing. The first is switched off before that is noticed.
    let first = program.spawn(&["boot", "rack-pi-1", "--kernel", &image]);
    power(&bench, true).await;
    bench.one.lease().await;
    program.pilab(&["power", "off", "rack-pi-1"]).await.done();
    assert_eq!(end(first).await.code, Some(130));
    let second = program.spawn(&["boot", "rack-pi-2", "--kernel", &image]);
    power_of(&bench, 1, true).await;
    bench.two.lease().await;
    power_of(&bench, 1, false).await;
    assert!(!bench.plug.relay(0), "nobody cuts, and switches on again, what was switched off");
    power_of(&bench, 1, true).await;
    assert_eq!(fetch(&bench.two).await.0, b"a kernel of mine");
    let ended = end_within(second, Duration::from_secs(120)).await.done();
    for words in [
        "it stands still: it was told where its files are, and asks for none within 20 s; it is switched off and on again",
        "hint: something between filters UDP",
        "rack-pi-2 is up: kernel ",
    ] {
        assert!(ended.stderr.contains(words), "{words:?} is not in:\n{}", ended.stderr);
    }
    finish(coordinator).await;
}
