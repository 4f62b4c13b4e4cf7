//! The chip of the header among the machine's GPIO chips.

use super::GpioError;
use gpiocdev_uapi::v2::{ChipInfo, Errno, Error, get_chip_info};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What the header's chip calls itself: Pi 0 to 3, Pi 4, Pi 5. Their numbers change with the kernel's mood.
const LABELS: [&str; 3] = ["pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1"];
/// How device files of chips begin.
const PREFIX: &str = "gpiochip";

/// A chip, open.
pub(super) struct Chip {
    pub(super) file: File,
    /// What the kernel calls it, for example `gpiochip0`.
    pub(super) name: String,
}

/// The kernel's errors in the standard library's terms.
pub(super) fn io_error(error: Error) -> io::Error {
    match error {
        Error::Os(Errno(number)) => io::Error::from_raw_os_error(number),
        error => io::Error::other(error),
    }
}

/// Opens the header's chip: the one that is wanted by name, path or label, or whichever it is.
pub(super) fn open(wanted: Option<&str>) -> Result<Chip, GpioError> {
    let paths = match wanted {
        Some(path) if path.starts_with('/') => vec![PathBuf::from(path)],
        _ => all()?,
    };
    for path in paths {
        let opened = File::open(&path).and_then(|file| Ok((get_chip_info(&file).map_err(io_error)?, file)));
        let (ChipInfo { name, label, .. }, file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(GpioError::Open { path, source }),
        };
        let [name, label] = [name, label].map(|text| text.as_os_str().to_string_lossy().into_owned());
        let known = LABELS.contains(&label.as_str());
        match wanted {
            None if known => return Ok(Chip { file, name }),
            None => {}
            Some(wanted) if wanted.starts_with('/') || [&name, &label].iter().any(|text| *text == wanted) => {
                return if known { Ok(Chip { file, name }) } else { Err(GpioError::Foreign { path, label }) };
            }
            Some(_) => {}
        }
    }
    Err(GpioError::NoChip { wanted: wanted.map(str::to_owned) })
}

fn all() -> Result<Vec<PathBuf>, GpioError> {
    let dir = Path::new("/dev");
    let error = |source| GpioError::Open { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.strip_prefix(PREFIX).is_some_and(|number| number.parse::<u32>().is_ok()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
