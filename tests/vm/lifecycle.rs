//! A device's life as a domain: on, console, off, crash, sweep, keep.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::guest::{Bench, Console, PATIENCE, kernel, skip, token};
use ::pilab::device::ports::{Boot, PortError, Power};
use ::pilab::model::power::{PowerReading, PowerState};
use ::pilab::support::chain::Chain;
use ::pilab::support::command::Command;
use tokio::time::Instant;

async fn virsh(args: &[&str]) -> String {
    let output = Command::new("virsh").args(args.iter().copied()).output().await.unwrap();
    String::from_utf8(output).unwrap()
}

async fn reads(power: &dyn Power, wanted: PowerReading) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reading = power.get().await.unwrap();
        if reading == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "waited for {wanted:?}, last reading {reading:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_first_byte_of_each_boot_is_seen_and_a_panic_reads_as_off() {
    let Some(bench) = Bench::new("life").await else { return };
    let Some(kernel) = kernel() else { return skip("no kernel: build an image, or set PILAB_TEST_KERNEL") };
    let device = bench.device().await;
    let error = device.set(token(1), PowerState::On).await.unwrap_err();
    assert!(Chain(&error).to_string().contains("nothing was offered to boot"), "{error:?}");

    let owned_by = |path: &std::path::Path| std::os::unix::fs::MetadataExt::uid(&path.metadata().unwrap());
    let offer = bench.offer(kernel, &["earlycon=pl011,0x9000000", "pilab.test=\"<&'\""]);
    let (image, owner) = (offer.kernel.clone().unwrap(), owned_by(offer.kernel.as_ref().unwrap()));
    let mut console = Console::read(&device);
    device.offer(token(1), offer).await.unwrap();
    for attempt in 1..=2 {
        device.set(token(1), PowerState::On).await.unwrap();
        device.set(token(1), PowerState::On).await.unwrap();
        let said = console.wait_for_times("Kernel panic", attempt).await;
        let boots = said.matches("Booting Linux on physical CPU").count();
        assert_eq!(boots, attempt, "each boot's first line is seen once:\n{said}");
        assert!(said.starts_with("[    0.000000] Booting Linux"), "from the first byte:\n{said}");
        assert!(said.contains("pilab.test=\"<&'\""), "{said}");
        assert!(said.contains("Kernel panic"), "{said}");
        reads(&*device, PowerReading::Off).await;
    }
    assert_eq!(owned_by(&image), owner, "libvirt leaves images alone");
    bench.host.close().await.unwrap();
}

#[tokio::test]
async fn a_machine_is_switched_off_by_the_lease_holder_alone() {
    let Some(bench) = Bench::new("fence").await else { return };
    let Some(kernel) = kernel() else { return skip("no kernel: build an image, or set PILAB_TEST_KERNEL") };
    let device = bench.device().await;
    let mut console = Console::read(&device);
    device.offer(token(2), bench.offer(kernel, &["panic=0"])).await.unwrap();
    device.set(token(2), PowerState::On).await.unwrap();
    console.wait_for("Kernel panic").await;
    let refused = device.set(token(1), PowerState::Off).await.unwrap_err();
    assert!(matches!(refused, PortError::Fenced(_)), "{refused:?}");
    assert!(matches!(device.withdraw(token(1)).await, Err(PortError::Fenced(_))));
    reads(&*device, PowerReading::On).await;

    device.set(token(2), PowerState::Off).await.unwrap();
    device.set(token(2), PowerState::Off).await.unwrap();
    assert_eq!(device.get().await.unwrap(), PowerReading::Off);
    console.wait_for_end().await;
    assert!(!virsh(&["list", "--all", "--name"]).await.lines().any(|name| name == device.domain_name()));
}

#[tokio::test]
async fn a_sweep_removes_only_what_nobody_owns_or_keeps() {
    let Some(mut bench) = Bench::new("sweep").await else { return };
    let Some(kernel) = kernel() else { return skip("no kernel: build an image, or set PILAB_TEST_KERNEL") };
    let device = bench.device().await;
    let name = device.domain_name().to_owned();
    let _console = Console::read(&device);
    device.offer(token(1), bench.offer(kernel, &["panic=0"])).await.unwrap();
    device.set(token(1), PowerState::On).await.unwrap();
    let successor = bench.successor().await;
    let swept = |removed: Vec<String>| removed.contains(&name);

    assert!(!swept(successor.sweep().await.unwrap()), "its owner lives");
    let keep = device.keep().await.unwrap();
    assert!(keep.remove.ends_with(&format!("destroy {name}")), "{keep:?}");
    bench.release_lock();
    assert!(!swept(successor.sweep().await.unwrap()), "it is kept");
    bench.host.close().await.unwrap();
    assert_eq!(device.get().await.unwrap(), PowerReading::On, "it is kept");

    device.set(token(1), PowerState::Off).await.unwrap();
    device.set(token(1), PowerState::On).await.unwrap();
    assert!(swept(successor.sweep().await.unwrap()), "its owner is gone");
    assert_eq!(device.get().await.unwrap(), PowerReading::Off);

    device.set(token(1), PowerState::On).await.unwrap();
    let again = bench.again().await;
    assert!(!swept(successor.remove_unnamed().await.unwrap()), "it is another lab's");
    let _named = again.device(bench.spec(None)).await.unwrap();
    assert!(!swept(again.remove_unnamed().await.unwrap()), "it is a device of this lab");
    assert!(swept(bench.again().await.remove_unnamed().await.unwrap()), "this lab has no such device now");
    assert_eq!(device.get().await.unwrap(), PowerReading::Off);
}

#[tokio::test]
async fn without_a_console_reader_a_machine_does_not_run() {
    let Some(bench) = Bench::new("blind").await else { return };
    let Some(kernel) = kernel() else { return skip("no kernel: build an image, or set PILAB_TEST_KERNEL") };
    let device = bench.device().await;
    device.offer(token(1), bench.offer(kernel, &[])).await.unwrap();
    let error = device.set(token(1), PowerState::On).await.unwrap_err();
    assert!(Chain(&error).to_string().contains("was not attached within"), "{}", Chain(&error));
    assert_eq!(device.get().await.unwrap(), PowerReading::Off);
}

#[tokio::test]
async fn a_data_disk_outlives_a_boot_and_no_holder() {
    let Some(bench) = Bench::new("disk").await else { return };
    let Some(kernel) = kernel() else { return skip("no kernel: build an image, or set PILAB_TEST_KERNEL") };
    let device = bench.device_with(Some(64)).await;
    let disk = || {
        let files =
            std::fs::read_dir(bench.dir.path().join("run")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "data")).collect::<Vec<_>>()
    };
    let _console = Console::read(&device);
    device.offer(token(1), bench.offer(kernel, &["panic=0"])).await.unwrap();
    device.set(token(1), PowerState::On).await.unwrap();
    let [path] = disk().try_into().unwrap();
    let made = std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    device.set(token(1), PowerState::Off).await.unwrap();
    // Switched off by whoever has it, it stays.
    device.withdraw(token(1)).await.unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap()), made);
    // A handover acts under a token of its own.
    device.withdraw(token(2)).await.unwrap();
    assert!(disk().is_empty(), "{:?}", disk());

    // What cannot be wiped is told.
    std::fs::create_dir(&path).unwrap();
    let error = Chain(&device.withdraw(token(3)).await.unwrap_err()).to_string();
    assert!(error.starts_with("cannot wipe the data disk of lab-vm"), "{error}");
    std::fs::remove_dir(&path).unwrap();
    bench.host.close().await.unwrap();
}
