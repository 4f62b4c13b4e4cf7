//! When a scenario that asks for a board turns to a virtual machine, and what that leaves unseen.
//!
//! ```text
//!  no such board in the lab, or it cannot do it ──────────────┐
//!  only boards that are not lent (quarantined, maintenance) ──┼─► the fallback, with the reason
//!  waited as long as the scenario says ───────────────────────┘
//! ```

use super::lease::Blocker;
use super::place;
use crate::model::device::Backend;
use crate::model::scenario::{Instead, Need};
use std::time::Duration;

/// What only a board shows. A virtual machine is given its kernel by QEMU, is switched by libvirt, and has a console that is
/// a socket.
const OF_A_BOARD: [&str; 6] = [
    "boot ROM and firmware",
    "DHCP and TFTP",
    "power relay",
    "serial line",
    "device tree",
    "drivers of the model",
];

/// The needs with those that have a fallback turned to it; none when no need has one.
pub fn substitute(needs: &[Need], because: &str) -> Option<Vec<Need>> {
    needs.iter().any(|need| need.fallback.is_some()).then(|| {
        let turned = |need: &Need| match &need.fallback {
            None => need.clone(),
            Some(fallback) => Need {
                role: need.role.clone(),
                backend: Some(fallback.backend),
                capabilities: need.capabilities.clone(),
                instead: Some(Instead {
                    of: place::describe(need),
                    because: because.to_owned(),
                    unexercised: unexercised(fallback.backend),
                }),
                ..Need::default()
            },
        };
        needs.iter().map(turned).collect()
    })
}

/// How long the needs wait for what they ask for; none when they have no fallback.
pub fn patience(needs: &[Need]) -> Option<Duration> {
    needs.iter().filter_map(|need| Some(need.fallback.as_ref()?.after)).min()
}

/// Why a request that waits turns to its fallback now; none while it goes on waiting. An estimate is no reason: it counts
/// each lease to its last minute, and a run gives back what it no longer needs.
pub fn turns(blocker: &Blocker, waited: Duration, patience: Duration) -> Option<String> {
    match blocker {
        Blocker::Never { cause, .. } => Some(cause.clone()),
        Blocker::Health { device, health, reason, .. } => Some(format!("{device} is {health}: {reason}")),
        _ if waited >= patience => {
            let whom = match blocker {
                Blocker::Lease { device, holder, .. } => format!("; {device} is {holder}'s"),
                Blocker::Handover { device } => format!("; {device} is being made ready"),
                Blocker::Request { device, holder, .. } => format!("; {holder} is before it for {device}"),
                Blocker::Booking { device, .. } => format!("; {device} is booked"),
                _ => String::new(),
            };
            Some(format!("none was free within {} s{whom}", patience.as_secs()))
        }
        _ => None,
    }
}

fn unexercised(by: Backend) -> Vec<String> {
    match by {
        Backend::Vm | Backend::Container => OF_A_BOARD.map(str::to_owned).to_vec(),
        Backend::Pi | Backend::Sim => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::{Capability, Model};
    use crate::model::health::Health;
    use crate::model::id::{DeviceId, LeaseId, UserName};
    use crate::model::scenario::Fallback;

    fn board(fallback: Option<u64>) -> Need {
        Need {
            role: "dut".to_owned(),
            device: Some(DeviceId::new("lab-pi-1").unwrap()),
            model: Some(Model::Pi4B),
            backend: Some(Backend::Pi),
            labels: [("usb".to_owned(), "yes".to_owned())].into(),
            capabilities: [Capability::Boot].into(),
            fallback: fallback
                .map(|seconds| Fallback { backend: Backend::Vm, after: Duration::from_secs(seconds) }),
            instead: None,
        }
    }

    #[test]
    fn a_fallback_is_any_virtual_machine_that_can_do_as_much_and_says_for_what_it_stands() {
        assert_eq!(substitute(&[board(None)], "x"), None);
        let both = [board(Some(60)), board(None)];
        let turned = substitute(&both, "it is broken").unwrap();
        assert_eq!(turned[1], both[1], "what has no fallback stays");
        let Need { device, model, backend, labels, capabilities, fallback, instead, .. } = &turned[0];
        assert_eq!((device, model, backend), (&None, &None, &Some(Backend::Vm)));
        assert!(labels.is_empty() && fallback.is_none());
        assert_eq!(capabilities, &[Capability::Boot].into());
        let instead = instead.as_ref().unwrap();
        assert_eq!(instead.of, "device lab-pi-1, model pi4b, label usb=yes");
        assert_eq!(instead.because, "it is broken");
        assert!(instead.unexercised.contains(&"power relay".to_owned()));
    }

    #[test]
    fn what_can_still_come_is_waited_for_and_what_cannot_is_not() {
        let device = DeviceId::new("lab-pi-1").unwrap();
        let lease = Blocker::Lease {
            device: device.clone(),
            lease: LeaseId::new("l-1").unwrap(),
            holder: UserName::new("ada").unwrap(),
        };
        let sick = Blocker::Health {
            role: "dut".to_owned(),
            device,
            health: Health::Quarantined,
            reason: "3 boots in a row failed".to_owned(),
        };
        let never = Blocker::Never { role: "dut".to_owned(), cause: "no device is a fit for it".to_owned() };
        let minute = Duration::from_secs(60);
        let at = |blocker, seconds| turns(blocker, Duration::from_secs(seconds), minute);
        assert_eq!(at(&lease, 59), None);
        assert_eq!(at(&Blocker::Nothing, 59), None, "it is about to be served");
        assert_eq!(at(&lease, 60).unwrap(), "none was free within 60 s; lab-pi-1 is ada's");
        assert_eq!(at(&sick, 0).unwrap(), "lab-pi-1 is quarantined: 3 boots in a row failed");
        assert_eq!(at(&never, 0).unwrap(), "no device is a fit for it");
        assert_eq!(patience(&[board(None), board(Some(60)), board(Some(30))]), Some(Duration::from_secs(30)));
    }
}
