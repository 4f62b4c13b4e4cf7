//! Random histories: files come, change and go, devices go offline and come back, people deploy by hand, and
//! the operator is stopped between any two writes.

use super::*;
use crate::model::deployment::{Deleting, DeploymentSpec, RECORD_VERSION, Selector};
use crate::model::device::{Backend, Model};
use crate::model::id::{DeploymentName, LeaseId};
use crate::model::lease::{FencingToken, LeaseToken};
use crate::model::workload::{Desired, PodmanV0Score, Score, Status, WORKLOAD_VERSION};
use proptest::prelude::*;
use std::time::Duration;

const DEVICES: u8 = 3;
const TOKEN: FencingToken = FencingToken { epoch: 1, sequence: 1 };

fn id(number: u8) -> DeviceId {
    DeviceId::new(format!("lab-{number}")).unwrap()
}

fn score(number: u8) -> Score {
    let probation = Duration::from_secs(u64::from(number) + 1);
    Score::PodmanV0(PodmanV0Score { probation, ..PodmanV0Score::default() })
}

fn inventory() -> Vec<Device> {
    let device = |number| Device {
        id: id(number),
        backend: Backend::Container,
        model: Model::Container,
        labels: [("odd".to_owned(), (number % 2 == 1).to_string())].into(),
        capabilities: BTreeSet::new(),
    };
    (0..DEVICES).map(device).collect()
}

/// One device: what NATS holds of the deployment, and what the agent made of it.
#[derive(Default, Clone)]
struct Place {
    desired: Option<Desired>,
    indexed: Option<u64>,
    status: Option<Status>,
    received: bool,
    offline: bool,
    last_generation: u64,
    /// What runs on the device itself.
    runs: Option<u64>,
}

struct World {
    record: Option<Record>,
    places: BTreeMap<DeviceId, Place>,
}

fn status(generation: u64) -> Status {
    Status {
        version: WORKLOAD_VERSION,
        phase: Phase::Running,
        generation,
        revision: 1,
        message: String::new(),
        reason: String::new(),
        init_containers: Vec::new(),
        services: Vec::new(),
        rollback: None,
        conditions: Vec::new(),
    }
}

impl World {
    fn new() -> Self {
        let place = Place { received: true, ..Place::default() };
        Self { record: None, places: (0..DEVICES).map(|number| (id(number), place.clone())).collect() }
    }

    fn place(&mut self, id: &DeviceId) -> &mut Place {
        self.places.get_mut(id).unwrap()
    }

    fn apply(&mut self, devices: BTreeSet<DeviceId>, number: u8) {
        let name = DeploymentName::new("web").unwrap();
        let spec = DeploymentSpec {
            name,
            selector: Selector { devices, ..Selector::default() },
            score: score(number),
        };
        let (finalizers, orphans) = self.record.take().map(|r| (r.finalizers, r.orphans)).unwrap_or_default();
        self.record = Some(Record {
            version: RECORD_VERSION,
            spec,
            held: LeaseToken { lease: LeaseId::new("l-1").unwrap(), token: TOKEN },
            // The last device is not in the lease.
            within: (0..DEVICES - 1).map(id).collect(),
            deleting: None,
            finalizers,
            orphans,
        });
    }

    fn withdraw(&mut self, force: bool) {
        if let Some(record) = &mut self.record {
            record.deleting = Some(Deleting { since: 1, force });
        }
    }

    fn put(&mut self, id: &DeviceId, score: Score, owner: Owner, halfway: bool) {
        let place = self.place(id);
        place.last_generation += 1;
        let generation = place.last_generation;
        place.desired = Some(Desired { version: 1, generation, token: TOKEN, owner, score });
        place.received = false;
        if !halfway {
            place.indexed = Some(generation);
        }
    }

    fn delete(&mut self, id: &DeviceId, halfway: bool) {
        let place = self.place(id);
        place.indexed = None;
        place.received = false;
        if !halfway {
            place.desired = None;
        }
    }

