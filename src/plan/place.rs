//! Which devices meet which needs: all of them or none. The one matcher of the lab, for runs and for leases.

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

/// Chooses devices. The first fit devices in the order of the inventory are taken, with the choices for
/// other needs revised when one would be left without.
pub fn place(needs: &[Need], all: &[Device], free: impl Fn(&DeviceId) -> bool) -> Placement {
    let choose = |devices: &[&Device]| {
        let mut matching = Matching::new(needs.len());
        for item in 0..devices.len() {
            if matching.is_full() {
                break;
            }
            matching.offer(item, |item, need| fits(&needs[need], devices[item]));
        }
        matching
    };
    let devices: Vec<&Device> = all.iter().collect();
    if let Some(need) = choose(&devices).unmet() {
        let Need { role, .. } = &needs[need];
        return Placement::Never { role: role.clone(), cause: misfit(needs, need, &devices) };
    }
    let devices: Vec<&Device> = all.iter().filter(|device| free(&device.id)).collect();
    match choose(&devices).full() {
        Some(items) => Placement::Granted(items.into_iter().map(|item| devices[item].id.clone()).collect()),
        None => Placement::Wait,
    }
}

/// A bipartite matching of needs and items (devices), grown item by item along augmenting paths.
///
/// An item that was taken stays taken: only the need that it meets may change. The sets of items that can be
/// matched are the independent sets of a matroid (Edmonds and Fulkerson 1965: a transversal matroid), and
/// the items are offered one after another. Two things follow. Of all largest matchings it holds one
/// of the items offered first. And an item that it refused is of no use to its needs whatever is
/// offered later: it can be given away without any delay to them.
#[derive(Debug, Clone)]
pub struct Matching {
    /// The item of each need.
    items: Vec<Option<usize>>,
    met: usize,
}

impl Matching {
    /// Nothing is matched yet.
    pub fn new(needs: usize) -> Self {
        Self { items: vec![None; needs], met: 0 }
    }

    /// Takes `item` if one more need is met with it. `fits(item, need)` must answer for all items taken before.
    pub fn offer(&mut self, item: usize, fits: impl Fn(usize, usize) -> bool) -> bool {
        let taken = !self.is_full() && self.augment(item, &fits, &mut vec![false; self.items.len()]);
        self.met += usize::from(taken);
        taken
    }

    /// Whether every need has its item.
    pub fn is_full(&self) -> bool {
        self.met == self.items.len()
    }

    /// The items in the order of the needs, when every need has one.
    pub fn full(&self) -> Option<Vec<usize>> {
        self.items.iter().copied().collect()
    }

    /// The first need without an item.
    pub fn unmet(&self) -> Option<usize> {
        self.items.iter().position(Option::is_none)
    }

    fn augment(&mut self, item: usize, fits: &impl Fn(usize, usize) -> bool, tried: &mut [bool]) -> bool {
        // A need that has nothing yet before one whose item would have to move.
        for empty in [true, false] {
            for need in 0..self.items.len() {
                if tried[need] || self.items[need].is_none() != empty || !fits(item, need) {
                    continue;
                }
                tried[need] = true;
                if self.items[need].is_none_or(|other| self.augment(other, fits, tried)) {
                    self.items[need] = Some(item);
                    return true;
                }
            }
        }
        false
    }
}

/// Whether the device meets the need.
pub fn fits(need: &Need, device: &Device) -> bool {
    is_kind(need, device) && need.capabilities.is_subset(&device.capabilities)
}

/// Whether it is such a device, whatever it can do.
fn is_kind(need: &Need, device: &Device) -> bool {
    need.device.as_ref().is_none_or(|id| *id == device.id)
        && need.backend.is_none_or(|backend| backend == device.backend)
        && device.is_kind(need.model, &need.labels)
}

/// Why `devices` leave the need of this index unmet, one line: there is no such device, or the nearest cannot
/// do it, or there are too few.
pub fn misfit(needs: &[Need], need: usize, devices: &[&Device]) -> String {
    let missing = |device: &&Device| needs[need].capabilities.difference(&device.capabilities).count();
    let such = devices.iter().copied().filter(|device| is_kind(&needs[need], device));
    match such.min_by_key(missing) {
        None => format!("no device is a fit for it: {}", describe(&needs[need])),
        Some(nearest) if missing(&nearest) > 0 => {
            let missing = needs[need].capabilities.difference(&nearest.capabilities);
            let missing = missing.map(ToString::to_string).collect::<Vec<_>>().join(", ");
            format!(
                "it takes what no device here can do; {} (a {}) lacks: {missing}",
                nearest.id, nearest.backend
            )
        }
        Some(_) => {
            let fit = devices.iter().filter(|device| fits(&needs[need], device)).count();
            format!("{} devices are needed and {fit} are there that fit", needs.len())
        }
    }
}

/// What is asked for, one line.
pub fn describe(need: &Need) -> String {
    let device = need.device.as_ref().map(|id| format!("device {id}"));
    let model = need.model.map(|model| format!("model {model}"));
    // A model says it already.
    let backend = need.backend.filter(|_| need.model.is_none()).map(|backend| format!("backend {backend}"));
    let labels = need.labels.iter().map(|(key, value)| format!("label {key}={value}"));
    let parts: Vec<String> = device.into_iter().chain(model).chain(backend).chain(labels).collect();
    if parts.is_empty() { "any device".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::{Backend, Model};
    use proptest::prelude::*;
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
        Need { role: role.to_owned(), labels, ..Need::default() }
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

    #[test]
    fn a_named_device_is_that_one() {
        let all = [device("a", None), device("b", None)];
        let named = Need { device: Some(DeviceId::new("b").unwrap()), ..need("x", None) };
        let needs = [need("y", None), named.clone()];
        assert_eq!(place(&needs, &all, |_| true), Placement::Granted(ids(&["a", "b"])));
        let Placement::Never { cause, .. } = place(&[named], &all[..1], |_| true) else { panic!() };
        assert_eq!(cause, "no device is a fit for it: device b");
    }

    proptest! {
        /// Against trying everything; and what was refused is of no use later.
        #[test]
        fn a_matching_is_the_largest_and_what_it_refuses_is_of_no_use(
            fits in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 4), 0..7),
            later in 0..7_usize,
        ) {
            fn largest(fits: &[&Vec<bool>], met: &mut [bool]) -> usize {
                let Some((item, rest)) = fits.split_first() else { return 0 };
                let mut best = largest(rest, met);
                for need in 0..met.len() {
                    if item[need] && !met[need] {
                        met[need] = true;
                        best = best.max(1 + largest(rest, met));
                        met[need] = false;
                    }
                }
                best
            }
            let first = later.min(fits.len());
            let mut matching = Matching::new(4);
            let taken: Vec<usize> = (0..first).filter(|i| matching.offer(*i, |i, n| fits[i][n])).collect();
            prop_assert_eq!(taken.len(), largest(&fits[..first].iter().collect::<Vec<_>>(), &mut [false; 4]));
            let all = largest(&fits.iter().collect::<Vec<_>>(), &mut [false; 4]);
            let kept = taken.into_iter().chain(first..fits.len()).map(|i| &fits[i]);
            prop_assert_eq!(largest(&kept.collect::<Vec<_>>(), &mut [false; 4]), all);
        }
    }
}
