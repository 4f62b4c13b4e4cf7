//! Boards found one by one, through the program itself: simulated switches, pseudo terminals, packets of boot ROMs.

use crate::support::pi::Pi;
use crate::support::program::{PATIENCE, Program, end, finish, signal};
use pilab::sim::{Plug, PlugFault, PlugKind, PlugOptions, PtyLine};
use rustix::process::Signal;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Two boards behind two relays of one plug, whose serial cables are plugged in the other way round, and a third line that
/// chatters whatever is on.
struct Rack {
    program: Program,
    plug: Plug,
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
        Self { program, plug, ttys, _tasks: tasks, stop }
    }

    /// Begins to look, to the moment when a board is on.
    async fn with_one_on(&self) -> Child {
        let looking = self.program.spawn(&self.args(&["--json", "--write"]));
        // What the one before has left on goes off first.
        self.all_off().await;
        let mut contacts = self.plug.contacts();
        let on = contacts.wait_for(|on| on.contains(&true));
        timeout(PATIENCE, on).await.expect("a board is switched on").unwrap();
        looking
    }

    async fn all_off(&self) {
        let mut contacts = self.plug.contacts();
        timeout(PATIENCE, contacts.wait_for(|on| !on.contains(&true))).await.expect("all are off").unwrap();
    }

    /// The lab file is as it was, and what is beside it is what was there.
    fn unwritten(&self) {
        let text = std::fs::read_to_string(&self.program.lab).unwrap();
        assert!(text.starts_with("# A draft.\n") && !text.contains("mac"), "{text}");
        let names = std::fs::read_dir(self.program.dir.path()).unwrap().map(|one| one.unwrap().file_name());
        let names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        assert!(names.iter().all(|name| !name.ends_with(".tmp")), "{names:?}");
    }

    /// It goes well.
    async fn enrolled(&self) {
        let found = self.program.pilab(&self.args(&["--json", "--write"])).await.done();
        assert_eq!(found.json().len(), 2);
        assert!(!self.plug.contacts().borrow().contains(&true), "all are off in the end");
        let text = std::fs::read_to_string(&self.program.lab).unwrap();
        assert!(text.contains("mac = \"dc:a6:32:00:00:01\""), "{text}");
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

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_all_boards_off_and_nothing_written() {
    let rack = Rack::new().await;
    let looking = rack.with_one_on().await;
    signal(&looking, Signal::INT);
    let ended = end(looking).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(130), ""), "{}", ended.stderr);
    assert!(!rack.plug.contacts().borrow().contains(&true), "off before it ends");
    rack.unwritten();

    // Where the switch does not obey, whoever stopped it is told of the board that may be on.
    let looking = rack.with_one_on().await;
    rack.plug.set_fault(PlugFault::Unavailable);
    signal(&looking, Signal::INT);
    let ended = end(looking).await;
    for words in ["switch draft-pi-1 off", "a board may be on"] {
        ended.refused(words);
    }
    rack.plug.set_fault(PlugFault::None);
    assert!(rack.plug.relay(0), "it was");

    // So is who does not wait for that: the second Ctrl-C leaves at once.
    let looking = rack.with_one_on().await;
    rack.plug.set_fault(PlugFault::Hangs);
    rack.plug.take_requests();
    signal(&looking, Signal::INT);
    let asked = async {
        while rack.plug.take_requests().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("it switches off");
    signal(&looking, Signal::INT);
    let ended = end(looking).await;
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    ended.refused("a board may be on");
    rack.plug.set_fault(PlugFault::None);
    rack.unwritten();
    rack.enrolled().await;
    rack.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_a_killed_look_left_on_is_off_again_with_the_next_one_and_with_a_coordinator() {
    let rack = Rack::new().await;
    let killed = async || {
        let mut looking = rack.with_one_on().await;
        signal(&looking, Signal::KILL);
        looking.wait().await.unwrap();
        assert!(rack.plug.contacts().borrow().contains(&true), "nobody was there to switch it off");
        rack.unwritten();
    };
    killed().await;
    let coordinator = rack.program.coordinator().await;
    rack.all_off().await;
    finish(coordinator).await;
    killed().await;
    rack.enrolled().await;
    rack.stop.cancel();
}
