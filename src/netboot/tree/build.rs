//! Makes the tree of a boot attempt.

use super::super::board::{Board, Generation};
use super::super::tftp::path::{BootPath, PathError};
use super::super::uki::StubError;
use super::{BootTree, Source};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The most files of a tree. Debian's `raspi-firmware` has some 300, most of them overlays.
const MAX_FILES: usize = 4000;
/// How deep a directory of files may be.
const MAX_DEPTH: usize = 8;
/// The most bytes of our kernel arguments. The kernel takes 2048 (`COMMAND_LINE_SIZE` of arm64), and the firmware
/// puts some of its own before ours.
const MAX_CMDLINE: usize = 1400;
/// Names that begin so are never served: a Pi that finds such a file rewrites its EEPROM or USB controller with it,
/// or boots a rescue system.
const NEVER: [&str; 4] = ["pieeprom.", "recovery", "recover4.", "vl805."];

/// The kernel's name in a tree; `firmware/pi/config-*.txt` have it too.
const KERNEL: &str = "vmlinuz";
/// The initramfs's name.
const INITRAMFS: &str = "initrd.img";
/// The name of a device tree that is not the firmware's own choice.
const DEVICE_TREE: &str = "device.dtb";
/// Device trees by the names that Raspberry Pi's firmware asks for, and those that the same have in Linux, and in Debian's
/// packages of it, where these differ (Linux, arch/arm64/boot/dts/broadcom; config.txt's `upstream_kernel`).
const DEVICE_TREES: [(&str, &str); 3] = [
    ("bcm2710-rpi-3-b.dtb", "bcm2837-rpi-3-b.dtb"),
    ("bcm2710-rpi-3-b-plus.dtb", "bcm2837-rpi-3-b-plus.dtb"),
    ("bcm2711-rpi-cm4.dtb", "bcm2711-rpi-cm4-io.dtb"),
];
const CONFIG: &str = "config.txt";
const CMDLINE: &str = "cmdline.txt";
/// What starts a kernel on UEFI, as systemd names it.
pub const UEFI_STUB: &str = "linuxaa64.efi.stub";
/// The one file at the root.
const BOOTCODE: &str = "bootcode.bin";

/// A tree cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A path is none.
    #[error("{path:?} cannot be a file's path in a boot tree")]
    Path {
        /// The path.
        path: String,
        /// Why.
        source: PathError,
    },
    /// A file that must never be served.
    #[error("{path} is never served: a Pi that finds it rewrites its EEPROM, or boots a rescue system")]
    Never {
        /// The path.
        path: String,
    },
    /// The firmware lacks what the board needs.
    #[error("a {board} needs the firmware file {file}")]
    Missing {
        /// The board.
        board: Board,
        /// The file.
        file: &'static str,
    },
    /// The kernel arguments are no line.
    #[error("the kernel argument {argument:?} has a byte that a line cannot have")]
    Argument {
        /// The argument.
        argument: String,
    },
    /// The kernel arguments are too many.
    #[error("the kernel arguments have {length} bytes, more than {MAX_CMDLINE}")]
    Cmdline {
        /// Their length.
        length: usize,
    },
    /// What starts a kernel on UEFI is not what it should be.
    #[error("{file} starts no kernel")]
    Stub {
        /// The file.
        file: &'static str,
        /// Why.
        source: StubError,
    },
    /// A file that goes into another cannot be read.
    #[error("cannot read {}", path.display())]
    Part {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory cannot be read.
    #[error("cannot read the boot files in {dir}")]
    Read {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory has too much in it.
    #[error("{dir} has more than {MAX_FILES} files, or is deeper than {MAX_DEPTH}")]
    TooMuch {
        /// The directory.
        dir: PathBuf,
    },
}

impl TreeError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { board: Board::UefiArm64, .. } => {
                Some("Debian's package systemd-boot-efi for arm64 has it; lab/firmware fetches it".to_owned())
            }
            Self::Missing { .. } => {
                Some("Debian's package raspi-firmware has it, in /usr/lib/raspi-firmware".to_owned())
            }
            Self::Never { path } => Some(format!("remove {path} from the files to boot")),
            _ => None,
        }
    }
}