    /// One pass of the operator, stopped after `writes` writes, the last of them perhaps half done.
    fn operate(&mut self, writes: usize, halfway: bool) -> bool {
        let Some(record) = self.record.clone() else { return false };
        let observed = self.places.iter().map(|(id, place)| (id.clone(), seen(place))).collect();
        let (decided, report) = decide(&record, &inventory(), &observed, 5);
        for (number, write) in decided.iter().take(writes).enumerate() {
            let halfway = halfway && number + 1 == writes;
            match write {
                Write::Record(next) => self.record = Some((**next).clone()),
                Write::Finish => {
                    self.record = None;
                    for place in self.places.values() {
                        let ours = place.desired.as_ref().is_some_and(|d| d.owner == Owner::Operator);
                        assert!(!ours, "finished, and something of it is left");
                    }
                }
                Write::Put(id) => {
                    assert!(selected(&record, &inventory()).contains(id), "put on a device not selected");
                    assert!(record.finalizers.contains_key(id), "put without a finalizer");
                    let held = self.places[id].desired.as_ref();
                    assert!(held.is_none_or(|held| held.owner == Owner::Operator), "put over another's");
                    self.put(id, record.spec.score.clone(), Owner::Operator, halfway);
                }
                Write::Delete(id) => self.delete(id, halfway),
            }
        }
        for (id, place) in &self.places {
            if place.desired.as_ref().is_some_and(|desired| desired.owner == Owner::Operator) {
                let kept = self.record.as_ref().is_some_and(|record| {
                    record.finalizers.contains_key(id) || record.orphans.contains_key(id)
                });
                assert!(kept, "{id} has a desired key without a finalizer");
            }
        }
        for (id, said) in &report {
            if self.places[id].offline && said.state == DeviceState::Removing {
                assert_eq!(said.message, format!("waits for {id}, which is offline"));
            }
        }
        !decided.is_empty()
    }

    /// The agent of a device that is online receives and does all.
    fn agent(&mut self, id: &DeviceId) {
        let place = self.place(id);
        if place.offline {
            return;
        }
        place.received = true;
        let desired = place.desired.as_ref().filter(|desired| place.indexed == Some(desired.generation));
        place.runs = desired.map(|desired| desired.generation);
        place.status = place.runs.map(status);
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            let busy = self.operate(usize::MAX, false);
            for number in 0..DEVICES {
                self.agent(&id(number));
            }
            let more = self.operate(usize::MAX, false);
            if !busy && !more {
                return;
            }
        }
        panic!("it does not settle");
    }
}

fn seen(place: &Place) -> Observed {
    Observed {
        desired: place.desired.clone(),
        indexed: place.indexed,
        status: place.status.clone(),
        received: place.received,
        present: !place.offline,
    }
}

#[derive(Debug, Clone)]
enum Happens {
    Apply(BTreeSet<u8>, u8),
    Withdraw(bool),
    Operate(usize, bool),
    Agent(u8),
    Offline(u8, bool),
    ByHand(u8),
    HandGoes(u8),
}

fn happens() -> impl Strategy<Value = Happens> {
    let device = 0..DEVICES;
    prop_oneof![
        (proptest::collection::btree_set(device.clone(), 1..3), 0_u8..3)
            .prop_map(|(devices, score)| Happens::Apply(devices, score)),
        any::<bool>().prop_map(Happens::Withdraw),
        (1_usize..3, any::<bool>()).prop_map(|(writes, halfway)| Happens::Operate(writes, halfway)),
        (1_usize..3, any::<bool>()).prop_map(|(writes, halfway)| Happens::Operate(writes, halfway)),
        device.clone().prop_map(Happens::Agent),
        (device.clone(), any::<bool>()).prop_map(|(device, offline)| Happens::Offline(device, offline)),
        device.clone().prop_map(Happens::ByHand),
        device.prop_map(Happens::HandGoes),
    ]
}

fn is_by_hand(place: &Place) -> bool {
    place.desired.as_ref().is_some_and(|desired| desired.owner == Owner::Hand)
}

