//! A lab that netboots its boards, through the program itself: simulated switches, and boot ROMs played packet by packet
//! on the loopback.

use crate::agent::lab::installed;
use crate::journal::{Open, read_all, records};
use crate::support::pi::Pi;
use crate::support::program::{PATIENCE, Program, end, finish};
use crate::support::script;
use crate::support::store::{INITRAMFS, KERNEL, LAYER, Store, sha256};
use pilab::journal::{Entry, Since};
use pilab::model::event::Event;
use pilab::model::netboot::NetbootFact;
use pilab::sim::{Plug, PlugKind, PlugOptions};
use pilab::support::command::Command;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use tokio::process::Child;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Two boards of a lab on the loopback.
pub(crate) struct Bench {
    pub(crate) program: Program,
    pub(crate) plug: Plug,
    pub(crate) one: Pi,
    pub(crate) two: Pi,
    pub(crate) store: Store,
    _stop: DropGuard,
}

/// Ports that are free now.
fn ports<const N: usize>() -> [u16; N] {
    let sockets: [UdpSocket; N] = std::array::from_fn(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.each_ref().map(|socket| socket.local_addr().unwrap().port())
}

impl Bench {
    pub(crate) async fn new() -> Option<Self> {
        if !installed("nats-server", "podman") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let options = PlugOptions { kind: PlugKind::ShellyGen1, relays: 2, password: None };
        let plug = Plug::start(options, &tracker, token.clone()).await.unwrap();
        let store = Store::new(&dir.path().join("store"));
        let firmware = dir.path().join("firmware");
        std::fs::create_dir(&firmware).unwrap();
        for file in ["start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "pieeprom.upd"] {
            std::fs::write(firmware.join(file), file).unwrap();
        }
        let [server, client, tftp] = ports();
        let pi = |number: u8| Pi {
            address: Ipv4Addr::new(127, 0, 0, 10 + number),
            mac: [0xdc, 0xa6, 0x32, 0, 0, number],
            serial: 0x9ffe_fde0 + u32::from(number),
            tftp: SocketAddr::from((Ipv4Addr::LOCALHOST, tftp)),
            dhcp: (server, client),
        };
        let (one, two) = (pi(1), pi(2));
        let mut text = format!(
            "name = \"rack\"\nimage = \"{}\"\nstagger = \"1ms\"\n[netboot]\naddress = \"127.0.0.1\"\n\
             dhcp_port = {server}\ndhcp_client_port = {client}\ntftp_port = {tftp}\nfirmware = \"firmware\"\n",
            &store.image[..12]
        );
        for (number, pi) in [(1_u8, one), (2, two)] {
            text += &format!(
                "[[devices]]\nid = \"pi-{number}\"\nmodel = \"pi4b\"\nboot = \"netboot\"\nmin_off = \"10ms\"\n\
                 mac = \"dc:a6:32:00:00:{number:02x}\"\nserial = \"{:08x}\"\naddress = \"{}\"\n\
                 power = {{ driver = \"http\", kind = \"shelly-gen1\", url = \"{}\", switch = {} }}\n",
                pi.serial,
                pi.address,
                plug.base(),
                number - 1,
            );
        }
        let mut program = Program::within(dir, &text);
        program.images = Some(store.root.clone());
        Some(Self { program, plug, one, two, store, _stop: token.drop_guard() })
    }

    pub(crate) async fn coordinator(&self) -> Child {
        self.program.coordinator().await
    }

    /// What the journal of a board holds of netboot, once the coordinator has ended.
    pub(crate) async fn facts(&self, device: &str) -> Vec<NetbootFact> {
        facts(&self.program.state().join(format!("devices/{device}/journal"))).await
    }
}

async fn facts(journal: &Path) -> Vec<NetbootFact> {
    let journal = Open::at(journal).await;
    let all = records(read_all(&journal.handle, Since::Start).await).into_iter();
    let facts = all.filter_map(|record| match record.entry {
        Entry::Event(Event::Netboot { fact }) => Some(fact),
        _ => None,
    });
    let facts = facts.collect();
    journal.close().await;
    facts
}

/// The value of an argument of a kernel command line.
fn argument<'a>(cmdline: &'a str, name: &str) -> Option<&'a str> {
    cmdline.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn what_the_document_shows_can_be_loaded() {
    let document = std::fs::read_to_string("docs/netboot.md").unwrap();
    let block = document.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lab.toml");
    std::fs::write(&path, block).unwrap();
    let lab = pilab::config::lab::load(&path, None, None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(lab.netbooted().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_boots_what_its_holder_s_lease_offers_it_and_nothing_else() {
    let Some(bench) = Bench::new().await else { return };
    let (program, one, two) = (&bench.program, bench.one, bench.two);
    let coordinator = bench.coordinator().await;
    // Whatever the reason, a boot ROM hears that, and goes on; the journal has the reason.
    let nothing = Err("File not found".to_owned());
    assert_eq!(one.file("config.txt").await, nothing, "it is not on");
    program.pilab(&["reserve", "rack-pi-1", "--for", "1h"]).await.done();
    program.pilab(&["power", "on", "rack-pi-1"]).await.done();
    assert!(bench.plug.relay(0) && !bench.plug.relay(1));

    assert_eq!(one.lease().await, one.address);
    one.probe("start4.elf").await;
    let config = String::from_utf8(one.file("config.txt").await.unwrap()).unwrap();
    assert!(config.contains("kernel=vmlinuz"), "{config}");
    assert_eq!(one.file("start4.elf").await.unwrap(), b"start4.elf");
    assert_eq!(one.file("vmlinuz").await.unwrap(), KERNEL);
    assert_eq!(one.get("dc-a6-32-00-00-01//initrd.img").await.unwrap(), INITRAMFS);
    assert_eq!(one.file("pieeprom.upd").await, nothing, "never served");
    let cmdline = String::from_utf8(one.file("cmdline.txt").await.unwrap()).unwrap();
    assert!(cmdline.starts_with("console=ttyS1,115200 ") && cmdline.contains(" panic=5"), "{cmdline}");
    let layer = argument(&cmdline, "pilab.layer").unwrap().split(':').next().unwrap();
    assert_eq!(layer, sha256(LAYER));
    let url = format!("{}/v1/layer/{layer}", argument(&cmdline, "pilab.url").unwrap());
    let client = reqwest::Client::builder().local_address(IpAddr::from(one.address)).build().unwrap();
    let fetched = client.get(url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(fetched, LAYER);
    assert_eq!(argument(&cmdline, "pilab.ticket").unwrap().len(), 64);

    // Another board's files are that board's, and another's board is that holder's.
    let theirs = format!("{:08x}/config.txt", two.serial);
    assert_eq!(one.get(&theirs).await, nothing);
    let ann = program.login("ann", "user").await;
    program.as_user(&ann, &["power", "cycle", "rack-pi-1"]).await.refused("rack-pi-1 is local's");

    // Another boot is another ticket; without power there is nothing.
    program.pilab(&["power", "cycle", "rack-pi-1"]).await.done();
    let again = String::from_utf8(one.file("cmdline.txt").await.unwrap()).unwrap();
    assert_ne!(argument(&again, "pilab.ticket"), argument(&cmdline, "pilab.ticket"));
    program.pilab(&["power", "off", "rack-pi-1"]).await.done();
    assert_eq!(one.file("config.txt").await, nothing);
    finish(coordinator).await;

    let facts = bench.facts("rack-pi-1").await;
    let has = |what: &str, holds: &dyn Fn(&NetbootFact) -> bool| {
        assert!(facts.iter().any(holds), "{what} is not in {facts:#?}");
    };
    let address = one.address;
    has("discover", &|fact| *fact == NetbootFact::Discovered { boots: true });
    has("offer", &|fact| *fact == NetbootFact::Offered { address: Some(address) });
    has("acknowledge", &|fact| *fact == NetbootFact::Acknowledged { address });
    has("probe", &|fact| *fact == NetbootFact::FileProbed { path: "start4.elf".to_owned() });
    has("kernel", &|fact| matches!(fact, NetbootFact::FileDone { path, bytes: 8, .. } if path == "vmlinuz"));
    has("missing", &|fact| matches!(fact, NetbootFact::FileMissing { path } if path == "pieeprom.upd"));
    let refused = |path: &str, cause: &str| {
        let (path, cause) = (path.to_owned(), cause.to_owned());
        has("refused", &|fact| {
            *fact == NetbootFact::FileRefused { path: path.clone(), cause: cause.clone() }
        });
    };
    refused(&theirs, "rack-pi-1 asks for a file of rack-pi-2");
    refused("config.txt", "rack-pi-1 is to boot nothing now");
    has("layer", &|fact| matches!(fact, NetbootFact::Layer { sent, bytes, .. } if sent == bytes));
    assert_eq!(bench.facts("rack-pi-2").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_known_is_noted_where_a_board_is_waited_for() {
    let Some(bench) = Bench::new().await else { return };
    let (program, one) = (&bench.program, bench.one);
    let coordinator = bench.coordinator().await;
    program.pilab(&["reserve", "--count", "2", "--for", "1h"]).await.done();
    for device in ["rack-pi-1", "rack-pi-2"] {
        program.pilab(&["power", "on", device]).await.done();
    }
    assert_eq!(one.lease().await, one.address);
    // A new card, and one with the serial number of the second board: neither gets an answer.
    let unheard = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (mac, serial) in [([2, 0, 0, 0, 0, 9], 0x1234_5678), ([2, 0, 0, 0, 0, 8], bench.two.serial)] {
        unheard.send_to(&Pi { mac, serial, ..one }.discover(), (Ipv4Addr::LOCALHOST, one.dhcp.0)).unwrap();
    }
    // They are served in order.
    one.lease().await;
    finish(coordinator).await;
    let strangers = |facts: Vec<NetbootFact>| {
        let told = facts.into_iter().filter_map(|fact| match fact {
            NetbootFact::Stranger { mac, ours, .. } => Some((mac, ours)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(strangers(bench.facts("rack-pi-1").await), [], "it has been heard");
    let told = strangers(bench.facts("rack-pi-2").await);
    assert_eq!(told, [("02:00:00:00:00:09".to_owned(), false), ("02:00:00:00:00:08".to_owned(), true)]);
}

#[tokio::test]
async fn what_netboot_lacks_is_said_at_the_start() {
    let Some(bench) = Bench::new().await else { return };
    let program = &bench.program;
    let start = async || program.pilab(&["coordinator", "--lab", program.lab.to_str().unwrap()]).await;
    let firmware = program.path("firmware/start4.elf");
    std::fs::remove_file(&firmware).unwrap();
    let ended = start().await;
    ended.refused("pi4b needs start4.elf");
    ended.refused("hint: lab/firmware fetches it from Debian");
    std::fs::write(&firmware, "x").unwrap();
    let _taken = UdpSocket::bind(bench.one.tftp).unwrap();
    let ended = start().await;
    ended.refused("another TFTP server has port");
    std::fs::remove_file(bench.store.root.join("images").join(format!("{}.json", bench.store.image)))
        .unwrap();
    start().await.refused("there is no image");
}

/// A segment of the lab's own: a wire to a network namespace in which a board is. Gone when dropped.
struct Segment {
    namespace: String,
    there: String,
    /// This host's address on it.
    here: Ipv4Addr,
}

const CARD: &str = "dc:a6:32:00:00:07";

impl Segment {
    /// None where there cannot be one.
    async fn new() -> Option<Self> {
        if !installed("ip", "rack") || !installed("busybox", "rack") || !rustix::process::geteuid().is_root()
        {
            return None;
        }
        let number = std::process::id() % 100_000;
        let (namespace, here) = (format!("pilab-nb-{number}"), format!("pnh{number}"));
        let there = format!("pnt{number}");
        if Command::new("ip").args(["netns", "add", &namespace]).output().await.is_err() {
            return None;
        }
        let address = Ipv4Addr::new(10, 214, u8::try_from(number % 250).unwrap(), 1);
        let segment = Self { namespace, there, here: address };
        let Self { namespace, there, .. } = &segment;
        let ip = async |args: &[&str]| Command::new("ip").args(args.iter().copied()).output().await.unwrap();
        ip(&["link", "add", &here, "type", "veth", "peer", "name", there, "netns", namespace]).await;
        ip(&["-n", namespace, "link", "set", there, "address", CARD, "up"]).await;
        ip(&["addr", "add", &format!("{address}/24"), "dev", &here]).await;
        ip(&["link", "set", &here, "up"]).await;
        Some(segment)
    }

    /// What a program of BusyBox says at the board's end.
    async fn board(&self, args: &[&str]) -> Result<Vec<u8>, String> {
        let command = Command::new("ip").args(["netns", "exec", &self.namespace, "busybox"]);
        let command = command.args(args.iter().copied()).timeout(PATIENCE);
        command.output().await.map_err(|error| error.to_string())
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "nothing can be awaited here")]
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_on_a_segment_of_its_own_becomes_the_lab_s_by_its_ticket() {
    let (Some(segment), Some(bench)) = (Segment::new().await, Bench::new().await) else { return };
    let (here, program) = (segment.here, &bench.program);
    let [a, b, c, _] = here.octets();
    let address = Ipv4Addr::new(a, b, c, 11);
    let text = format!(
        "name = \"rack\"\nimage = \"{}\"\n[netboot]\naddress = \"{here}\"\nfirmware = \"firmware\"\n\
         [[devices]]\nid = \"pi-7\"\nmodel = \"pi5\"\nboot = \"netboot\"\nmin_off = \"10ms\"\nmac = \"{CARD}\"\n\
         address = \"{address}\"\nserial = \"00000007\"\n\
         power = {{ driver = \"http\", kind = \"shelly-gen1\", url = \"{}\" }}\n",
        bench.store.image,
        bench.plug.base()
    );
    std::fs::write(&program.lab, text).unwrap();
    let coordinator = bench.coordinator().await;
    program.pilab(&["reserve", "rack-pi-7"]).await.done();
    let boot = program.spawn(&["boot", "rack-pi-7", "--until", "agent"]);
    let mut contacts = bench.plug.contacts();
    contacts.wait_for(|closed| closed[0]).await.unwrap();

    let script = program.path("script");
    let text =
        format!("#!/bin/sh\n[ \"$1\" != bound ] || busybox ip addr add $ip/24 dev {}\n", segment.there);
    script::write(&script, &text);
    let class = "PXEClient:Arch:00000:UNDI:002001";
    let lease =
        ["udhcpc", "-i", &segment.there, "-V", class, "-f", "-n", "-q", "-s", script.to_str().unwrap()];
    segment.board(&lease).await.unwrap();
    let home = here.to_string();
    let get = |name: &'static str| {
        let (segment, home, to) = (&segment, home.clone(), program.path(name));
        async move {
            let path = format!("00000007/{name}");
            segment.board(&["tftp", "-g", "-r", &path, "-l", to.to_str().unwrap(), &home]).await.unwrap();
            std::fs::read(to).unwrap()
        }
    };
    assert_eq!(get("vmlinuz").await, KERNEL);
    let cmdline = String::from_utf8(get("cmdline.txt").await).unwrap();
    let (url, ticket) =
        (argument(&cmdline, "pilab.url").unwrap(), argument(&cmdline, "pilab.ticket").unwrap());
    assert!(url.starts_with(&format!("http://{here}:")), "{url}");
    let url = format!("{url}/v1/ticket");
    let exchange = ["wget", "-q", "-O", "-", "--post-data", ticket, &url];
    let files = segment.board(&exchange).await.unwrap();
    let files = String::from_utf8_lossy(&files);
    assert!(files.contains("\"device\":\"rack-pi-7\""), "{files}");
    assert!(files.contains(&format!("nats://{here}:")), "it reaches NATS on its own segment: {files}");
    assert!(segment.board(&exchange).await.unwrap_err().contains("403"), "a ticket is good once");

    // Its agent does not answer, for there is none.
    program.pilab(&["power", "off", "rack-pi-7"]).await.done();
    let ended = end(boot).await;
    ended.refused(&format!("ticket exchanged by {address}"));
    ended.refused("ticket refused to");
    finish(coordinator).await;
}

#[tokio::test]
async fn the_doctor_looks_at_what_netboot_needs() {
    let Some(bench) = Bench::new().await else { return };
    let program = &bench.program;
    let look = async |part: String| {
        let told = program.pilab(&["doctor", "--json", "--lab", program.lab.to_str().unwrap()]).await.json();
        let found = told.iter().find(|finding| finding["part"] == part);
        let found = found.unwrap_or_else(|| panic!("{part} is not in {told:#?}"));
        (
            found["condition"].as_str().unwrap().to_owned(),
            found["hint"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let good = ("good".to_owned(), String::new());
    let (dhcp, tftp) =
        (format!("DHCP port {}", bench.one.dhcp.0), format!("TFTP port {}", bench.one.tftp.port()));
    let image = format!("image {} aarch64", &bench.store.image[..12]);
    for part in ["netboot address".to_owned(), dhcp, tftp.clone(), "boards' firmware".to_owned(), image] {
        assert_eq!(look(part.clone()).await, good, "{part}");
    }
    let _taken = UdpSocket::bind(bench.one.tftp).unwrap();
    std::fs::remove_file(program.path("firmware/fixup4.dat")).unwrap();
    let (condition, hint) = look(tftp).await;
    assert_eq!(condition, "bad");
    assert!(hint.contains("a coordinator of this lab that runs has it, too"), "{hint}");
    assert_eq!(look("boards' firmware".to_owned()).await.0, "bad");
}