/// Files by their paths, such as the firmware's, or a user's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firmware(pub(super) BTreeMap<String, Source>);

impl Firmware {
    /// Adds a file.
    pub fn add(&mut self, path: &str, source: Source) -> Result<(), TreeError> {
        let path = BootPath::parse(path.as_bytes())
            .map_err(|source| TreeError::Path { path: path.chars().take(100).collect(), source })?;
        if is_never(path.as_str()) {
            return Err(TreeError::Never { path: path.to_string() });
        }
        self.0.insert(path.to_string(), source);
        Ok(())
    }

    /// What a board needs and is not here, if anything.
    pub fn lacks(&self, board: Board) -> Option<&'static str> {
        needed(board).iter().find(|file| !self.0.contains_key(**file)).copied()
    }

    /// All files below a directory. What is never served is left out, and so is what leads out of it.
    pub fn read(dir: &Path) -> Result<Self, TreeError> {
        let failed = |source| TreeError::Read { dir: dir.to_owned(), source };
        let root = dir.canonicalize().map_err(failed)?;
        let mut firmware = Self::default();
        let mut dirs = vec![(root.clone(), String::new(), 0)];
        while let Some((at, prefix, depth)) = dirs.pop() {
            for entry in std::fs::read_dir(&at).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                // A link is followed, as long as it stays inside.
                let Ok(real) = entry.path().canonicalize() else { continue };
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if !real.starts_with(&root) || BootPath::parse(name.as_bytes()).is_err() || is_never(&name) {
                    continue;
                }
                if firmware.0.len() >= MAX_FILES || depth > MAX_DEPTH {
                    return Err(TreeError::TooMuch { dir: dir.to_owned() });
                }
                if real.is_dir() {
                    dirs.push((real, format!("{name}/"), depth + 1));
                } else if real.is_file() {
                    firmware.0.insert(name, Source::File(real));
                }
            }
        }
        Ok(firmware)
    }
}

fn is_never(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    NEVER.iter().any(|start| name.starts_with(start))
}

/// What a device boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeSpec {
    /// What it is.
    pub board: Board,
    /// Firmware, device trees, overlays. A `config.txt` or `cmdline.txt` in it is taken as it is; otherwise they
    /// are made.
    pub firmware: Firmware,
    /// The kernel; none when it is among the files and a `config.txt` names it.
    pub kernel: Option<Source>,
    /// The initramfs.
    pub initramfs: Option<Source>,
    /// A device tree of one's own; none for the firmware's choice by board.
    pub device_tree: Option<Source>,
    /// Kernel arguments beside the console.
    pub cmdline: Vec<String>,
}

impl TreeSpec {
    /// Makes the tree.
    pub fn build(self) -> Result<BootTree, TreeError> {
        if self.board.generation() == Generation::Uefi {
            return self.build_uefi();
        }
        let Self { board, firmware, kernel, initramfs, device_tree, cmdline } = self;
        if let Some(file) = firmware.lacks(board) {
            return Err(TreeError::Missing { board, file });
        }
        let Firmware(mut files) = firmware;
        let has_device_tree = device_tree.is_some();
        for (name, source) in [(KERNEL, kernel), (INITRAMFS, initramfs), (DEVICE_TREE, device_tree)] {
            if let Some(source) = source {
                files.insert(name.to_owned(), source);
            }
        }
        for (asked, linux) in DEVICE_TREES {
            if let Some(source) = files.get(linux).filter(|_| !files.contains_key(asked)) {
                files.insert(asked.to_owned(), source.clone());
            }
        }
        if !files.contains_key(CONFIG) {
            let mut text = template(board).to_owned();
            if has_device_tree {
                text.push_str("device_tree=device.dtb\n");
            }
            files.insert(CONFIG.to_owned(), Source::Bytes(text.into()));
        }
        if !files.contains_key(CMDLINE) {
            let line = kernel_arguments(board, &cmdline)?;
            files.insert(CMDLINE.to_owned(), Source::Bytes(line.into()));
        }
        let bootcode = match board.generation() {
            Generation::Three => files.get(BOOTCODE).cloned(),
            Generation::Four | Generation::Five | Generation::Uefi => None,
        };
        Ok(BootTree { files, bootcode })
    }
}