proptest! {
    #[test]
    fn random_histories_converge(history in proptest::collection::vec(happens(), 0..60)) {
        let mut world = World::new();
        for event in history {
            match event {
                Happens::Apply(devices, score) => world.apply(devices.into_iter().map(id).collect(), score),
                Happens::Withdraw(force) => world.withdraw(force),
                Happens::Operate(writes, halfway) => { world.operate(writes, halfway); }
                Happens::Agent(number) => world.agent(&id(number)),
                Happens::Offline(number, offline) => world.place(&id(number)).offline = offline,
                Happens::ByHand(number) => world.put(&id(number), score(9), Owner::Hand, false),
                Happens::HandGoes(number) if is_by_hand(&world.places[&id(number)]) => {
                    world.delete(&id(number), false);
                }
                Happens::HandGoes(_) => {}
            }
        }
        for place in world.places.values_mut() {
            place.offline = false;
        }
        world.settle();
        let chosen = world.record.as_ref().map(|record| selected(record, &inventory())).unwrap_or_default();
        for (id, place) in &world.places {
            if is_by_hand(place) {
                prop_assert_eq!(place.runs, Some(place.desired.as_ref().unwrap().generation));
            } else {
                prop_assert_eq!(place.runs.is_some(), chosen.contains(id), "{}", id);
            }
        }
        if let Some(record) = &world.record {
            prop_assert!(record.deleting.is_none(), "a withdrawn deployment stays though all are online");
            prop_assert!(record.orphans.is_empty());
            let pinned: BTreeSet<_> = record.finalizers.keys().cloned().collect();
            let ours: BTreeSet<_> =
                chosen.iter().filter(|id| !is_by_hand(&world.places[*id])).cloned().collect();
            prop_assert_eq!(pinned, ours);
        }
    }
}

#[test]
fn a_selector_chooses_by_id_model_and_labels() {
    let all = inventory();
    let chosen = |selector: Selector| all.iter().filter(|d| selector.matches(d)).count();
    assert_eq!(chosen(Selector::default()), 3);
    assert_eq!(chosen(Selector { devices: [id(1)].into(), ..Selector::default() }), 1);
    assert_eq!(chosen(Selector { model: Some(Model::VmAarch64), ..Selector::default() }), 0);
    let labels = [("odd".to_owned(), "false".to_owned())].into();
    assert_eq!(chosen(Selector { labels, ..Selector::default() }), 2);
}

#[test]
fn what_was_put_by_hand_is_a_conflict_and_is_left_alone() {
    let mut world = World::new();
    world.put(&id(0), score(9), Owner::Hand, false);
    world.apply([id(0), id(1)].into(), 0);
    world.settle();
    assert!(is_by_hand(&world.places[&id(0)]));
    let observed = world.places.iter().map(|(id, place)| (id.clone(), seen(place))).collect();
    let (writes, report) = decide(world.record.as_ref().unwrap(), &inventory(), &observed, 5);
    assert_eq!(writes, []);
    assert_eq!(report[&id(0)].state, DeviceState::Conflict);
    assert_eq!(report[&id(1)].state, DeviceState::Running);
}

#[test]
fn a_forced_deletion_leaves_an_orphan_that_goes_when_its_device_is_back() {
    let mut world = World::new();
    world.apply([id(0), id(1)].into(), 0);
    world.settle();
    world.place(&id(0)).offline = true;
    world.withdraw(false);
    world.settle();
    let record = world.record.clone().unwrap();
    assert_eq!(record.finalizers.keys().collect::<Vec<_>>(), [&id(0)]);
    world.withdraw(true);
    world.settle();
    let record = world.record.clone().unwrap();
    assert!(record.finalizers.is_empty());
    assert_eq!(record.orphans, [(id(0), Orphaned { since: 5, generation: 1 })].into());
    assert_eq!(world.places[&id(0)].runs, Some(1), "the device itself knows nothing of it");
    world.place(&id(0)).offline = false;
    world.settle();
    assert!(world.record.is_none() && world.places[&id(0)].runs.is_none());
}
