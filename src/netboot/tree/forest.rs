//! All trees: who may have which file.

use super::super::mac::Mac;
use super::super::tftp::content::Refusal;
use super::super::tftp::path::BootPath;
use super::{BootTree, Source};
use crate::model::id::DeviceId;
use std::collections::HashMap;
use std::net::IpAddr;

/// A device whose files are asked for here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// Which.
    pub device: DeviceId,
    /// Its network card: a prefix of its paths, and how it is known on the wire.
    pub mac: Mac,
    /// The low 32 bits of its serial number, where they are known: the other prefix.
    pub serial: Option<u32>,
    /// The address that our DHCP server lends it; none beside another server.
    pub address: Option<IpAddr>,
}

/// All devices of a lab, and what each boots now.
#[derive(Debug, Default)]
pub struct Forest {
    residents: Vec<Resident>,
    /// By prefix, the number of its resident.
    prefixes: HashMap<String, usize>,
    trees: HashMap<DeviceId, BootTree>,
}

impl Forest {
    /// No device boots anything yet.
    pub fn new(residents: Vec<Resident>) -> Self {
        let mut prefixes = HashMap::new();
        for (number, resident) in residents.iter().enumerate() {
            prefixes.insert(resident.mac.hyphenated(), number);
            prefixes.extend(resident.serial.map(|serial| (format!("{serial:08x}"), number)));
        }
        Self { residents, prefixes, trees: HashMap::new() }
    }

    /// From now on the device boots this.
    pub fn plant(&mut self, device: DeviceId, tree: BootTree) {
        self.trees.insert(device, tree);
    }

    /// From now on the device boots nothing.
    pub fn fell(&mut self, device: &DeviceId) {
        self.trees.remove(device);
    }

    /// The file for `path`, asked for from `address`, which belongs to the network card `mac` as far as this host
    /// knows.
    ///
    /// Who asks is known by the address that we lent, else by the card. When neither is known the prefix decides: what
    /// is secret in a tree, the boot ticket, is good only for its device's card.
    pub fn find(&self, address: IpAddr, mac: Option<Mac>, path: &BootPath) -> Result<&Source, Refusal> {
        let by_address = self.residents.iter().find(|resident| resident.address == Some(address));
        let by_card = || self.residents.iter().find(|resident| mac == Some(resident.mac));
        let who = by_address.or_else(by_card);
        if who.is_none() && mac.is_some() {
            return Err(Refusal::Forbidden("whoever asks is not in the lab file".to_owned()));
        }
        let Some((prefix, rest)) = path.split_first() else {
            return self.at_the_root(who, path.as_str());
        };
        let owner = self.prefixes.get(prefix).and_then(|number| self.residents.get(*number));
        let owner = owner.ok_or(Refusal::NotFound)?;
        if let Some(who) = who.filter(|who| who.device != owner.device) {
            return Err(Refusal::Forbidden(format!("{} asks for a file of {}", who.device, owner.device)));
        }
        let tree = self.trees.get(&owner.device);
        let tree =
            tree.ok_or_else(|| Refusal::Forbidden(format!("{} is to boot nothing now", owner.device)))?;
        tree.get(rest).ok_or(Refusal::NotFound)
    }

    /// Whose network card that is.
    pub fn of_card(&self, mac: Mac) -> Option<&DeviceId> {
        self.residents.iter().find(|resident| resident.mac == mac).map(|resident| &resident.device)
    }