/// The firmware without which a board does not come to its kernel.
fn needed(board: Board) -> &'static [&'static str] {
    match board.generation() {
        Generation::Three => &[BOOTCODE, "start.elf", "fixup.dat"],
        Generation::Four => &["start4.elf", "fixup4.dat"],
        // The EEPROM has it.
        Generation::Five => &[],
        Generation::Uefi => &[UEFI_STUB],
    }
}

fn template(board: Board) -> &'static str {
    match board.generation() {
        Generation::Three => include_str!("../../../firmware/pi/config-3.txt"),
        Generation::Four => include_str!("../../../firmware/pi/config-4.txt"),
        Generation::Five => include_str!("../../../firmware/pi/config-5.txt"),
        // It has none.
        Generation::Uefi => "",
    }
}

/// The serial console as Debian's kernels name it: the mini UART of the 3 and 4, the debug port of the 5, the PL011 of
/// machines with UEFI.
fn console(board: Board) -> &'static str {
    match board.generation() {
        Generation::Three | Generation::Four => "console=ttyS1,115200",
        Generation::Five => "console=ttyAMA10,115200",
        Generation::Uefi => "console=ttyAMA0,115200",
    }
}

pub(super) fn kernel_arguments(board: Board, arguments: &[String]) -> Result<String, TreeError> {
    if let Some(argument) =
        arguments.iter().find(|argument| argument.bytes().any(|byte| byte < b' ' || byte == 127))
    {
        return Err(TreeError::Argument { argument: argument.chars().take(100).collect() });
    }
    let words = std::iter::once(console(board)).chain(arguments.iter().map(String::as_str));
    let line = words.collect::<Vec<_>>().join(" ");
    if line.len() > MAX_CMDLINE {
        return Err(TreeError::Cmdline { length: line.len() });
    }
    Ok(line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(board: Board, files: &[&str]) -> TreeSpec {
        let mut firmware = Firmware::default();
        for file in files {
            firmware.add(file, Source::Bytes("x".into())).unwrap();
        }
        let kernel = Some(Source::File("/boot/vmlinuz".into()));
        let cmdline = vec!["pilab.ticket=abc".to_owned()];
        TreeSpec { board, firmware, kernel, initramfs: None, device_tree: None, cmdline }
    }

    fn text(tree: &BootTree, path: &str) -> String {
        match tree.get(path) {
            Some(Source::Bytes(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn each_generation_gets_its_console_and_its_config() {
        for (board, files, console) in [
            (Board::Pi3B, &["bootcode.bin", "start.elf", "fixup.dat"][..], "ttyS1"),
            (Board::Pi400, &["start4.elf", "fixup4.dat"], "ttyS1"),
            (Board::Cm5, &[], "ttyAMA10"),
        ] {
            let tree = spec(board, files).build().unwrap();
            assert_eq!(text(&tree, "cmdline.txt"), format!("console={console},115200 pilab.ticket=abc\n"));
            let config = text(&tree, "config.txt");
            assert!(config.contains("kernel=vmlinuz\ninitramfs initrd.img followkernel\n"), "{config}");
            assert!(config.len() < 4096, "more is cut off over TFTP: raspberrypi/firmware 1012");
            assert_eq!(tree.get("vmlinuz"), Some(&Source::File("/boot/vmlinuz".into())));
            assert_eq!(tree.bootcode.is_some(), board == Board::Pi3B);
        }
    }

    #[test]
    fn a_config_of_one_s_own_and_a_device_tree_of_one_s_own_are_taken() {
        let own = spec(Board::Pi5, &["config.txt", "cmdline.txt"]).build().unwrap();
        assert_eq!((text(&own, "config.txt").as_str(), text(&own, "cmdline.txt").as_str()), ("x", "x"));
        let mut with = spec(Board::Pi5, &[]);
        with.device_tree = Some(Source::Bytes("dtb".into()));
        let tree = with.build().unwrap();
        assert!(text(&tree, "config.txt").ends_with("device_tree=device.dtb\n"));
        assert_eq!(text(&tree, "device.dtb"), "dtb");
    }

    #[test]
    fn a_device_tree_of_linux_is_there_under_the_firmware_s_name_too() {
        let with = |names: &[&str]| {
            let mut spec = spec(Board::Pi3B, &["bootcode.bin", "start.elf", "fixup.dat"]);
            for name in names {
                spec.firmware.add(name, Source::Bytes((*name).to_owned().into())).unwrap();
            }
            spec.build().unwrap()
        };
        let tree = with(&["bcm2837-rpi-3-b.dtb"]);
        assert_eq!(text(&tree, "bcm2710-rpi-3-b.dtb"), "bcm2837-rpi-3-b.dtb");
        assert_eq!(tree.get("bcm2711-rpi-cm4.dtb"), None);
        let tree = with(&["bcm2710-rpi-3-b.dtb", "bcm2837-rpi-3-b.dtb"]);
        assert_eq!(text(&tree, "bcm2710-rpi-3-b.dtb"), "bcm2710-rpi-3-b.dtb");
    }

    #[test]
    fn what_cannot_boot_or_would_harm_the_board_is_refused() {
        let missing = spec(Board::Pi4B, &["start4.elf"]).build().unwrap_err();
        assert_eq!(missing.to_string(), "a pi4b needs the firmware file fixup4.dat");
        assert!(missing.hint().unwrap().contains("raspi-firmware"));
        let mut firmware = Firmware::default();
        for path in [
            "pieeprom.upd",
            "pieeprom.sig",
            "a/PIEEPROM.BIN",
            "recovery.bin",
            "recovery8.img",
            "recover4.elf",
            "vl805.bin",
        ] {
            let refused = firmware.add(path, Source::Bytes("x".into()));
            assert!(matches!(refused, Err(TreeError::Never { .. })), "{path}");
        }
        assert!(matches!(firmware.add("../x", Source::Bytes("x".into())), Err(TreeError::Path { .. })));
        let mut line = spec(Board::Pi5, &[]);
        line.cmdline = vec!["a\nb".to_owned()];
        assert!(matches!(line.clone().build(), Err(TreeError::Argument { .. })));
        line.cmdline = vec!["a".repeat(2000)];
        assert!(matches!(line.build(), Err(TreeError::Cmdline { length: 2024 })));
    }

    #[test]
    fn a_directory_gives_its_files_and_nothing_from_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::fs::create_dir(dir.path().join("overlays")).unwrap();
        for file in ["start4.elf", "overlays/a.dtbo", "pieeprom.sig", "recovery.bin", "a b"] {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("start4.elf"), dir.path().join("start.elf")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("overlays/loop")).unwrap();
        let read = Firmware::read(dir.path());
        assert!(matches!(read, Err(TreeError::TooMuch { .. })), "{read:?}");
        std::fs::remove_file(dir.path().join("overlays/loop")).unwrap();
        let Firmware(files) = Firmware::read(dir.path()).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["overlays/a.dtbo", "start.elf", "start4.elf"]);
        assert!(matches!(Firmware::read(&dir.path().join("nothing")), Err(TreeError::Read { .. })));
    }
}
