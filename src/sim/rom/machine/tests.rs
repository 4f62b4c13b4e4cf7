//! Boots in virtual time, against a server of a few lines.

use super::super::dhcp::XID_THREE;
use super::lease::DHCP_IN_ALL;
use super::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: u16 = 50_000;

fn board(chip: Chip) -> Identity {
    Identity { chip, mac: [0xdc, 0xa6, 0x32, 1, 0x36, 0xc2], serial: Some(0x9ffe_fdef) }
}

/// A server that lends an address and has these files, by their paths.
struct World {
    files: BTreeMap<String, Vec<u8>>,
    /// After this time an offer is made; none for never.
    offers_after: Option<Duration>,
    asked: Vec<String>,
    said: String,
    discovers: u32,
    requests: u32,
    ports: Vec<u16>,
    serving: Vec<u8>,
    block_size: usize,
}

fn reply(to: &[u8], kind: u8) -> Vec<u8> {
    let mut bytes = to[..240].to_vec();
    bytes[0] = 2;
    bytes[16..20].copy_from_slice(&[10, 0, 0, 11]);
    bytes[20..24].copy_from_slice(&SERVER.octets());
    bytes.extend([53, 1, kind, 54, 4, 10, 0, 0, 1, 1, 4, 255, 255, 255, 0, 43, 26, 9, 20 + 3, 0, 0, 20]);
    bytes.extend(b"Raspberry Pi Boot   ");
    bytes.extend([255, 255]);
    bytes
}

impl World {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        Self {
            files,
            offers_after: Some(Duration::from_millis(1500)),
            asked: Vec::new(),
            said: String::new(),
            discovers: 0,
            requests: 0,
            ports: Vec::new(),
            serving: Vec::new(),
            block_size: 512,
        }
    }

    /// Lets the board run until it starts something or halts, or for ten minutes; and for how long it ran.
    fn run(&mut self, mut rom: Rom, begun: Instant) -> (Option<Act>, Duration) {
        let mut now = begun;
        let mut due: VecDeque<(Instant, bool, Vec<u8>)> = VecDeque::new();
        while now < begun + Duration::from_secs(600) {
            let acts: Vec<Act> = rom.acts().collect();
            for act in acts {
                match act {
                    Act::Say(words) => self.said.push_str(&words),
                    Act::Ask(packet) => {
                        let kind = packet[242];
                        self.discovers += u32::from(kind == 1);
                        self.requests += u32::from(kind == 3);
                        if let Some(after) = self.offers_after {
                            due.push_back((now + after, true, reply(&packet, if kind == 1 { 2 } else { 5 })));
                        }
                    }
                    Act::Address(network) => assert_eq!(network.address, Ipv4Addr::new(10, 0, 0, 11)),
                    Act::Open(port) => self.ports.push(port),
                    Act::Send(packet, to, _) => {
                        assert_eq!(to, SERVER);
                        due.extend(self.answer(&packet).map(|answer| (now, false, answer)));
                    }
                    over @ (Act::Start(_) | Act::Halt(_)) => return (Some(over), now - begun),
                }
            }
            let packet = due.iter().map(|(at, ..)| *at).min();
            let Some(next) = [packet, rom.deadline()].into_iter().flatten().min() else {
                return (None, now - begun);
            };
            now = now.max(next);
            match due.iter().position(|(at, ..)| *at <= now) {
                Some(at) => {
                    let (_, is_dhcp, bytes) = due.remove(at).unwrap();
                    if is_dhcp {
                        rom.on_dhcp(&bytes, now);
                    } else {
                        rom.on_tftp(SocketAddrV4::new(SERVER, PEER), &bytes, now);
                    }
                }
                None => rom.on_time(now),
            }
        }
        (None, now - begun)
    }

    fn answer(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        match packet {
            [0, 1, rest @ ..] => {
                let words: Vec<_> =
                    rest.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word)).collect();
                self.asked.push(words[0].to_string());
                let Some(bytes) = self.files.get(&words[0].replace("//", "/")) else {
                    return Some(b"\0\x05\0\x01there is no such file\0".to_vec());
                };
                self.serving.clone_from(bytes);
                self.block_size = words.get(5).map_or(512, |size| size.parse().unwrap());
                if words.len() > 3 {
                    Some(
                        format!("\0\u{6}tsize\0{}\0blksize\0{}\0", bytes.len(), self.block_size).into_bytes(),
                    )
                } else {
                    Some(self.block(1))
                }
            }
            [0, 4, high, low] => {
                let acknowledged = usize::from(u16::from_be_bytes([*high, *low]));
                (acknowledged * self.block_size <= self.serving.len()).then(|| self.block(acknowledged + 1))
            }
            _ => None,
        }
    }

    fn block(&self, number: usize) -> Vec<u8> {
        let at = (number - 1) * self.block_size;
        let data = self.serving.get(at..(at + self.block_size).min(self.serving.len())).unwrap_or_default();
        [&[0, 3], u16::try_from(number).unwrap().to_be_bytes().as_slice(), data].concat()
    }
}

