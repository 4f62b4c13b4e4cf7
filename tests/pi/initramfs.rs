//! The image that devices boot, on an emulated Raspberry Pi 3: its initramfs brings up the network that the board has.

use crate::board::{connect, made, skip, until};
use pilab::image::{Recipe, Store};
use pilab::model::device::Arch;
use pilab::support::command::Command;
use tokio::io::BufReader;

/// What is not known of it: QEMU has no Ethernet of the Pi 3, so a network adapter on USB stands for the one that is soldered
/// to the same controller.
#[tokio::test]
async fn the_image_finds_the_network_of_a_board() {
    let store = Store::from_environment();
    let recipe = Recipe::built_in("trixie").unwrap();
    let Some(image) = store.find(&recipe, Arch::Aarch64).unwrap() else {
        return skip("there is no image: run pilab image build --arch aarch64");
    };
    let device_tree = made().join("board.dtb");
    if !device_tree.exists() {
        return skip("there is no device tree: run tests/pi/make");
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("serial");
    // What the coordinator would write, but nobody answers: how far it gets is what is asked here.
    let arguments = "console=ttyS1,115200 loglevel=4 panic=-1 pilab.url=http://10.0.2.2:1 pilab.ticket=none pilab.layer=none:1";
    let command = Command::new("qemu-system-aarch64")
        .args(["-M", "raspi3b", "-display", "none", "-no-reboot", "-nodefaults", "-append", arguments])
        .args(["-kernel".into(), image.kernel.into_os_string(), "-dtb".into(), device_tree.into_os_string()])
        .args(["-initrd".into(), image.initramfs.into_os_string()])
        .args(["-netdev", "user,id=net", "-device", "usb-net,netdev=net", "-serial", "null", "-serial"])
        .arg(format!("unix:{},server=on,wait=off", socket.display()));
    let mut process = match command.build().spawn() {
        Ok(process) => process,
        Err(error) => return skip(&format!("qemu-system-aarch64 cannot be started: {error}")),
    };
    let mut serial = BufReader::new(connect(&socket).await);
    // The address that QEMU lends its only guest.
    let said = until(&mut serial, "pilab: network 10.0.2.15").await;
    assert!(!said.contains("pilab: error"), "{said}");
    process.kill().await.unwrap();
}
