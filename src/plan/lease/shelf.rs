//! The devices by class: what a request can tell apart. A decision looks at classes, of which a lab has few,
//! and not at devices, of which it may have thousands.

use crate::model::device::{Backend, Capability, Device, Model};
use crate::model::health::Health;
use crate::model::id::DeviceId;
use crate::model::scenario::Need;
use crate::plan::place;
use std::collections::{BTreeMap, BTreeSet};

/// The place of a class in the order of the kinds. So which devices are chosen follows from the records
/// alone, and not from the order in which they came.
pub(super) type ClassId = usize;

/// How far the devices of a set can be trusted: good ones, suspect ones, those that are not lent.
const GRADES: usize = 3;
/// The grades that are lent to whoever asks, the better one first.
const LENDABLE: usize = 2;

fn grade(health: Health) -> usize {
    match health {
        Health::Good => 0,
        Health::Suspect => 1,
        Health::Quarantined | Health::Maintenance => 2,
    }
}

/// What a request can tell of a device beside its id.
fn kind(device: &Device) -> (Backend, Model, &BTreeMap<String, String>, &BTreeSet<Capability>) {
    (device.backend, device.model, &device.labels, &device.capabilities)
}

#[derive(Debug, Clone)]
struct Class {
    /// What all of its devices are, with the id of one.
    sample: Device,
    members: [BTreeSet<DeviceId>; GRADES],
    free: [BTreeSet<DeviceId>; GRADES],
}

/// The devices by class.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf {
    classes: Vec<Class>,
}

impl Shelf {
    /// The class of such a device, if there is one.
    pub(super) fn class(&self, device: &Device) -> Option<ClassId> {
        self.classes.binary_search_by(|class| kind(&class.sample).cmp(&kind(device))).ok()
    }

    /// Makes the class of such a device, if there is none, and answers it: those from there on are one further.
    pub(super) fn add(&mut self, device: &Device) -> ClassId {
        let found = self.classes.binary_search_by(|class| kind(&class.sample).cmp(&kind(device)));
        found.unwrap_or_else(|class| {
            let empty = || std::array::from_fn(|_| BTreeSet::new());
            let new = Class { sample: device.clone(), members: empty(), free: empty() };
            self.classes.insert(class, new);
            class
        })
    }

    pub(super) fn put(&mut self, class: ClassId, id: &DeviceId, health: Health, free: bool) {
        self.take(class, id);
        let class = &mut self.classes[class];
        class.members[grade(health)].insert(id.clone());
        if free {
            class.free[grade(health)].insert(id.clone());
        }
    }

    pub(super) fn take(&mut self, class: ClassId, id: &DeviceId) {
        let class = &mut self.classes[class];
        for set in class.members.iter_mut().chain(&mut class.free) {
            set.remove(id);
        }
    }

    /// The classes whose devices meet the need, whichever device it names.
    pub(super) fn fitting(&self, need: &Need) -> Vec<ClassId> {
        let fits = |class: &Class| place::fits(need, &class.sample);
        (0..self.classes.len()).filter(|class| fits(&self.classes[*class])).collect()
    }

    /// How many devices of a class are free and lent to whoever asks.
    pub(super) fn free(&self, class: ClassId) -> usize {
        self.classes[class].free[..LENDABLE].iter().map(BTreeSet::len).sum()
    }

    /// Sets of devices of these classes, class by class, good ones first.
    pub(super) fn sets<'a>(
        &'a self,
        classes: &'a BTreeSet<ClassId>,
        among: Among,
    ) -> impl Iterator<Item = (ClassId, &'a BTreeSet<DeviceId>)> {
        let grades = if among == Among::All { GRADES } else { LENDABLE };
        (0..grades).flat_map(move |grade| {
            classes.iter().map(move |id| {
                let class = &self.classes[*id];
                let sets = if among == Among::Free { &class.free } else { &class.members };
                (*id, &sets[grade])
            })
        })
    }
}

/// Which devices are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// Those that can be lent now.
    Free,
    /// Those that are lent to whoever asks, once they are free.
    Lendable,
    /// All.
    All,
}