const CONFIG: &[u8] = b"kernel=vmlinuz\ninitramfs initrd.img followkernel\nuart_2ndstage=1\n";

fn whole(chip: Chip) -> World {
    let tree = format!("9ffefdef/{}", chip.device_tree());
    World::new(&[
        ("bootcode.bin", b"boot"),
        ("9ffefdef/config.txt", CONFIG),
        ("9ffefdef/start.elf", b"start"),
        ("9ffefdef/start4.elf", b"start"),
        ("9ffefdef/fixup4.dat", b"fixup"),
        ("9ffefdef/cmdline.txt", b"console=ttyS1,115200 quiet\n"),
        ("9ffefdef/vmlinuz", &[7; 100_000]),
        ("9ffefdef/initrd.img", &[8; 1468 * 3]),
        (&tree, b"\xd0\x0d\xfe\xed"),
    ])
}

fn boot(chip: Chip, world: &mut World, faults: RomFaults) -> (Option<Act>, Duration) {
    let begun = Instant::now();
    world.run(Rom::new(board(chip), faults, Reset::Power, begun), begun)
}

#[test]
fn every_board_loads_what_it_is_told_to() {
    for chip in [Chip::Three, Chip::Four, Chip::FourModule, Chip::Five] {
        let mut world = whole(chip);
        let (over, _) = boot(chip, &mut world, RomFaults::default());
        let Some(Act::Start(loaded)) = over else { panic!("{chip:?}: {over:?}\n{}", world.said) };
        let bytes = |role| loaded.file(role).map(|file| file.bytes.as_slice());
        assert_eq!(bytes(Role::Kernel), Some([7; 100_000].as_slice()));
        assert_eq!(bytes(Role::Initramfs), Some([8; 1468 * 3].as_slice()));
        assert_eq!(bytes(Role::Cmdline), Some(b"console=ttyS1,115200 quiet\n".as_slice()));
        assert_eq!((bytes(Role::DeviceTree), loaded.needless), (Some(TREE.as_slice()), 0));
        // Only a 3 takes an offer without asking for it, and it is the same transaction on all of them.
        assert_eq!((world.discovers, world.requests), (1, u32::from(chip != Chip::Three)));
        assert!(
            !world.asked.iter().any(|path| path.contains("pieeprom.upd") || path.contains("pieeprom.bin"))
        );
        assert!(world.ports.windows(2).all(|pair| pair[1] == pair[0] + 1), "{:?}", world.ports);
        let prefix = if chip == Chip::Five { "9ffefdef//" } else { "9ffefdef/" };
        assert!(world.asked.contains(&format!("{prefix}config.txt")));
    }
}

#[test]
fn a_3b_misses_an_offer_that_comes_at_once_and_dies_in_the_end() {
    let mut world = whole(Chip::Three);
    world.offers_after = Some(Duration::from_millis(900));
    let (over, took) = boot(Chip::Three, &mut world, RomFaults::default());
    assert_eq!((over, world.discovers), (Some(Act::Halt(Halt::NoNetwork)), 5));
    assert_eq!(took, START + LINK + Duration::from_secs(25));
    assert_eq!(dhcp::discover(&board(Chip::Three), XID_THREE)[4..8], [0x26, 0xf3, 0x03, 0x39]);
}

