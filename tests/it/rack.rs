//! A virtual rack on the loopback: boot loaders, relays and consoles against the real servers, without root and without
//! kernels. What is served, what is refused, and what each fault looks like from outside.

use pilab::device::ports::{Boot, BootOffer};
use pilab::model::boot::{BootAttempt, BootStage};
use pilab::model::device::Model;
use pilab::model::id::DeviceId;
use pilab::model::lease::FencingToken;
use pilab::model::power::{PowerReading, PowerState};
use pilab::model::simulation::{ScriptedFault, SimFault, SimTarget, Simulation};
use pilab::model::wiring::ConsoleLine;
use pilab::netboot::LayerSource;
use pilab::netboot::board::Board;
use pilab::netboot::dhcp::{Client, DhcpEvent, DhcpNews, DhcpOptions, DhcpServer, Mode, Responder};
use pilab::netboot::mac::Mac;
use pilab::netboot::neighbours::KernelNeighbours;
use pilab::netboot::pi_boot::{PiBoot, PiFiles};
use pilab::netboot::tftp::{FileEvent, FileProgress, TftpOptions, TftpServer};
use pilab::netboot::tree::{Firmware, Resident, Source};
use pilab::serial;
use pilab::sim::{BoardSpec, BoardState, Doing, Ports, Rack, RackOptions, SimError, Wires};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: FencingToken = FencingToken { epoch: 1, sequence: 7 };
/// Bytes of the kernel that is served: some thousand blocks.
const KERNEL: usize = 1_500_000;

/// A rack, and the servers that it boots from.
struct Lab {
    rack: Rack,
    dhcp: mpsc::Receiver<DhcpEvent>,
    files: mpsc::Receiver<FileEvent>,
    boots: Vec<PiBoot>,
    dir: TempDir,
    tasks: TaskTracker,
    token: CancellationToken,
}

fn mac(number: u8) -> [u8; 6] {
    [0xdc, 0xa6, 0x32, 0x77, 0, number]
}

fn device(number: u8) -> DeviceId {
    DeviceId::new(format!("lab-{number}")).unwrap()
}

fn serial_of(number: u8) -> u32 {
    0x1000_0000 | u32::from(number)
}

/// A port that is free now.
fn port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn simulation(faults: &[SimFault]) -> Simulation {
    let faults = faults.iter().map(|fault| ScriptedFault { fault: fault.clone(), boots: None }).collect();
    Simulation { target: SimTarget::Rom, faults, holds: Duration::ZERO, memory_mib: 512 }
}

