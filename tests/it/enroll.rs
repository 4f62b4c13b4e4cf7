//! Boards found one by one, through the program itself: simulated switches, pseudo terminals, packets of boot ROMs.

use crate::support::pi::Pi;
use crate::support::program::Program;
use pilab::sim::{Plug, PlugKind, PlugOptions, PtyLine};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Two boards behind two relays of one plug, whose serial cables are plugged in the other way round, and a third line that
/// chatters whatever is on.
struct Rack {
    program: Program,
    ttys: [PathBuf; 3],
    _tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Rack {
    async fn new() -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let options = PlugOptions { kind: PlugKind::Tasmota, relays: 2, password: None };
        let plug = Plug::start(options, &tracker, stop.clone()).await.unwrap();
        let free = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (server, client) = (free(), free());
        let mut lab = format!(
            "# A draft.\nname = \"draft\"\n[netboot]\naddress = \"127.0.0.1\"\ndhcp_port = {server}\ndhcp_client_port = {client}\n"
        );
        for number in [1, 2] {
            lab.push_str(&format!(
                "\n[[devices]]\nid = \"pi-{number}\"\nmodel = \"pi4b\"\nmin_off = \"100ms\"\n\
                 power = {{ driver = \"http\", kind = \"tasmota\", url = \"{}\", switch = {number} }}\n",
                plug.base()
            ));
        }
        let program = Program::new(&lab);
        let ttys = ["left", "right", "noise"].map(|name| program.path(name));
        let mut tasks = JoinSet::new();
        let [mut left, mut right, mut noise] = ttys.each_ref().map(|name| PtyLine::plug(name).unwrap());
        let mut contacts = plug.contacts();
        tasks.spawn(async move {
            let _plug = plug;
            let wire = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let board = |last: u8| Pi {
                address: Ipv4Addr::LOCALHOST,
                mac: [0xdc, 0xa6, 0x32, 0, 0, last],
                serial: 0x1000_0000 + u32::from(last),
                tftp: (Ipv4Addr::LOCALHOST, 0).into(),
                dhcp: (server, client),
            };
            loop {
                let on = contacts.borrow_and_update().clone();
                for (number, line) in [(1_u8, &mut right), (2, &mut left)] {
                    if on[usize::from(number) - 1] {
                        // Whoever listens may not be there yet, and a full line is nobody's loss.
                        let _ = line.write_all(b"RPi: BOOTLOADER release VERSION:x\r\n").await;
                        wire.send_to(&board(number).discover(), (Ipv4Addr::LOCALHOST, server)).await.unwrap();
                    }
                }
                let _ = noise.write_all(b"tick\r\n").await;
                // Once more while nothing changes, as a boot ROM does.
                let again = tokio::time::sleep(std::time::Duration::from_millis(200));
                tokio::select! {
                    changed = contacts.changed() => if changed.is_err() { return },
                    () = again => {}
                }
            }
        });
        Self { program, ttys, _tasks: tasks, stop }
    }

    fn args<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["device", "enroll", "--lab", self.program.lab.to_str().unwrap(), "--tty"];
        args.extend(self.ttys.iter().map(|tty| tty.to_str().unwrap()));
        args.extend(["--within", "20s"]);
        args.extend(rest);
        args
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_which_board_is_found_and_written_down() {
    let rack = Rack::new().await;
    let found = rack.program.pilab(&rack.args(&["--json", "--write"])).await.done();
    let rows = found.json();
    let shown = |row: usize, key: &str| rows[row][key].as_str().unwrap().to_owned();
    assert_eq!(
        (shown(0, "device"), shown(0, "mac")),
        ("draft-pi-1".to_owned(), "dc:a6:32:00:00:01".to_owned())
    );
    assert_eq!((shown(0, "serial"), shown(1, "serial")), ("10000001".to_owned(), "10000002".to_owned()));
    let tty = |index: usize| rack.ttys[index].display().to_string();
    assert_eq!((shown(0, "console"), shown(1, "console")), (tty(1), tty(0)), "crossed as they are");

    // What was written is a lab file, and says so much.
    let text = std::fs::read_to_string(&rack.program.lab).unwrap();
    assert!(text.starts_with("# A draft.\n") && text.contains("mac = \"dc:a6:32:00:00:02\""), "{text}");
    let checked = rack.program.pilab(&["check", "--lab", rack.program.lab.to_str().unwrap()]).await.done();
    assert!(
        checked.stdout.contains(&format!("draft-pi-1 (pi4b): console: {}", tty(1))),
        "{}",
        checked.stdout
    );

    // All are off in the end; who is not there is told, and what is wrong costs nothing.
    let again =
        rack.program.pilab(&["device", "enroll", "pi-9", "--lab", rack.program.lab.to_str().unwrap()]).await;
    again.refused("lab draft has no device \"pi-9\"");
    rack.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_that_has_a_coordinator_is_left_alone() {
    let rack = Rack::new().await;
    let mut coordinator = rack.program.coordinator().await;
    rack.program.pilab(&rack.args(&[])).await.refused("lab draft has a coordinator on this machine");
    coordinator.kill().await.unwrap();
    rack.stop.cancel();
}