#[test]
fn a_4_without_an_answer_tries_again_and_gives_up() {
    let mut world = whole(Chip::Four);
    world.offers_after = None;
    let (over, took) = boot(Chip::Four, &mut world, RomFaults::default());
    assert_eq!(over, Some(Act::Halt(Halt::NoNetwork)));
    // Four rounds of 45 s, three pauses between them.
    assert_eq!(took, START + LINK * 4 + DHCP_IN_ALL * 4 + PAUSE * 3);
    assert_eq!(world.discovers, 4 * 12);
    assert!(world.said.contains("Retry NETWORK 3 max 3"), "{}", world.said);
}

#[test]
fn without_its_firmware_a_board_looks_at_the_root() {
    let mut world = whole(Chip::Four);
    world.files.remove("9ffefdef/start4.elf");
    let (over, _) = boot(Chip::Four, &mut world, RomFaults::default());
    assert_eq!(over, Some(Act::Halt(Halt::NotBootable("Firmware not found"))));
    assert!(world.asked.contains(&"start4.elf".to_owned()), "{:?}", world.asked);
    let mut world = whole(Chip::Four);
    world.files.insert("9ffefdef/bcm2711-rpi-4-b.dtb".to_owned(), b"no tree".to_vec());
    let (over, _) = boot(Chip::Four, &mut world, RomFaults::default());
    assert!(matches!(over, Some(Act::Halt(Halt::NotBootable(_)))), "{over:?}");
    for (chip, file, words) in [
        (Chip::Four, "9ffefdef/vmlinuz", "Kernel or device-tree not found"),
        (Chip::Four, "9ffefdef/bcm2711-rpi-4-b.dtb", "Kernel or device-tree not found"),
        (Chip::Five, "9ffefdef/config.txt", "not bootable"),
    ] {
        let mut world = whole(chip);
        world.files.remove(file);
        let (over, _) = boot(chip, &mut world, RomFaults::default());
        assert!(matches!(over, Some(Act::Halt(Halt::NotBootable(_)))), "{over:?}");
        assert!(world.said.contains(words), "{}", world.said);
    }
}

#[test]
fn faults_do_what_they_say() {
    let at = |name: &str| Some(name.to_owned());
    let mut world = whole(Chip::Four);
    let (over, _) = boot(Chip::Four, &mut world, RomFaults { no_link: true, ..RomFaults::default() });
    assert_eq!((over, world.discovers), (None, 0));

    let mut world = whole(Chip::Four);
    let deaf_for = Duration::from_secs(30);
    let (over, took) = boot(Chip::Four, &mut world, RomFaults { deaf_for, ..RomFaults::default() });
    assert!(matches!(over, Some(Act::Start(_))) && took > deaf_for && world.discovers == 1, "{over:?}");
    let mut world = whole(Chip::Three);
    let (over, _) = boot(Chip::Three, &mut world, RomFaults { deaf_for, ..RomFaults::default() });
    assert_eq!(over, Some(Act::Halt(Halt::NoNetwork)), "a 3B gives up before the port forwards");

    let mut world = whole(Chip::Five);
    let (over, _) =
        boot(Chip::Five, &mut world, RomFaults { stalls_at: at("vmlinuz"), ..RomFaults::default() });
    assert_eq!(over, Some(Act::Halt(Halt::Stalled("vmlinuz".to_owned()))));
    assert_eq!(world.asked.last().unwrap(), "9ffefdef//vmlinuz");

    let mut world = whole(Chip::Four);
    let (over, _) = boot(Chip::Four, &mut world, RomFaults { loses: 5, ..RomFaults::default() });
    let Some(Act::Start(loaded)) = over else { panic!("{over:?}") };
    assert_eq!(loaded.file(Role::Kernel).unwrap().bytes, [7; 100_000]);

    let mut world = whole(Chip::Four);
    let (over, _) =
        boot(Chip::Four, &mut world, RomFaults { corrupts: at("initrd.img"), ..RomFaults::default() });
    let Some(Act::Start(loaded)) = over else { panic!("{over:?}") };
    assert_ne!(loaded.file(Role::Initramfs).unwrap().bytes, [8; 1468 * 3]);
    assert_eq!(loaded.file(Role::Kernel).unwrap().bytes, [7; 100_000]);
}
