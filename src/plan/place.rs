//! Which devices a run gets: all of them or none.

use crate::model::device::Device;
use crate::model::id::DeviceId;
use crate::model::scenario::Need;

/// What can be done for a run's needs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// These devices, one for each need, in the order of the needs.
    Granted(Vec<DeviceId>),
    /// The lab has fit devices; too few of them are free.
    Wait,
    /// The lab can never meet the needs.
    Never {
        /// The role of a need that cannot be met.
        role: String,
        /// Why, one line.
        cause: String,
    },
}

/// Chooses devices. Needs are met by the first fit device in the order of the inventory, with the
/// choices of earlier needs revised when a later one would be left without.
pub fn place(needs: &[Need], all: &[Device], free: impl Fn(&DeviceId) -> bool) -> Placement {
    if let Err((role, cause)) = assign(needs, &all.iter().collect::<Vec<_>>()) {
        return Placement::Never { role, cause };
    }
    let free: Vec<&Device> = all.iter().filter(|device| free(&device.id)).collect();
    match assign(needs, &free) {
        Ok(granted) => Placement::Granted(granted),
        Err(_) => Placement::Wait,
    }
}

fn fits(need: &Need, device: &Device) -> bool {
    is_kind(need, device) && need.capabilities.is_subset(&device.capabilities)
}

/// Whether it is such a device, whatever it can do.
fn is_kind(need: &Need, device: &Device) -> bool {
    device.is_kind(need.model, &need.labels)
}

/// Why none of `devices` is a fit: the kind there is not, or what the nearest of that kind cannot do.
fn misfit(need: &Need, devices: &[&Device]) -> String {
    let missing = |device: &&&Device| need.capabilities.difference(&device.capabilities).count();
    match devices.iter().filter(|device| is_kind(need, device)).min_by_key(missing) {
        None => format!("no device is a fit for it: {}", describe(need)),
        Some(nearest) => {
            let missing = need.capabilities.difference(&nearest.capabilities);
            let missing = missing.map(ToString::to_string).collect::<Vec<_>>().join(", ");
            format!(
                "it takes what no device here can do; {} (a {}) lacks: {missing}",
                nearest.id, nearest.backend
            )
        }
    }
}

/// Bipartite matching by augmenting paths: exact, and small enough for any lab's gangs.
fn assign(needs: &[Need], devices: &[&Device]) -> Result<Vec<DeviceId>, (String, String)> {
    let mut holder: Vec<Option<usize>> = vec![None; devices.len()];
    for (index, need) in needs.iter().enumerate() {
        let mut tried = vec![false; devices.len()];
        if !augment(index, needs, devices, &mut holder, &mut tried) {
            let fit = devices.iter().filter(|device| fits(need, device)).count();
            let cause = if fit == 0 {
                misfit(need, devices)
            } else {
                format!("{} devices are needed and {} are there that fit", needs.len(), fit)
            };
            return Err((need.role.clone(), cause));
        }
    }
    let mut granted: Vec<(usize, DeviceId)> = holder
        .iter()
        .zip(devices)
        .filter_map(|(need, device)| need.map(|need| (need, device.id.clone())))
        .collect();
    granted.sort_by_key(|(need, _)| *need);
    Ok(granted.into_iter().map(|(_, id)| id).collect())
}

fn augment(
    need: usize,
    needs: &[Need],
    devices: &[&Device],
    holder: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    // A device that nobody has yet before one that another need would have to give up.
    for free in [true, false] {
        for (index, device) in devices.iter().enumerate() {
            let fits = needs.get(need).is_some_and(|need| fits(need, device));
            if tried[index] || !fits || holder[index].is_none() != free {
                continue;
            }
            tried[index] = true;
            if holder[index].is_none_or(|other| augment(other, needs, devices, holder, tried)) {
                holder[index] = Some(need);
                return true;
            }
        }
    }
    false
}

fn describe(need: &Need) -> String {
    let model = need.model.map(|model| format!("model {model}"));
    let labels = need.labels.iter().map(|(key, value)| format!("label {key}={value}"));
    let parts: Vec<String> = model.into_iter().chain(labels).collect();
    if parts.is_empty() { "any device".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::{Backend, Model};
    use std::collections::{BTreeMap, BTreeSet};

    fn device(id: &str, label: Option<(&str, &str)>) -> Device {
        Device {
            id: DeviceId::new(id).unwrap(),
            backend: Backend::Vm,
            model: Model::VmAarch64,
            labels: label.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            capabilities: BTreeSet::new(),
        }
    }

    fn need(role: &str, label: Option<(&str, &str)>) -> Need {
        let labels: BTreeMap<_, _> = label.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Need { role: role.to_owned(), model: None, labels, capabilities: BTreeSet::new() }
    }

    fn ids(names: &[&str]) -> Vec<DeviceId> {
        names.iter().map(|name| DeviceId::new(*name).unwrap()).collect()
    }

    #[test]
    fn an_early_need_gives_way_to_one_with_less_choice() {
        let all = [device("a", Some(("usb", "yes"))), device("b", None)];
        let needs = [need("any", None), need("usb", Some(("usb", "yes")))];
        assert_eq!(place(&needs, &all, |_| true), Placement::Granted(ids(&["b", "a"])));
    }

    #[test]
    fn all_or_none() {
        let all = [device("a", None), device("b", None)];
        let needs = [need("x", None), need("y", None)];
        assert_eq!(place(&needs, &all, |id| id.as_str() == "a"), Placement::Wait);
        assert_eq!(place(&needs, &all, |_| true), Placement::Granted(ids(&["a", "b"])));
    }

    #[test]
    fn a_device_that_lacks_a_capability_is_no_fit_and_the_reason_names_it() {
        use crate::model::device::Capability::{Console, Power, Ssh};
        let can = |id: &str, capabilities: &[_]| Device {
            capabilities: capabilities.iter().copied().collect(),
            ..device(id, None)
        };
        let takes = |capabilities: &[_]| Need {
            capabilities: capabilities.iter().copied().collect(),
            ..need("x", None)
        };
        let all = [can("a", &[]), can("b", &[Power, Ssh])];
        assert_eq!(place(&[takes(&[Power])], &all, |_| true), Placement::Granted(ids(&["b"])));
        let never = place(&[takes(&[Console, Power])], &all, |_| true);
        let Placement::Never { cause, .. } = never else { panic!() };
        assert_eq!(cause, "it takes what no device here can do; b (a vm) lacks: console");
    }

    #[test]
    fn what_can_never_be_met_is_said_at_once_with_its_reason() {
        let all = [device("a", None)];
        let two = [need("x", None), need("y", None)];
        let Placement::Never { role, cause } = place(&two, &all, |_| false) else { panic!() };
        assert_eq!((role.as_str(), cause.as_str()), ("y", "2 devices are needed and 1 are there that fit"));
        let Placement::Never { cause, .. } = place(&[need("x", Some(("k", "v")))], &all, |_| true) else {
            panic!()
        };
        assert_eq!(cause, "no device is a fit for it: label k=v");
    }
}
