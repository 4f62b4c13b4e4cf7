//! Relays on this machine's pins: whether they can be had, and what a restart does to the devices behind them. No pin is
//! taken: to let go of one again would be to release it.

use super::LOOK;
use crate::cli::doctor::Finding;
use crate::config::lab::Lab;
use crate::config::wiring::{kernel_keeps, kernel_says};
use crate::model::id::DeviceId;
use crate::model::relay::{GpioDriver, OnCrash, PinState, Released};
use crate::model::wiring::{GpioSwitch, PowerSwitch};
use crate::power::gpio::{self, CONSUMER, GpioError};
use crate::support::chain::Chain;
use crate::support::command::Command;

/// The service whose store keeps lines.
const UNIT: &str = "pilab-coordinator.service";

/// How a pin is.
pub(super) fn look(part: String, switch: &GpioSwitch) -> Finding {
    judge(part, switch, gpio::look(&switch.pin))
}

fn judge(part: String, switch: &GpioSwitch, looked: Result<PinState, GpioError>) -> Finding {
    let pin = &switch.pin;
    let seen = match looked {
        Err(error) => {
            let seen = format!("{pin}: {}", Chain(&error));
            return Finding::bad(part, seen, error.hint());
        }
        Ok(PinState { user: Some(user), .. }) if user == CONSUMER => {
            format!("{pin}: a coordinator has it, or the service manager keeps it for one")
        }
        Ok(PinState { user: Some(by), .. }) => {
            let error = GpioError::Busy { pin: pin.number, by };
            return Finding::bad(part, error.to_string(), error.hint());
        }
        Ok(PinState { level: Some(level), output, .. }) => {
            let reading = switch.relay.reading(level);
            format!("{pin}: {reading} ({level}, {})", if output { "driven" } else { "not driven" })
        }
        Ok(PinState { level: None, .. }) => {
            format!("{pin}: an output that nobody holds; to read it would release it")
        }
    };
    match switch.released() {
        Released::Power(_) => Finding::good(part, seen),
        Released::Unsure { pull } => {
            let other = if switch.relay.active_low { "0 to 8" } else { "9 to 27" };
            let hint = format!(
                "the chip pulls this pin {pull} while nobody drives it, where the board may energise its relay: use one \
                 of the pins {other}, or a resistor of some 10 kΩ the other way (docs/wiring.md)"
            );
            Finding::doubtful(part, seen, hint)
        }
    }
}

/// What becomes of the devices whose lines the kernel releases, when the coordinator is started anew.
pub(super) async fn after_a_restart(lab: &Lab, findings: &mut Vec<Finding>) {
    let on_lines: Vec<(&DeviceId, &GpioSwitch)> = lab
        .wired
        .iter()
        .filter_map(|device| match &device.power {
            PowerSwitch::Gpio(gpio) if gpio.pin.driver == GpioDriver::Cdev => Some((&device.device.id, gpio)),
            _ => None,
        })
        .collect();
    if on_lines.is_empty() {
        return;
    }
    if GpioDriver::Cdev.on_crash(kernel_keeps()) == OnCrash::Holds {
        let seen = format!("the kernel keeps outputs ({} is Y): no device is switched", kernel_says().0);
        findings.push(Finding::good("restart", seen));
        return;
    }
    let asked = Command::new("systemctl").args(["show", "-P", "FileDescriptorStoreMax", UNIT]).timeout(LOOK);
    let room = asked.output().await.ok();
    let room = room.and_then(|said| String::from_utf8_lossy(&said).trim().parse().ok());
    findings.push(restart(&on_lines, room));
}

/// `room`: how many files the service manager keeps for the coordinator; none where there is no service manager, or no such
/// service.
fn restart(on_lines: &[(&DeviceId, &GpioSwitch)], room: Option<usize>) -> Finding {
    const PART: &str = "restart";
    if room.is_some_and(|room| room >= on_lines.len()) {
        let seen = format!("{UNIT} keeps its lines; a coordinator that is started by hand does not");
        return Finding::good(PART, seen);
    }
    let after: Vec<_> =
        on_lines.iter().map(|(id, gpio)| format!("{id} is then: {}", gpio.released())).collect();
    let hint = "install systemd/pilab-coordinator.service, whose FileDescriptorStoreMax= keeps lines open (it must be \
                the service that runs the coordinator)";
    let seen = format!("when the coordinator ends, the kernel releases its lines: {}", after.join(", "));
    Finding::doubtful(PART, seen, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Condition::{Bad, Doubtful, Good};
    use crate::model::relay::{Contact, GpioPin, Level, Relay};

    fn switch(number: u8, active_low: bool) -> GpioSwitch {
        let pin = GpioPin { driver: GpioDriver::Cdev, chip: None, number };
        GpioSwitch { pin, relay: Relay { active_low, contact: Contact::NormallyOpen } }
    }

    #[test]
    fn a_pin_is_judged_by_what_can_be_seen_of_it() {
        let seen =
            |output, level, user: Option<&str>| PinState { output, level, user: user.map(str::to_owned) };
        let table = [
            (
                switch(17, false),
                Ok(seen(true, None, Some("pilab"))),
                Good,
                "gpio-cdev pin 17: a coordinator has it",
            ),
            (
                switch(17, false),
                Ok(seen(false, Some(Level::Low), None)),
                Good,
                "gpio-cdev pin 17: off (low, not driven)",
            ),
            (
                switch(17, false),
                Ok(seen(true, Some(Level::High), None)),
                Good,
                "gpio-cdev pin 17: on (high, driven)",
            ),
            (
                switch(17, false),
                Ok(seen(true, None, None)),
                Good,
                "gpio-cdev pin 17: an output that nobody holds",
            ),
            (
                switch(17, true),
                Ok(seen(false, Some(Level::Low), None)),
                Doubtful,
                "gpio-cdev pin 17: on (low,",
            ),
            (
                switch(17, false),
                Ok(seen(true, None, Some("gpioset"))),
                Bad,
                "pin 17 is in use by \"gpioset\"",
            ),
            (
                switch(17, false),
                Err(GpioError::NotEnabled),
                Bad,
                "gpio-cdev pin 17: pins are not enabled in this build",
            ),
        ];
        for (switch, looked, condition, begins) in table {
            let finding = judge("power of l-a".to_owned(), &switch, looked);
            assert!(finding.condition == condition && finding.seen.starts_with(begins), "{finding:?}");
            assert_eq!(finding.hint.is_some(), condition != Good, "{finding:?}");
        }
    }

    #[test]
    fn what_a_restart_does_is_told() {
        let id = DeviceId::new("l-a").unwrap();
        let (good, doubtful) = (switch(17, false), switch(17, true));
        let on_lines = [(&id, &good), (&id, &doubtful)];
        assert_eq!(restart(&on_lines, Some(2)).condition, Good);
        for room in [Some(1), Some(0), None] {
            let finding = restart(&on_lines, room);
            assert_eq!(finding.condition, Doubtful);
            assert!(finding.seen.ends_with("l-a is then: off, l-a is then: not sure"), "{finding:?}");
        }
    }
}
