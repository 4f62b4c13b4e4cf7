//! `config.txt`, as far as it decides what is fetched and started.
//!
//! Source: raspberrypi/documentation, `config_txt/boot.adoc` and `conditional.adoc`.

use super::Chip;

/// The longest file that is read. Firmware reads 4096 bytes of one that comes by TFTP (raspberrypi/firmware 1012).
const MAX: usize = 4096;

/// What it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Before the names of kernel, initramfs, device tree, overlays and arguments.
    pub os_prefix: String,
    /// `kernel`.
    pub kernel: Option<String>,
    /// `initramfs`, or `ramfsfile`.
    pub initramfs: Option<String>,
    /// `device_tree`; an empty name is none at all.
    pub device_tree: Option<String>,
    /// `cmdline`.
    pub cmdline: String,
    /// `dtoverlay`, without parameters.
    pub overlays: Vec<String>,
    /// `arm_64bit`: all but the 3B take it for granted.
    pub is_64bit: bool,
    /// `enable_uart`.
    pub uart: bool,
    /// `uart_2ndstage`: the firmware of a 3 or 4 speaks on the line.
    pub firmware_speaks: bool,
}

impl Config {
    /// What a board does without a file.
    fn usual(chip: Chip) -> Self {
        Self {
            os_prefix: String::new(),
            kernel: None,
            initramfs: None,
            device_tree: None,
            cmdline: "cmdline.txt".to_owned(),
            overlays: Vec::new(),
            is_64bit: chip != Chip::Three,
            uart: chip == Chip::Five,
            firmware_speaks: false,
        }
    }

    /// Reads a file. What it does not know it leaves out, as the firmware does.
    pub fn read(chip: Chip, bytes: &[u8]) -> Self {
        let mut config = Self::usual(chip);
        let text = String::from_utf8_lossy(bytes.get(..MAX).unwrap_or(bytes));
        let mut applies = true;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(filter) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                applies = passes(chip, filter);
            } else if applies {
                config.take(line);
            }
        }
        config
    }

    fn take(&mut self, line: &str) {
        // The one command that is not `key=value`; where it is put is the firmware's business.
        if let Some(rest) = line.strip_prefix("initramfs ") {
            self.initramfs = rest.split_ascii_whitespace().next().map(str::to_owned);
            return;
        }
        let Some((key, value)) = line.split_once('=') else { return };
        let (key, value) = (key.trim(), value.trim());
        let is_set = value != "0";
        match key {
            "os_prefix" => self.os_prefix = value.to_owned(),
            "kernel" => self.kernel = Some(value.to_owned()),
            "ramfsfile" => self.initramfs = Some(value.to_owned()),
            "device_tree" => self.device_tree = Some(value.to_owned()),
            "cmdline" => self.cmdline = value.to_owned(),
            "arm_64bit" => self.is_64bit = is_set,
            "enable_uart" => self.uart = is_set,
            "uart_2ndstage" => self.firmware_speaks = is_set,
            "dtoverlay" => {
                let name = value.split([',', ':']).next().unwrap_or_default();
                if !name.is_empty() {
                    self.overlays.push(name.to_owned());
                }
            }
            _ => {}
        }
    }

    /// The kernel's name: the one given, else the first that the board would try.
    pub fn kernel_of(&self, chip: Chip) -> String {
        let usual = match (chip, self.is_64bit) {
            (Chip::Five, _) => "kernel_2712.img",
            (_, true) => "kernel8.img",
            (Chip::Three, false) => "kernel7.img",
            (_, false) => "kernel7l.img",
        };
        self.kernel.clone().unwrap_or_else(|| usual.to_owned())
    }

    /// The device tree's name; none where the file wants none.
    pub fn device_tree_of(&self, chip: Chip) -> Option<String> {
        match self.device_tree.as_deref() {
            Some("") => None,
            Some(name) => Some(name.to_owned()),
            None => Some(chip.device_tree().to_owned()),
        }
    }
}

/// Whether what follows a filter is for this board. What no board here can be (a display, a pin) does not pass.
fn passes(chip: Chip, filter: &str) -> bool {
    match filter {
        "all" => true,
        "pi3" => chip == Chip::Three,
        "pi4" => matches!(chip, Chip::Four | Chip::FourModule),
        "cm4" => chip == Chip::FourModule,
        "pi5" => chip == Chip::Five,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_templates_are_read_as_they_are_meant() {
        let three = Config::read(Chip::Three, include_bytes!("../../../firmware/pi/config-3.txt"));
        let four = Config::read(Chip::Four, include_bytes!("../../../firmware/pi/config-4.txt"));
        let five = Config::read(Chip::Five, include_bytes!("../../../firmware/pi/config-5.txt"));
        for (chip, config) in [(Chip::Three, &three), (Chip::Four, &four), (Chip::Five, &five)] {
            assert_eq!(config.kernel_of(chip), "vmlinuz");
            assert_eq!(config.initramfs.as_deref(), Some("initrd.img"));
            assert_eq!(config.device_tree_of(chip).as_deref(), Some(chip.device_tree()));
            assert_eq!((config.is_64bit, config.uart, config.cmdline.as_str()), (true, true, "cmdline.txt"));
        }
        assert!(four.firmware_speaks);
    }

    #[test]
    fn filters_choose_what_is_for_a_board() {
        let text = b"kernel=a\n[pi4]\nkernel=b\ndtoverlay=disable-bt\n[cm4]\nos_prefix=cm/\n[pi5]\r\nkernel=c\n\
                     [gpio4=1]\nkernel=d\n[all]\n# kernel=e\ndevice_tree=\ndtoverlay=vc4-kms-v3d,cma-256\narm_64bit=0\n";
        let read = |chip| Config::read(chip, text);
        let kernels =
            [Chip::Three, Chip::Four, Chip::FourModule, Chip::Five].map(|chip| read(chip).kernel_of(chip));
        assert_eq!(kernels, ["a", "b", "b", "c"]);
        assert_eq!(read(Chip::FourModule).os_prefix, "cm/");
        assert_eq!(read(Chip::Four).overlays, ["disable-bt", "vc4-kms-v3d"]);
        assert_eq!((read(Chip::Four).os_prefix.as_str(), read(Chip::Four).is_64bit), ("", false));
        assert_eq!(read(Chip::Four).device_tree_of(Chip::Four), None);
    }

    #[test]
    fn without_a_file_a_board_has_its_own_names() {
        for (chip, kernel) in
            [(Chip::Three, "kernel7.img"), (Chip::Four, "kernel8.img"), (Chip::Five, "kernel_2712.img")]
        {
            let config = Config::read(chip, b"\xff\xfe\0[pi4\nkernel\n=\n");
            assert_eq!((config.kernel_of(chip), config.initramfs), (kernel.to_owned(), None));
        }
    }
}
