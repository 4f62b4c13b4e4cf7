//! One board and the servers as a library: from the relay to the first words of the initramfs.

use crate::{net, turn};
use pilab::device::ports::{Boot, BootOffer};
use pilab::image::{Recipe, Store};
use pilab::model::boot::BootAttempt;
use pilab::model::device::{Arch, Model};
use pilab::model::id::DeviceId;
use pilab::model::lease::FencingToken;
use pilab::model::power::PowerState;
use pilab::model::simulation::{SimTarget, Simulation, UefiBoot};
use pilab::model::wiring::ConsoleLine;
use pilab::netboot::LayerSource;
use pilab::netboot::board::Board;
use pilab::netboot::dhcp::{Client, DhcpOptions, DhcpServer, Mode, Responder};
use pilab::netboot::neighbours::KernelNeighbours;
use pilab::netboot::pi_boot::{PiBoot, PiFiles};
use pilab::netboot::tftp::{TftpOptions, TftpServer};
use pilab::netboot::tree::{Firmware, Resident, Source};
use pilab::serial;
use pilab::sim::{BoardSpec, Doing, Rack, RackOptions, Wires};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(120);

/// Kernel and initramfs of the newest image of the usual recipe in the store.
fn image() -> Option<(PathBuf, PathBuf)> {
    let recipe = Recipe::built_in("trixie").unwrap();
    let image = Store::from_environment().find(&recipe, Arch::Aarch64).unwrap()?;
    Some((image.kernel, image.initramfs))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_comes_from_its_relay_to_its_initramfs() {
    let Some(_turn) = turn().await else { return };
    let (kernel, initramfs) = image().expect("no image for aarch64: pilab image build --arch aarch64");
    let root = tempfile::tempdir().unwrap();
    let (server, address) = (Ipv4Addr::new(10, 78, net(), 1), Ipv4Addr::new(10, 78, net(), 11));
    let (device, mac) = (DeviceId::new("lab-four").unwrap(), [0xdc, 0xa6, 0x32, 0, 0, 4]);
    let simulation = Simulation {
        target: SimTarget::Virt,
        faults: Vec::new(),
        holds: Duration::ZERO,
        memory_mib: 512,
        uefi: UefiBoot::Pxe,
    };
    let serial = Some(0x9ffe_fdef);
    let board = BoardSpec { name: "four".to_owned(), model: Model::Pi4B, mac, serial, simulation };
    let options = RackOptions {
        tag: format!("t{}", std::process::id() % 10_000_000),
        root: root.path().to_owned(),
        wires: Wires::Own(server),
        inrush: None,
        boards: vec![board],
    };
    let rack = Rack::start(options).await.unwrap();

    let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
    let mac = pilab::netboot::mac::Mac(mac);
    let client = Client { device: device.clone(), mac, board: Board::Pi4B, serial, address };
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    let mode = Mode::Full { mask, router: None, name_servers: vec![], time: Duration::from_secs(600) };
    let dhcp = DhcpOptions::new(rack.interface().unwrap());
    let dhcp = DhcpServer::bind(dhcp, Responder::new(server, mode, [client])).unwrap();
    let (events, _dhcp_events) = mpsc::channel(100);
    tasks.spawn(dhcp.run(events, token.clone()));
    let resident = Resident { device: device.clone(), mac, serial, address: Some(address.into()) };
    let files = PiFiles::new(vec![resident], Box::new(KernelNeighbours));
    let tftp = TftpServer::bind(TftpOptions::new(SocketAddr::from((server, 69)))).unwrap();
    let (events, _tftp_events) = mpsc::channel(10_000);
    tftp.start(files.clone(), events, &tasks, token.clone()).unwrap();
    let mut firmware = Firmware::default();
    for name in ["start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb"] {
        let tree: &[u8] = &[0xd0, 0x0d, 0xfe, 0xed];
        let bytes = if name.ends_with(".dtb") { tree.into() } else { name.into() };
        firmware.add(name, Source::Bytes(bytes)).unwrap();
    }
    let boot = PiBoot::new(device, Board::Pi4B, firmware, files, LayerSource::default());
    let lease = FencingToken { epoch: 1, sequence: 1 };
    let cmdline =
        [format!("pilab.url=http://{server}:9"), "pilab.ticket=x".to_owned(), "pilab.layer=00:1".to_owned()];
    let offer = BootOffer {
        attempt: BootAttempt(1),
        kernel: Some(kernel),
        initramfs: Some(initramfs),
        cmdline: cmdline.into(),
        ..BootOffer::default()
    };
    boot.offer(lease, offer).await.unwrap();

    let tty = serial::line(ConsoleLine::Tty { path: rack.tty(0).unwrap().to_owned(), baud: 115_200 });
    let mut line = tty.open().await.unwrap();
    let power = rack.power(0).unwrap();
    power.set(lease, PowerState::On).await.unwrap();
    let mut said = String::new();
    let read = async {
        let mut bytes = vec![0; 4096];
        loop {
            let length = line.read(&mut bytes).await.unwrap();
            said.push_str(&String::from_utf8_lossy(&bytes[..length]));
            if said.contains(&format!("pilab: network {address}")) {
                return;
            }
        }
    };
    let done = timeout(PATIENCE, read).await;
    assert!(done.is_ok(), "{:?}\n{said}", rack.state(0).unwrap().borrow());
    for words in ["RPi: BOOTLOADER", "MESS:", "Linux version", "pilab: initramfs"] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    let mut state = rack.state(0).unwrap();
    let Doing::Runs(pid) = state.borrow().doing else { panic!("{:?}", state.borrow()) };
    power.set(lease, PowerState::Off).await.unwrap();
    timeout(PATIENCE, state.wait_for(|state| state.doing == Doing::Off)).await.unwrap().unwrap();
    let gone = || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
    timeout(PATIENCE, async {
        while !gone() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    token.cancel();
    tasks.close();
    tasks.wait().await;
    let interface = rack.interface().unwrap();
    rack.end().await;
    assert!(!std::path::Path::new("/sys/class/net").join(interface).exists());
}
