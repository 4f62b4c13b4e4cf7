//! Which files a board asks for, in which order.
//!
//! Sources: a 3B's log of tftpd (PexMor/raspi-netboot); for a 4 raspberrypi/rpi-eeprom 74, 87, 417 and raspberrypi/firmware
//! 1605; for a 5 raspberrypi/rpi-eeprom 687.

use super::Chip;
use super::config_txt::Config;
use super::tftp::Asks;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Firmware, or what is only looked for.
    Other,
    /// `config.txt`.
    Config,
    /// The kernel's arguments.
    Cmdline,
    /// The kernel.
    Kernel,
    /// The initramfs.
    Initramfs,
    /// The device tree.
    DeviceTree,
}

/// What becomes of the boot when a file is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It goes on.
    Fine,
    /// Everything is looked for at the root instead, once; then it ends, with these words.
    TryRoot(&'static str),
    /// It ends, with these words.
    Fatal(&'static str),
}

/// A file that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Its name below the prefix.
    pub name: String,
    /// Whether the name is asked for as it is.
    pub at_root: bool,
    /// Whether it is only looked for.
    pub probe: bool,
    /// What for.
    pub role: Role,
    /// What becomes of the boot without it.
    pub missing: Missing,
    /// How it is asked for.
    pub asks: Asks,
}

/// What the firmware says when there is nothing to boot.
const NO_FIRMWARE: &str = "Firmware not found";
pub(super) const NO_KERNEL: &str = "Kernel or device-tree not found or is not compatible";
const NO_CONFIG: &str = "config.txt not found: not bootable";

/// Blocks of `bootcode.bin` and `start.elf`.
const BLOCKS_THREE: u16 = 1024;
/// Blocks of EEPROMs since October 2022.
const BLOCKS_LATER: u16 = 1468;

impl Want {
    fn new(chip: Chip, name: impl Into<String>, probe: bool) -> Self {
        let size = if chip == Chip::Three { BLOCKS_THREE } else { BLOCKS_LATER };
        let asks = Asks::ForBlocks(size);
        let (role, missing) = (Role::Other, Missing::Fine);
        Self { name: name.into(), at_root: false, probe, role, missing, asks }
    }

    fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    fn or(self, missing: Missing) -> Self {
        Self { missing, ..self }
    }

    fn plainly(self) -> Self {
        Self { at_root: true, asks: Asks::Plainly, ..self }
    }
}

/// What is asked for before the firmware runs, or, on a Pi 5, before its settings are known.
pub fn first(chip: Chip) -> Vec<Want> {
    let load = |name: &str| Want::new(chip, name, false);
    let probe = |name: &str| Want::new(chip, name, true);
    match chip {
        Chip::Three => vec![
            load("bootcode.bin").plainly().or(Missing::Fatal("bootcode.bin not found")),
            probe("bootsig.bin").plainly(),
            probe("start.elf"),
            probe("autoboot.txt"),
            load("config.txt").role(Role::Config),
            probe("recovery.elf"),
            load("start.elf").or(Missing::TryRoot(NO_FIRMWARE)),
            load("fixup.dat"),
        ],
        Chip::Four | Chip::FourModule => vec![
            load("config.txt").role(Role::Config),
            probe("pieeprom.sig"),
            probe("recover4.elf"),
            probe("recovery.elf"),
            load("start4.elf").or(Missing::TryRoot(NO_FIRMWARE)),
            load("fixup4.dat"),
        ],
        Chip::Five => {
            vec![load("config.txt").role(Role::Config).or(Missing::Fatal(NO_CONFIG)), probe("pieeprom.sig")]
        }
    }
}