    /// Who asks from `address` for `path`, as [`Self::find`] knows them, and what of the path lies below the prefix. None
    /// for strangers.
    pub fn who<'a>(&self, address: IpAddr, mac: Option<Mac>, path: &'a str) -> Option<(&DeviceId, &'a str)> {
        let split = path.split_once('/');
        let owner = split.and_then(|(prefix, rest)| Some((*self.prefixes.get(prefix)?, rest)));
        let by_address = self.residents.iter().position(|resident| resident.address == Some(address));
        let by_card = || self.residents.iter().position(|resident| mac == Some(resident.mac));
        let by_path = || owner.filter(|_| mac.is_none()).map(|(number, _)| number);
        let who = by_address.or_else(by_card).or_else(by_path)?;
        // What is asked for of another is shown with whose it is.
        let shown = owner.filter(|(number, _)| *number == who).map_or(path, |(_, rest)| rest);
        self.residents.get(who).map(|resident| (&resident.device, shown))
    }

    /// `bootcode.bin`, for a Pi 3: its own, or, for one that is not known by its address yet, that of any. It is the
    /// same for all.
    fn at_the_root(&self, who: Option<&Resident>, name: &str) -> Result<&Source, Refusal> {
        if name != "bootcode.bin" {
            return Err(Refusal::NotFound);
        }
        let bootcode = match who {
            Some(who) => self.trees.get(&who.device).and_then(|tree| tree.bootcode.as_ref()),
            None => self.residents.iter().find_map(|resident| {
                self.trees.get(&resident.device).and_then(|tree| tree.bootcode.as_ref())
            }),
        };
        bootcode.ok_or(Refusal::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Firmware, TreeSpec};
    use super::*;
    use crate::netboot::board::Board;
    use proptest::prelude::*;

    const THREE: Mac = Mac([0xb8, 0x27, 0xeb, 0, 0, 3]);
    const FOUR: Mac = Mac([0xdc, 0xa6, 0x32, 0, 0, 4]);

    fn device(name: &str) -> DeviceId {
        DeviceId::new(format!("lab-{name}")).unwrap()
    }

    fn tree(board: Board, mark: &'static str) -> BootTree {
        let mut firmware = Firmware::default();
        for file in ["bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat"] {
            firmware.add(file, Source::Bytes(mark.into())).unwrap();
        }
        let (kernel, cmdline) = (None, Vec::new());
        TreeSpec { board, firmware, kernel, initramfs: None, device_tree: None, cmdline }.build().unwrap()
    }

    fn address(last: u8) -> IpAddr {
        [10, 1, 2, last].into()
    }

    fn forest() -> Forest {
        let resident = |name, mac, serial, last: u8| Resident {
            device: device(name),
            mac,
            serial: Some(serial),
            address: Some(address(last)),
        };
        let mut forest = Forest::new(vec![
            resident("three", THREE, 0x3333_3333, 3),
            resident("four", FOUR, 0x9ffe_fdef, 4),
        ]);
        forest.plant(device("three"), tree(Board::Pi3B, "three"));
        forest.plant(device("four"), tree(Board::Pi4B, "four"));
        forest
    }

    /// What somebody gets: the bytes, or the reason.
    fn ask(forest: &Forest, last: u8, mac: Option<Mac>, path: &str) -> String {
        match forest.find(address(last), mac, &BootPath::parse(path.as_bytes()).unwrap()) {
            Ok(Source::Bytes(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => refusal.to_string(),
        }
    }

    const NOT_FOUND: &str = "there is no such file";

    #[test]
    fn a_device_finds_its_files_under_its_serial_number_and_its_mac_address() {
        let forest = forest();
        for (last, mac) in [(4, None), (4, Some(FOUR)), (99, Some(FOUR)), (99, None)] {
            for path in ["9ffefdef/start4.elf", "9ffefdef//start4.elf", "dc-a6-32-00-00-04/start4.elf"] {
                assert_eq!(ask(&forest, last, mac, path), "four", "{path}");
            }
        }
        for path in
            ["9FFEFDEF/start4.elf", "9ffefdef/START4.ELF", "00000000/start4.elf", "9ffefdef/pieeprom.sig"]
        {
            assert_eq!(ask(&forest, 4, Some(FOUR), path), NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn nothing_lies_at_the_root_but_the_bootcode_of_a_pi_3() {
        let forest = forest();
        assert_eq!(ask(&forest, 3, None, "bootcode.bin"), "three");
        assert_eq!(ask(&forest, 99, None, "bootcode.bin"), "three", "not known yet");
        assert_eq!(ask(&forest, 4, None, "bootcode.bin"), NOT_FOUND, "a Pi 4 asks for none");
        for path in ["start.elf", "start4.elf", "config.txt", "cmdline.txt", "bootsig.bin", "vmlinuz"] {
            assert_eq!(ask(&forest, 3, Some(THREE), path), NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn another_s_files_are_refused_by_name_and_so_are_strangers() {
        let mut forest = forest();
        let wanted = "lab-three asks for a file of lab-four";
        assert_eq!(ask(&forest, 3, None, "9ffefdef/start4.elf"), wanted);
        assert_eq!(ask(&forest, 99, Some(THREE), "dc-a6-32-00-00-04/config.txt"), wanted);
        let stranger = Some(Mac([2, 0, 0, 0, 0, 9]));
        assert_eq!(ask(&forest, 99, stranger, "9ffefdef/start4.elf"), "whoever asks is not in the lab file");
        assert_eq!(ask(&forest, 99, stranger, "bootcode.bin"), "whoever asks is not in the lab file");
        forest.fell(&device("four"));
        assert_eq!(ask(&forest, 4, None, "9ffefdef/start4.elf"), "lab-four is to boot nothing now");
    }

    #[test]
    fn whoever_asks_is_named_and_strangers_are_nobody() {
        let forest = forest();
        let who = |last, mac, path| {
            forest.who(address(last), mac, path).map(|(device, path)| format!("{device} {path}"))
        };
        assert_eq!(who(4, None, "9ffefdef/a/b").as_deref(), Some("lab-four a/b"));
        assert_eq!(who(99, Some(FOUR), "dc-a6-32-00-00-04/c").as_deref(), Some("lab-four c"));
        assert_eq!(who(99, None, "33333333/c").as_deref(), Some("lab-three c"), "the prefix decides");
        assert_eq!(who(3, None, "9ffefdef/c").as_deref(), Some("lab-three 9ffefdef/c"), "another's");
        assert_eq!(who(3, None, "bootcode.bin").as_deref(), Some("lab-three bootcode.bin"));
        assert_eq!(who(99, None, "bootcode.bin"), None);
        assert_eq!(who(99, Some(Mac([2; 6])), "9ffefdef/c"), None);
    }

    proptest! {
        #[test]
        fn no_path_leads_to_another_s_file(parts in prop::collection::vec(prop::sample::select(
            &["9ffefdef", "33333333", "dc-a6-32-00-00-04", "..", ".", "", "start4.elf", "start.elf", "bootcode.bin"][..]
        ), 1..5)) {
            let forest = forest();
            if let Ok(path) = BootPath::parse(parts.join("/").as_bytes()) {
                for (last, own) in [(3, "three"), (4, "four")] {
                    if let Ok(Source::Bytes(bytes)) = forest.find(address(last), None, &path) {
                        let made = bytes.starts_with(b"#") || bytes.starts_with(b"console=");
                        prop_assert!(made || &bytes[..] == own.as_bytes());
                    }
                }
            }
        }
    }
}
