//! A virtual rack on the loopback, and the real servers that its boards boot from.

use pilab::device::ports::Boot;
use pilab::device::ports::BootOffer;
use pilab::model::boot::BootAttempt;
use pilab::model::device::Model;
use pilab::model::id::DeviceId;
use pilab::model::lease::FencingToken;
use pilab::model::power::{PowerReading, PowerState};
use pilab::model::simulation::{ScriptedFault, SimFault, SimTarget, Simulation, UefiBoot};
use pilab::model::wiring::ConsoleLine;
use pilab::netboot::LayerSource;
use pilab::netboot::board::Board;
use pilab::netboot::dhcp::{Client, DhcpEvent, DhcpOptions, DhcpServer, Mode, Responder};
use pilab::netboot::mac::Mac;
use pilab::netboot::neighbours::KernelNeighbours;
use pilab::netboot::pi_boot::{PiBoot, PiFiles};
use pilab::netboot::tftp::{FileEvent, FileProgress, TftpOptions, TftpServer};
use pilab::netboot::tree::{Firmware, Resident, Source};
use pilab::serial;
use pilab::sim::{BoardSpec, BoardState, Doing, Ports, Rack, RackOptions, Wires};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const LEASE: FencingToken = FencingToken { epoch: 1, sequence: 7 };
/// Bytes of the kernel that is served: some thousand blocks.
pub(super) const KERNEL: usize = 1_500_000;

/// A rack, and the servers that it boots from.
pub(super) struct Lab {
    pub(super) rack: Rack,
    pub(super) dhcp: mpsc::Receiver<DhcpEvent>,
    pub(super) files: mpsc::Receiver<FileEvent>,
    pub(super) boots: Vec<PiBoot>,
    pub(super) dir: TempDir,
    pub(super) tasks: TaskTracker,
    pub(super) token: CancellationToken,
}

pub(super) fn mac(number: u8) -> [u8; 6] {
    [0xdc, 0xa6, 0x32, 0x77, 0, number]
}

pub(super) fn device(number: u8) -> DeviceId {
    DeviceId::new(format!("lab-{number}")).unwrap()
}

pub(super) fn serial_of(number: u8) -> u32 {
    0x1000_0000 | u32::from(number)
}

/// A port that is free now.
pub(super) fn port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(super) fn simulation(faults: &[SimFault]) -> Simulation {
    let faults = faults.iter().map(|fault| ScriptedFault { fault: fault.clone(), boots: None }).collect();
    Simulation { target: SimTarget::Rom, faults, holds: Duration::ZERO, memory_mib: 512, uefi: UefiBoot::Pxe }
}

pub(super) fn firmware() -> Firmware {
    let mut firmware = Firmware::default();
    for name in [
        "bootcode.bin",
        "start.elf",
        "fixup.dat",
        "start4.elf",
        "fixup4.dat",
        "bcm2710-rpi-3-b.dtb",
        "bcm2711-rpi-4-b.dtb",
        "bcm2712-rpi-5-b.dtb",
    ] {
        let tree: &[u8] = &[0xd0, 0x0d, 0xfe, 0xed];
        let bytes = if name.ends_with(".dtb") { tree.into() } else { name.into() };
        firmware.add(name, Source::Bytes(bytes)).unwrap();
    }
    firmware
}