/// What is asked for then, as `config.txt` has it.
pub fn second(chip: Chip, config: &Config) -> Vec<Want> {
    let of_os = |name: &str| format!("{}{name}", config.os_prefix);
    let load = |name: String| Want::new(chip, name, false);
    let probe = |name: &str| Want::new(chip, name, true);
    let settings = || load("config.txt".to_owned()).role(Role::Config);
    let fatal = Missing::Fatal(NO_KERNEL);
    let kernel = load(of_os(&config.kernel_of(chip))).role(Role::Kernel).or(fatal);
    let initramfs = config.initramfs.as_ref().map(|name| load(of_os(name)).role(Role::Initramfs).or(fatal));
    let tree = config.device_tree_of(chip).map(|name| load(of_os(&name)).role(Role::DeviceTree).or(fatal));
    let arguments = load(of_os(&config.cmdline)).role(Role::Cmdline);
    let map = probe(&of_os("overlays/overlay_map.dtb"));
    let overlays = || config.overlays.iter().map(|name| load(of_os(&format!("overlays/{name}.dtbo"))));
    let mut wants = Vec::new();
    match chip {
        Chip::Three => {
            wants.extend([
                probe("recovery.elf"),
                settings(),
                probe("dt-blob.bin"),
                probe("recovery.elf"),
                settings(),
            ]);
            wants.push(probe("bootcfg.txt"));
            wants.extend(tree);
            wants.extend([map, settings()]);
            wants.extend(overlays());
            wants.extend([arguments, kernel]);
            wants.extend(initramfs);
            wants.push(probe("armstub8.bin"));
        }
        Chip::Four | Chip::FourModule => {
            wants.extend([
                settings(),
                probe("dt-blob.bin"),
                probe("recovery.elf"),
                settings(),
                probe("bootcfg.txt"),
            ]);
            wants.extend(initramfs);
            wants.extend(tree);
            wants.extend([map, settings()]);
            wants.extend(overlays());
            wants.extend([arguments, probe("armstub8-gic.bin"), kernel]);
        }
        Chip::Five => {
            wants.extend(tree);
            wants.extend([map, settings()]);
            wants.extend(overlays());
            wants.push(arguments);
            wants.extend(initramfs);
            wants.extend([kernel, probe("armstub8-2712.bin"), probe("hat_map.dtb")]);
        }
    }
    wants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wants: &[Want]) -> Vec<&str> {
        wants.iter().map(|want| want.name.as_str()).collect()
    }

    #[test]
    fn each_generation_has_its_order() {
        let config = |chip, text: &str| Config::read(chip, text.as_bytes());
        let three = first(Chip::Three);
        assert_eq!(names(&three)[..3], ["bootcode.bin", "bootsig.bin", "start.elf"]);
        assert_eq!((three[0].asks, three[0].at_root, three[2].at_root), (Asks::Plainly, true, false));
        let text = "kernel=k\ninitramfs i followkernel\nos_prefix=os/\ndtoverlay=x\n";
        let four = second(Chip::Four, &config(Chip::Four, text));
        let expected = [
            "config.txt",
            "dt-blob.bin",
            "recovery.elf",
            "config.txt",
            "bootcfg.txt",
            "os/i",
            "os/bcm2711-rpi-4-b.dtb",
            "os/overlays/overlay_map.dtb",
            "config.txt",
            "os/overlays/x.dtbo",
            "os/cmdline.txt",
            "armstub8-gic.bin",
            "os/k",
        ];
        assert_eq!(names(&four), expected);
        let five = second(Chip::Five, &config(Chip::Five, "kernel=k\ninitramfs i\n"));
        let expected = [
            "bcm2712-rpi-5-b.dtb",
            "overlays/overlay_map.dtb",
            "config.txt",
            "cmdline.txt",
            "i",
            "k",
            "armstub8-2712.bin",
            "hat_map.dtb",
        ];
        assert_eq!(names(&five), expected);
        let loads =
            |wants: &[Want]| wants.iter().filter(|want| want.role == Role::Kernel && !want.probe).count();
        assert_eq!((loads(&four), loads(&five)), (1, 1));
    }
}
