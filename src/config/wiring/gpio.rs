//! `power` of a device behind a relay on a pin.

use super::Wrong;
use crate::model::relay::{Contact, GpioDriver, GpioPin, MAX_PIN, OnCrash, Relay};
use crate::model::wiring::{GpioSwitch, PowerSwitch};
use serde::Deserialize;
use std::fs;

/// The longest name of a chip: what the kernel has room for (`GPIO_MAX_NAME_SIZE` in linux/gpio.h), and a directory.
const MAX_CHIP: usize = 64;

/// Each must be given: a guess about hardware is a device that is on when it should be off.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGpio {
    chip: Option<String>,
    pin: u8,
    active_low: bool,
    contact: RawContact,
    on_crash: RawOnCrash,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawContact {
    No,
    Nc,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawOnCrash {
    Holds,
    Releases,
}

/// The kernel's setting for what happens to an output whose line nobody holds any more: of the Pi 5's chip, or of the
/// others'. Debian's kernels before 6.10 have none, and release.
const KEEPS_RP1: &str = "/sys/module/pinctrl_rp1/parameters/persist_gpio_outputs";
const KEEPS_BCM: &str = "/sys/module/pinctrl_bcm2835/parameters/persist_gpio_outputs";

/// What this machine's kernel says of outputs whose line nobody holds any more: where it says it, and what.
pub fn kernel_says() -> (&'static str, Option<String>) {
    // The list of what the machine is compatible with, each ended by a zero byte. The Pi 5's chip is BCM2712.
    let compatible = fs::read("/proc/device-tree/compatible").unwrap_or_default();
    let is_rp1 = compatible.split(|byte| *byte == 0).any(|name| name == b"brcm,bcm2712");
    let path = if is_rp1 { KEEPS_RP1 } else { KEEPS_BCM };
    (path, fs::read_to_string(path).ok().map(|text| text.trim().to_owned()))
}

/// Whether this machine's kernel keeps an output as it is when nobody holds its line any more.
pub fn kernel_keeps() -> bool {
    kernel_says().1.as_deref() == Some("Y")
}

/// Checks a relay. `keeps`: whether the kernel keeps an output as it is when nobody holds its line any more.
pub(super) fn check(driver: GpioDriver, raw: RawGpio, keeps: bool) -> Result<PowerSwitch, Wrong> {
    let RawGpio { chip, pin, active_low, contact, on_crash } = raw;
    if pin > MAX_PIN {
        let cause = format!(
            "{pin} is no pin of the header: give the BCM number, 0 to {MAX_PIN}, and not the place on the header"
        );
        return Err((".pin", cause));
    }
    match (&chip, driver) {
        (Some(_), GpioDriver::Rppal) => {
            return Err((".chip", format!("{driver} knows the header's chip only: leave it out")));
        }
        (Some(chip), GpioDriver::Cdev) if chip.is_empty() || chip.len() > MAX_CHIP => {
            return Err((".chip", format!("{chip:?} is no name of a chip")));
        }
        _ => {}
    }
    let needed = match on_crash {
        RawOnCrash::Holds => OnCrash::Holds,
        RawOnCrash::Releases => OnCrash::Releases,
    };
    let real = driver.on_crash(keeps);
    if needed != real {
        return Err((".on_crash", mismatch(driver, needed, real, keeps)));
    }
    let contact = match contact {
        RawContact::No => Contact::NormallyOpen,
        RawContact::Nc => Contact::NormallyClosed,
    };
    let (pin, relay) = (GpioPin { driver, chip, number: pin }, Relay { active_low, contact });
    Ok(PowerSwitch::Gpio(GpioSwitch { pin, relay }))
}

/// Why a driver does not do what the wiring needs, and what to do.
fn mismatch(driver: GpioDriver, needed: OnCrash, real: OnCrash, keeps: bool) -> String {
    let why = match driver {
        GpioDriver::Rppal => {
            "the registers stay as they were when the coordinator dies; use gpio-cdev, where the kernel releases lines"
        }
        GpioDriver::Cdev if keeps => {
            "this machine's kernel keeps outputs (persist_gpio_outputs=Y); put \"dtparam=strict_gpiod\" into config.txt, \
             or write \"holds\""
        }
        GpioDriver::Cdev => {
            "this machine's kernel makes an input of a line that nobody holds; use gpio-rppal, or write \"releases\""
        }
    };
    format!("the wiring needs a pin that \"{needed}\", and {driver} \"{real}\" it: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(driver: GpioDriver, text: &str, keeps: bool) -> Result<PowerSwitch, String> {
        let raw = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        check(driver, raw, keeps).map_err(|(key, cause)| format!("{key}: {cause}"))
    }

    fn relay(rest: &str) -> String {
        format!("pin = 17\nactive_low = false\ncontact = \"no\"\n{rest}")
    }

    #[test]
    fn a_relay_is_what_the_file_says() {
        let text = "chip = \"pinctrl-bcm2711\"\npin = 5\nactive_low = true\ncontact = \"nc\"\non_crash = \"releases\"";
        let expected = GpioSwitch {
            pin: GpioPin { driver: GpioDriver::Cdev, chip: Some("pinctrl-bcm2711".to_owned()), number: 5 },
            relay: Relay { active_low: true, contact: Contact::NormallyClosed },
        };
        assert_eq!(checked(GpioDriver::Cdev, text, false), Ok(PowerSwitch::Gpio(expected)));
    }

    #[test]
    fn a_driver_that_does_not_do_what_the_wiring_needs_is_refused() {
        use GpioDriver::{Cdev, Rppal};
        let table = [
            (Rppal, "holds", false, None),
            (Rppal, "holds", true, None),
            (Rppal, "releases", false, Some("and gpio-rppal \"holds\" it: the registers stay")),
            (Cdev, "releases", false, None),
            (Cdev, "holds", true, None),
            (
                Cdev,
                "holds",
                false,
                Some("and gpio-cdev \"releases\" it: this machine's kernel makes an input"),
            ),
            (Cdev, "releases", true, Some("and gpio-cdev \"holds\" it: this machine's kernel keeps outputs")),
        ];
        for (driver, needed, keeps, refused) in table {
            let checked = checked(driver, &relay(&format!("on_crash = \"{needed}\"")), keeps);
            match (checked, refused) {
                (Ok(_), None) => {}
                (Err(error), Some(cause)) => {
                    let begin = format!(".on_crash: the wiring needs a pin that \"{needed}\", ");
                    assert!(error.starts_with(&begin) && error.contains(cause), "{error}");
                }
                (checked, _) => panic!("{driver} {needed} {keeps}: {checked:?}"),
            }
        }
    }

    #[test]
    fn nothing_about_a_relay_is_guessed() {
        let whole = relay("on_crash = \"holds\"");
        for missing in ["pin", "active_low", "contact", "on_crash"] {
            let text: Vec<_> = whole.lines().filter(|line| !line.starts_with(missing)).collect();
            let error = checked(GpioDriver::Rppal, &text.join("\n"), false).unwrap_err();
            assert_eq!(error, format!("missing field `{missing}`"));
        }
        let table = [
            (whole.replace("17", "28"), ".pin: 28 is no pin of the header"),
            (whole.replace("\"no\"", "\"open\""), "unknown variant `open`, expected `no` or `nc`"),
            (format!("{whole}\nchip = \"gpiochip0\""), ".chip: gpio-rppal knows the header's chip only"),
            (format!("{whole}\npull = \"up\""), "unknown field `pull`"),
        ];
        for (text, expected) in table {
            let error = checked(GpioDriver::Rppal, &text, false).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let long = format!("{}\nchip = \"{}\"", relay("on_crash = \"releases\""), "x".repeat(65));
        assert!(checked(GpioDriver::Cdev, &long, false).unwrap_err().contains("is no name of a chip"));
    }
}
