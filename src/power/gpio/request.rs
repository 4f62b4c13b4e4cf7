//! A line of the kernel's GPIO character device. Levels are the pin's own throughout: the kernel is never told what is
//! active.

use super::chip::{self, Chip, io_error};
use super::{CONSUMER, GpioError, store_name};
use crate::model::relay::{Level, PinState};
use crate::support::fdstore;
use gpiocdev_uapi::v2::{
    LineConfig, LineFlags, LineInfo, LineRequest, LineValues, Name, Offsets, get_line, get_line_info,
    get_line_values, set_line_config, set_line_values,
};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A line that is held. The kernel takes it back when its last copy is closed; one may be in the service manager's store.
pub(super) struct Request {
    pin: u8,
    file: File,
}

impl Request {
    /// Takes the line, at the level it has: from the store, or from the kernel.
    pub(super) fn take(wanted: Option<&str>, pin: u8) -> Result<Self, GpioError> {
        let (chip, name) = (chip::open(wanted)?, store_name(pin));
        if let Some(kept) = fdstore::take(&name) {
            if let Some(request) = Self::adopt(&chip, pin, kept)? {
                return Ok(request);
            }
            tracing::warn!(pin, "what the service manager kept for it is not its line: asking anew");
        }
        let info = line_info(&chip, pin)?;
        if info.flags.contains(LineFlags::USED) {
            return Err(GpioError::Busy { pin, by: text(&info.consumer) });
        }
        let request = Self::ask(&chip, pin)?;
        // An output whose level was that of an input: no edge.
        let level = request.level()?;
        let mut config = LineConfig { flags: LineFlags::OUTPUT, ..LineConfig::default() };
        config.add_values(&values(level));
        set_line_config(&request.file, config).map_err(|e| request.failed("make an output of", e))?;
        match fdstore::keep(&name, request.file.as_fd()) {
            Ok(true) => tracing::info!(pin, %level, "the service manager keeps its line"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(pin, %error, "the service manager cannot keep its line: a restart will release it");
            }
        }
        Ok(request)
    }

    /// A line that was kept, when it is this one and still an output.
    fn adopt(chip: &Chip, pin: u8, kept: OwnedFd) -> Result<Option<Self>, GpioError> {
        let info = line_info(chip, pin)?;
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", kept.as_raw_fd())).unwrap_or_default();
        let request = Self { pin, file: kept.into() };
        let is_ours = belongs(&told, &chip.name, pin)
            && info.flags.contains(LineFlags::USED | LineFlags::OUTPUT)
            && text(&info.consumer) == CONSUMER;
        Ok((is_ours && request.level().is_ok()).then_some(request))
    }

    /// Asks the kernel for the line and changes nothing of it.
    fn ask(chip: &Chip, pin: u8) -> Result<Self, GpioError> {
        let asked = LineRequest {
            offsets: Offsets::from_slice(&[pin.into()]),
            consumer: Name::from_bytes(CONSUMER.as_bytes()),
            num_lines: 1,
            ..LineRequest::default()
        };
        match get_line(&chip.file, asked) {
            Ok(file) => Ok(Self { pin, file }),
            Err(error) => Err(failed("take the line of", pin, error)),
        }
    }

    pub(super) fn set(&self, level: Level) -> Result<(), GpioError> {
        set_line_values(&self.file, &values(level)).map_err(|e| self.failed("drive", e))
    }

    pub(super) fn level(&self) -> Result<Level, GpioError> {
        let mut values = LineValues { bits: 0, mask: 1 };
        get_line_values(&self.file, &mut values).map_err(|e| self.failed("read the level of", e))?;
        Ok(Level::of(values.bits & 1 == 1))
    }

    fn failed(&self, doing: &'static str, error: gpiocdev_uapi::Error) -> GpioError {
        failed(doing, self.pin, error)
    }
}

/// Looks at a line. An input that nobody holds is taken for a moment, and let go as it was. An output that nobody holds is
/// not: the kernel may make an input of it then.
pub(super) fn look(wanted: Option<&str>, pin: u8) -> Result<PinState, GpioError> {
    let chip = chip::open(wanted)?;
    let info = line_info(&chip, pin)?;
    let used = info.flags.contains(LineFlags::USED);
    let output = info.flags.contains(LineFlags::OUTPUT);
    let level = if used || output { None } else { Some(Request::ask(&chip, pin)?.level()?) };
    Ok(PinState { output, level, user: used.then(|| text(&info.consumer)) })
}

/// Who has the line of a pin of the header; none when nobody has, or the kernel does not show.
pub(super) fn user(pin: u8) -> Option<String> {
    let info = line_info(&chip::open(None).ok()?, pin).ok()?;
    info.flags.contains(LineFlags::USED).then(|| text(&info.consumer))
}

fn line_info(chip: &Chip, pin: u8) -> Result<LineInfo, GpioError> {
    get_line_info(&chip.file, pin.into()).map_err(|e| failed("look at", pin, e))
}

fn failed(doing: &'static str, pin: u8, error: gpiocdev_uapi::Error) -> GpioError {
    GpioError::Call { doing, pin, source: io_error(error) }
}

fn values(level: Level) -> LineValues {
    LineValues { bits: (level == Level::High).into(), mask: 1 }
}

fn text(name: &Name) -> String {
    name.as_os_str().to_string_lossy().into_owned()
}

/// Whether an open file is this line, as far as the kernel tells (`/proc/self/fdinfo`, since Linux 5.17).
fn belongs(told: &str, chip: &str, pin: u8) -> bool {
    let is = |key: &str, wanted: &str| {
        let mut values = told.lines().filter_map(|line| line.strip_prefix(key));
        values.all(|value| value.trim() == wanted)
    };
    is("gpio-chip:", chip) && is("gpio-line:", &pin.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_what_the_kernel_says_of_it() {
        let told =
            "pos:\t0\nflags:\t02000000\nmnt_id:\t14\nino:\t1048\ngpio-chip:\tgpiochip0\ngpio-line:\t17\n";
        let table = [
            (told, "gpiochip0", 17, true),
            (told, "gpiochip0", 7, false),
            (told, "gpiochip1", 17, false),
            ("pos:\t0\n", "gpiochip0", 17, true),
        ];
        for (told, chip, pin, expected) in table {
            assert_eq!(belongs(told, chip, pin), expected, "{chip} {pin}");
        }
    }
}