impl Lab {
    /// With these boards, each offered its files; none has power.
    pub(super) async fn new(boards: &[(Model, Simulation)], inrush: Option<usize>) -> Self {
        // Each test its own addresses: tests of one process run beside each other.
        static NET: AtomicU8 = AtomicU8::new(1);
        let mut net = std::process::id().to_le_bytes()[0];
        net = net.wrapping_add(NET.fetch_add(1, Ordering::Relaxed)).max(1);
        let server = Ipv4Addr::new(127, 77, net, 1);
        let dir = tempfile::tempdir().unwrap();
        let ports = Ports { server: port(), client: port(), tftp: port() };
        let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
        let (mut clients, mut residents, mut specs) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (model, simulation)) in (10..).zip(boards) {
            let (address, serial) = (Ipv4Addr::new(127, 77, net, number), Some(serial_of(number)));
            let board = Board::try_from(*model).unwrap();
            clients.push(Client { device: device(number), mac: Mac(mac(number)), board, serial, address });
            let address = Some(address.into());
            residents.push(Resident { device: device(number), mac: Mac(mac(number)), serial, address });
            let (name, simulation) = (number.to_string(), simulation.clone());
            specs.push(BoardSpec { name, model: *model, mac: mac(number), serial, simulation });
        }
        let options = RackOptions {
            tag: format!("l{}", ports.server),
            root: dir.path().to_owned(),
            wires: Wires::Loopback(ports),
            inrush,
            boards: specs,
        };
        let rack = Rack::start(options).await.unwrap();
        let mask = Ipv4Addr::new(255, 255, 255, 0);
        let mode = Mode::Full { mask, router: None, name_servers: vec![], time: Duration::from_secs(600) };
        let options =
            DhcpOptions { server_port: ports.server, client_port: ports.client, ..DhcpOptions::new("lo") };
        let responder = Responder::new(server, mode, clients);
        let (events, dhcp) = mpsc::channel(1000);
        tasks.spawn(DhcpServer::bind(options, responder).unwrap().run(events, token.clone()));
        let served = PiFiles::new(residents, Box::new(KernelNeighbours));
        let tftp = TftpServer::bind(TftpOptions::new(SocketAddr::from((server, ports.tftp)))).unwrap();
        let (events, files) = mpsc::channel(100_000);
        tftp.start(served.clone(), events, &tasks, token.clone()).unwrap();
        std::fs::write(dir.path().join("kernel"), vec![7; KERNEL]).unwrap();
        std::fs::write(dir.path().join("initramfs"), "initramfs").unwrap();
        let boot = |(number, (model, _)): (u8, &(Model, Simulation))| {
            let board = Board::try_from(*model).unwrap();
            PiBoot::new(device(number), board, firmware(), served.clone(), LayerSource::default())
        };
        let boots: Vec<PiBoot> = (10..).zip(boards).map(boot).collect();
        let lab = Self { rack, dhcp, files, boots, dir, tasks, token };
        for boot in &lab.boots {
            boot.offer(LEASE, lab.offer()).await.unwrap();
        }
        lab
    }

    pub(super) fn offer(&self) -> BootOffer {
        let (kernel, initramfs) = (self.dir.path().join("kernel"), self.dir.path().join("initramfs"));
        let cmdline = vec!["quiet".to_owned()];
        BootOffer {
            attempt: BootAttempt(1),
            kernel: Some(kernel),
            initramfs: Some(initramfs),
            device_tree: None,
            tree: None,
            layers: Vec::new(),
            cmdline,
            wake: None,
        }
    }

    pub(super) async fn switch(&self, number: usize, state: PowerState) {
        self.rack.power(number).unwrap().set(LEASE, state).await.unwrap();
    }

    pub(super) async fn reads(&self, number: usize) -> PowerReading {
        self.rack.power(number).unwrap().get().await.unwrap()
    }

    /// Waits until a board is so.
    pub(super) async fn until(
        &self,
        number: usize,
        what: &str,
        is_so: impl Fn(&BoardState) -> bool,
    ) -> BoardState {
        let mut state = self.rack.state(number).unwrap();
        let found =
            timeout(PATIENCE, state.wait_for(|state| is_so(state))).await.map(|found| found.unwrap().clone());
        found.unwrap_or_else(|_| panic!("waited for {what}: {:?}", self.rack.state(number).unwrap().borrow()))
    }

    pub(super) async fn loaded(&self, number: usize) -> Vec<(String, usize)> {
        let state =
            self.until(number, "the last file", |state| matches!(state.doing, Doing::Loaded(_))).await;
        let Doing::Loaded(files) = state.doing else { unreachable!() };
        files
    }

    /// Opens a board's console, as a coordinator does.
    pub(super) async fn console(&self, number: usize) -> Box<dyn pilab::console::port::Line> {
        let path = self.rack.tty(number).unwrap().to_owned();
        serial::line(ConsoleLine::Tty { path, baud: 115_200 }).open().await.unwrap()
    }

    /// What was asked for, and not there.
    pub(super) fn refused(&mut self) -> Vec<String> {
        let mut refused = Vec::new();
        while let Ok(event) = self.files.try_recv() {
            if let FileProgress::Refused(_) = event.what {
                refused.push(event.path.to_string());
            }
        }
        refused
    }

    pub(super) async fn end(self) {
        let tty = self.rack.tty(0).unwrap().to_owned();
        self.rack.end().await;
        assert!(!tty.exists(), "a console is left");
        self.token.cancel();
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait()).await.expect("the servers did not end");
    }
}

/// Reads until the words have come.
pub(super) async fn reads_until(line: &mut Box<dyn pilab::console::port::Line>, words: &str) -> String {
    let mut said = String::new();
    let read = async {
        let mut bytes = vec![0; 4096];
        while !said.contains(words) {
            let length = line.read(&mut bytes).await.unwrap();
            assert!(length > 0, "the line is gone");
            said.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    let done = timeout(PATIENCE, read).await;
    assert!(done.is_ok(), "{words:?} is not in\n{said}");
    said
}
