//! A virtual rack on the loopback: boot loaders, relays and consoles against the real servers, without root and without
//! kernels. What is served, what is refused, and what each fault looks like from outside.

mod lab;

use lab::{KERNEL, Lab, PATIENCE, device, mac, reads_until, simulation};
use pilab::model::boot::BootStage;
use pilab::model::device::Model;
use pilab::model::lease::FencingToken;
use pilab::model::power::{PowerReading, PowerState};
use pilab::model::simulation::{ScriptedFault, SimFault, SimTarget, Simulation};
use pilab::netboot::dhcp::DhcpNews;
use pilab::sim::{BoardSpec, Doing, Ports, Rack, RackOptions, SimError, Wires};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

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
