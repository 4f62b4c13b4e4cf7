//! Whether a second coordinator can stand by for a lab: only where it can do all that the first one does, from another machine.

use super::lab::Lab;
use crate::model::id::DeviceId;
use crate::model::wiring::{ConsoleLine, PowerSwitch};

/// Why nobody can stand by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StandbyError {
    /// The lab's NATS server is its coordinator's child.
    #[error("lab {lab} has a NATS server of its coordinator's own, which ends with it")]
    OwnServer {
        /// The lab.
        lab: String,
    },
    /// A device is a machine of the coordinator's host.
    #[error("{device} exists on its coordinator's machine only")]
    Pool {
        /// The device.
        device: DeviceId,
    },
    /// The lab's DHCP and TFTP servers are its coordinator's, and so is a virtual rack.
    #[error("{device} boots from its coordinator's machine")]
    Netboot {
        /// The device.
        device: DeviceId,
    },
    /// The key that opens a device lies on the coordinator's machine, and so does its host key.
    #[error("the lab logs in to {device} with a key of its coordinator's machine")]
    Card {
        /// The device.
        device: DeviceId,
    },
    /// A relay hangs on the coordinator's own pins.
    #[error("the relay of {device} is on {pin} of its coordinator's machine")]
    Pin {
        /// The device.
        device: DeviceId,
        /// The pin.
        pin: String,
    },
    /// A console's line ends in the coordinator's machine.
    #[error("the console of {device} ends in its coordinator's machine: {line}")]
    Line {
        /// The device.
        device: DeviceId,
        /// The line.
        line: String,
    },
}

impl StandbyError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::OwnServer { .. } => "give the lab the site's servers: [nats] urls in the lab file",
            Self::Pool { .. } => "a lab with somebody to stand by has real devices only: leave its pools out",
            Self::Netboot { .. } => {
                "boards that boot from the lab have one coordinator: leave out boot = \"netboot\""
            }
            Self::Card { .. } => "devices with `ssh` have one coordinator: leave it out",
            Self::Pin { .. } => {
                "use a switch that is reached over the network: driver \"http\" or \"command\""
            }
            Self::Line { .. } => "lead it over the network: ser2net, and console = { tcp = \"host:port\" }",
        }
    }
}

/// Refuses a lab of which a part is out of another machine's reach. What a program of the driver `command` reaches is its
/// owner's to know.
pub fn check(lab: &Lab) -> Result<(), StandbyError> {
    if lab.nats.is_none() {
        return Err(StandbyError::OwnServer { lab: lab.name.to_string() });
    }
    let pools = lab.devices.iter().map(|machine| &machine.device).chain(&lab.containers);
    if let Some(device) = pools.into_iter().next() {
        return Err(StandbyError::Pool { device: device.id.clone() });
    }
    for wired in &lab.wired {
        let device = wired.device.id.clone();
        if wired.netboot.is_some() || wired.simulation.is_some() {
            return Err(StandbyError::Netboot { device });
        }
        if wired.card.is_some() {
            return Err(StandbyError::Card { device });
        }
        if let PowerSwitch::Gpio(gpio) = &wired.power {
            return Err(StandbyError::Pin { device, pin: gpio.pin.to_string() });
        }
        match &wired.console {
            Some(line @ (ConsoleLine::Tty { .. } | ConsoleLine::Unix { .. })) => {
                return Err(StandbyError::Line { device, line: line.to_string() });
            }
            Some(ConsoleLine::Tcp { .. }) | None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        std::fs::write(&path, format!("name = \"l\"\n{text}")).unwrap();
        let lab = super::super::lab::load(&path, None, None).unwrap();
        check(&lab).map_or_else(|error| error.to_string(), |()| "fits".to_owned())
    }

    #[test]
    fn what_another_machine_cannot_reach_is_refused_with_the_reason() {
        let nats = "[nats]\nurls = [\"nats://a\"]\nkeys = \"k\"\n";
        let board = "[[devices]]\nid = \"a\"\nmodel = \"pi4b\"\n";
        let table = [
            (board.to_owned(), "lab l has a NATS server of its coordinator's own"),
            (
                format!("{nats}[[pools]]\nname = \"c\"\nbackend = \"container\"\ncount = 1\n"),
                "l-c-1 exists on",
            ),
            (
                format!(
                    "{nats}{board}power = {{ driver = \"gpio-rppal\", pin = 17, active_low = true, contact = \"nc\", on_crash = \"holds\" }}\n"
                ),
                "the relay of l-a is on",
            ),
            (
                format!("{nats}{board}console = {{ tty = \"/dev/ttyUSB0\" }}\n"),
                "the console of l-a ends in its coordinator's machine: /dev/ttyUSB0",
            ),
            (
                format!(
                    "{nats}{board}console = {{ tcp = \"ser:2000\" }}\n\
                     power = {{ driver = \"command\", on = [\"/a\", \"1\"], off = [\"/a\", \"0\"] }}\n"
                ),
                "fits",
            ),
        ];
        for (text, expected) in table {
            let told = told(&text);
            assert!(told.starts_with(expected), "{told:?}, not {expected:?}");
        }
    }
}