fn firmware() -> Firmware {
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
    async fn new(boards: &[(Model, Simulation)], inrush: Option<usize>) -> Self {
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

    fn offer(&self) -> BootOffer {
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

    async fn switch(&self, number: usize, state: PowerState) {
        self.rack.power(number).unwrap().set(LEASE, state).await.unwrap();
    }

    async fn reads(&self, number: usize) -> PowerReading {
        self.rack.power(number).unwrap().get().await.unwrap()
    }

    /// Waits until a board is so.
    async fn until(&self, number: usize, what: &str, is_so: impl Fn(&BoardState) -> bool) -> BoardState {
        let mut state = self.rack.state(number).unwrap();
        let found =
            timeout(PATIENCE, state.wait_for(|state| is_so(state))).await.map(|found| found.unwrap().clone());
        found.unwrap_or_else(|_| panic!("waited for {what}: {:?}", self.rack.state(number).unwrap().borrow()))
    }

    async fn loaded(&self, number: usize) -> Vec<(String, usize)> {
        let state =
            self.until(number, "the last file", |state| matches!(state.doing, Doing::Loaded(_))).await;
        let Doing::Loaded(files) = state.doing else { unreachable!() };
        files
    }

    /// Opens a board's console, as a coordinator does.
    async fn console(&self, number: usize) -> Box<dyn pilab::console::port::Line> {
        let path = self.rack.tty(number).unwrap().to_owned();
        serial::line(ConsoleLine::Tty { path, baud: 115_200 }).open().await.unwrap()
    }

    /// What was asked for, and not there.
    fn refused(&mut self) -> Vec<String> {
        let mut refused = Vec::new();
        while let Ok(event) = self.files.try_recv() {
            if let FileProgress::Refused(_) = event.what {
                refused.push(event.path.to_string());
            }
        }
        refused
    }

    async fn end(self) {
        let tty = self.rack.tty(0).unwrap().to_owned();
        self.rack.end().await;
        assert!(!tty.exists(), "a console is left");
        self.token.cancel();
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait()).await.expect("the servers did not end");
    }
}

/// Reads until the words have come.
async fn reads_until(line: &mut Box<dyn pilab::console::port::Line>, words: &str) -> String {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_boards_that_start_at_once_all_get_their_files() {
    let models = [Model::Pi3B, Model::Pi4B, Model::Pi5];
    let boards: Vec<_> = (0..8).map(|n| (models[n % 3], simulation(&[]))).collect();
    let mut lab = Lab::new(&boards, None).await;
    for number in 0..8 {
        lab.switch(number, PowerState::On).await;
    }
    for number in 0..8 {
        let files = lab.loaded(number).await;
        assert!(files.contains(&("vmlinuz".to_owned(), KERNEL)), "{files:?}");
        assert!(files.contains(&("initrd.img".to_owned(), 9)), "{files:?}");
        assert_eq!(files.iter().any(|(name, _)| name == "start4.elf"), number % 3 == 1);
    }
    let refused = lab.refused();
    // What all of them look for, and nobody may find.
    assert_eq!(refused.iter().filter(|path| path.ends_with("/pieeprom.sig")).count(), 5, "{refused:?}");
    assert!(refused.iter().all(|path| !path.ends_with("vmlinuz")), "{refused:?}");
    for number in 0..8 {
        lab.switch(number, PowerState::Off).await;
        lab.until(number, "no power", |state| state.doing == Doing::Off).await;
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_shows_the_loader_and_can_be_pulled_out() {
    let pulled = SimFault::UartPulled(BootStage::Firmware, Duration::from_millis(100));
    let lab = Lab::new(
        &[(Model::Pi4B, simulation(&[pulled])), (Model::Pi3B, simulation(&[SimFault::DeadUart]))],
        None,
    )
    .await;
    let mut line = lab.console(0).await;
    let mut dead = lab.console(1).await;
    lab.switch(0, PowerState::On).await;
    lab.switch(1, PowerState::On).await;
    let mut said = String::new();
    let read = async {
        let mut bytes = vec![0; 4096];
        // Until it is pulled out.
        while let Ok(length @ 1..) = line.read(&mut bytes).await {
            said.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("it stays in"));
    for words in ["RPi: BOOTLOADER", "PM_RSTS: 0x00001000", "Link ready", "NET 127.77.", "TFTP_GET"] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    drop(line);
    lab.loaded(0).await;
    lab.loaded(1).await;
    // By the same name again.
    let path = lab.rack.tty(0).unwrap().to_owned();
    let back = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, back).await.unwrap();
    let mut line = lab.console(0).await;
    lab.switch(0, PowerState::Off).await;
    lab.until(0, "no power", |state| state.doing == Doing::Off).await;
    lab.switch(0, PowerState::On).await;
    reads_until(&mut line, "RPi: BOOTLOADER").await;
    let heard = timeout(Duration::from_millis(50), dead.read(&mut [0; 16])).await;
    assert!(heard.is_err(), "a dead line said something: {heard:?}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_supply_are_seen_on_the_board_and_not_on_the_relay() {
    let brown = SimFault::BrownOut(BootStage::Firmware);
    let once = Simulation { faults: vec![ScriptedFault { fault: brown, boots: Some(1) }], ..simulation(&[]) };
    let welded = simulation(&[SimFault::Welded]);
    let holds = Simulation { holds: Duration::from_secs(600), ..simulation(&[]) };
    let chatters = simulation(&[SimFault::Chatters]);
    let boards = [once, welded, holds, chatters].map(|simulation| (Model::Pi4B, simulation));
    let lab = Lab::new(&boards, None).await;
    let mut line = lab.console(0).await;
    for number in 0..4 {
        lab.switch(number, PowerState::On).await;
    }
    for number in 0..4 {
        lab.loaded(number).await;
    }
    let said = reads_until(&mut line, "MESS:00:00:06.454101").await;
    assert_eq!(
        said.matches("PM_RSTS: 0x00001000").count(),
        2,
        "a board that browns out begins anew:\n{said}"
    );
    assert_eq!(lab.until(0, "two boots", |state| state.boots == 2).await.boots, 2);
    for number in 1..3 {
        lab.switch(number, PowerState::Off).await;
        assert_eq!(lab.reads(number).await, PowerReading::Off);
    }
    // Nothing that could still come: the relay has long obeyed, and the board runs on.
    lab.switch(0, PowerState::Off).await;
    lab.until(0, "no power", |state| state.doing == Doing::Off).await;
    for number in 1..3 {
        let state = lab.rack.state(number).unwrap().borrow().clone();
        assert!(matches!(state.doing, Doing::Loaded(_)) && state.boots == 1, "{state:?}");
    }
    let bounced = lab.until(3, "boots of a bouncing contact", |state| state.boots > 1).await;
    assert!(bounced.boots <= 4, "{bounced:?}");
    let late = lab.rack.power(0).unwrap().set(FencingToken { epoch: 1, sequence: 6 }, PowerState::On).await;
    assert!(late.is_err(), "a lease that has passed switches nothing");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_boards_at_once_trip_their_supply() {
    let boards: Vec<_> = (0..3).map(|_| (Model::Pi5, simulation(&[]))).collect();
    let lab = Lab::new(&boards, Some(2)).await;
    for number in 0..3 {
        lab.switch(number, PowerState::On).await;
    }
    // The last of them is too much; all begin anew when the supply is back.
    lab.until(0, "a second boot", |state| state.boots == 2).await;
    for number in 0..3 {
        lab.loaded(number).await;
        assert_eq!(lab.reads(number).await, PowerReading::On);
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_boot_shows_at_the_servers_and_on_the_console() {
    let no_link = simulation(&[SimFault::NoLink]);
    let stalls = simulation(&[SimFault::RomStall("vmlinuz".to_owned())]);
    let loses = simulation(&[SimFault::LostPackets(499)]);
    let panics = simulation(&[SimFault::KernelPanic]);
    let boards = [no_link, stalls, loses, panics].map(|simulation| (Model::Pi4B, simulation));
    let mut lab = Lab::new(&boards, None).await;
    let mut line = lab.console(3).await;
    for number in 0..4 {
        lab.switch(number, PowerState::On).await;
    }
    let hung = lab.until(1, "the stall", |state| matches!(state.doing, Doing::Hangs(_))).await;
    assert_eq!(hung.doing, Doing::Hangs("it hangs at vmlinuz".to_owned()));
    assert!(lab.loaded(2).await.contains(&("vmlinuz".to_owned(), KERNEL)));
    reads_until(&mut line, "end Kernel panic").await;
    assert_eq!(lab.rack.state(0).unwrap().borrow().doing, Doing::Loads);
    let mut asked = Vec::new();
    while let Ok(event) = lab.dhcp.try_recv() {
        if let DhcpNews::Discovered { device, .. } = event.what {
            asked.push(device);
        }
    }
    assert!(!asked.contains(&device(10)) && asked.contains(&device(11)), "{asked:?}");
    let mut stalled = Vec::new();
    while let Ok(event) = lab.files.try_recv() {
        let is_stalled = event.peer.ip().to_string().ends_with(".11");
        stalled.extend(is_stalled.then(|| event.path.to_string()));
    }
    assert_eq!(stalled.last().unwrap(), "1000000b/vmlinuz", "{stalled:?}");
    lab.end().await;
}

#[tokio::test]
async fn what_a_host_cannot_simulate_is_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let runs = Simulation { target: SimTarget::Virt, ..simulation(&[]) };
    let start = async |model, simulation: Simulation| {
        let board = BoardSpec { name: "x".to_owned(), model, mac: mac(1), serial: None, simulation };
        let ports = Ports { server: 1067, client: 1068, tftp: 1069 };
        let options = RackOptions {
            tag: "refused".to_owned(),
            root: dir.path().to_owned(),
            wires: Wires::Loopback(ports),
            inrush: None,
            boards: vec![board],
        };
        match Rack::start(options).await {
            Ok(_) => panic!("it was started"),
            Err(error) => error,
        }
    };
    let error = start(Model::Pi4B, runs).await;
    assert!(matches!(error, SimError::NoWires) && error.hint().unwrap().contains("10.77.0.1"));
    let error = start(Model::VmAarch64, simulation(&[])).await;
    assert_eq!(error.to_string(), "vm-aarch64 cannot be simulated: it is no Raspberry Pi");
    assert!(!dir.path().join("rack-refused").exists(), "nothing is left of it");
}
