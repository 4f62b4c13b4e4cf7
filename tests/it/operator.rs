//! The operator with a real nats-server and devices that follow a script. Needs `nats-server`.

use crate::ledger;
use crate::nats::{HOUR, Lab, SOON, TOKEN, device_id, lab_name, score, web};
use pilab::bus::connect::Bus;
use pilab::bus::consume::{Durable, Pulled};
use pilab::bus::{deployments, provision};
use pilab::coordinator::ledger::{LedgerHandle, start};
use pilab::coordinator::operator::{Operator, OperatorError, Reports};
use pilab::model::deployment::{DeploymentSpec, DeviceState, Selector};
use pilab::model::device::{Backend, Device, Model};
use pilab::model::id::{DeviceId, LeaseId};
use pilab::model::lease::{FencingToken, LeaseToken};
use pilab::model::workload::{Desired, Phase, Status, WORKLOAD_VERSION};
use pilab::wire::subject;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

fn ids() -> BTreeSet<DeviceId> {
    [device_id("lab-one"), device_id("lab-two")].into()
}

fn inventory() -> Vec<Device> {
    let device = |id| Device {
        id,
        backend: Backend::Container,
        model: Model::Container,
        labels: BTreeMap::new(),
        capabilities: BTreeSet::new(),
    };
    ids().into_iter().map(device).collect()
}

fn spec(devices: BTreeSet<DeviceId>) -> DeploymentSpec {
    DeploymentSpec { name: web(), selector: Selector { devices, ..Selector::default() }, score: score() }
}

fn lease() -> LeaseId {
    LeaseId::new("l-1").unwrap()
}

fn held(token: FencingToken) -> LeaseToken {
    LeaseToken { lease: lease(), token }
}

/// A device that says at once that it runs what it is told to, while it is online.
async fn device(bus: Bus, id: DeviceId, online: Arc<AtomicBool>) {
    let durable = Durable::new(bus.clone(), subject::DESIRED, subject::durable(&id));
    let key = subject::deployment_key(&id, &web());
    loop {
        while !online.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(10)).await;
        }
        let Ok(Pulled::Delivery(delivery)) = durable.pull(SOON).await else { continue };
        while !online.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(10)).await;
        }
        if delivery.key == key {
            match serde_json::from_slice::<Desired>(&delivery.entry.value) {
                Ok(desired) => {
                    let status = Status {
                        version: WORKLOAD_VERSION,
                        phase: Phase::Running,
                        generation: desired.generation,
                        revision: delivery.entry.revision,
                        message: "1 service runs".to_owned(),
                        reason: String::new(),
                        init_containers: Vec::new(),
                        services: Vec::new(),
                        rollback: None,
                        conditions: Vec::new(),
                    };
                    let value = serde_json::to_vec(&status).unwrap();
                    bus.kv_put(subject::STATUS, &key, value).await.unwrap();
                }
                Err(_) => drop(bus.kv_delete(subject::STATUS, &key).await.unwrap()),
            }
        }
        durable.ack(&delivery).await.unwrap();
    }
}

struct World {
    lab: Lab,
    bus: Bus,
    ledger: LedgerHandle,
    online: BTreeMap<DeviceId, Arc<AtomicBool>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl World {
    async fn start() -> Option<Self> {
        if !crate::agent::lab::installed("nats-server", "podman") {
            return None;
        }
        let lab = Lab::start().await;
        let bus = lab.coordinator().await;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let ledger = ledger::options(&bus, lab.dir.path(), None);
        let ledger = start(ledger, &tasks, stop.clone()).await.unwrap();
        let mut online = BTreeMap::new();
        for id in ids() {
            provision::device(&bus, &id, TOKEN).await.unwrap();
            let flag = Arc::new(AtomicBool::new(true));
            let credentials = lab.issuer.device(&id, HOUR).unwrap();
            let own = lab.connect(id.as_str(), &credentials).await;
            let script = device(own, id.clone(), Arc::clone(&flag));
            tasks.spawn(stop.clone().run_until_cancelled_owned(script));
            online.insert(id, flag);
        }
        Some(Self { lab, bus, ledger, online, tasks, stop })
    }

    fn operator(&self, stop: &CancellationToken) -> Operator {
        let (bus, ledger) = (self.bus.clone(), self.ledger.clone());
        Operator::start(bus, lab_name(), inventory(), ledger, &self.tasks, stop.clone())
    }

    fn set_online(&self, id: &str, online: bool) {
        self.online[&device_id(id)].store(online, Ordering::SeqCst);
    }

    async fn by_hand(&self, id: &str) -> bool {
        let put = provision::put_desired(&self.bus, &device_id(id), &web(), &score(), TOKEN).await;
        put.is_ok()
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.lab.stop().await;
    }
}

/// Waits until the deployment stands so; none means that it is gone.
async fn stands(operator: &Operator, wanted: Option<&[(&str, DeviceState)]>) {
    let is_so = |reports: &Reports| match (reports.get(&(lease(), web())), wanted) {
        (Some(Some(report)), Some(wanted)) => {
            let seen: Vec<_> = report.iter().map(|(id, device)| (id.as_str(), device.state)).collect();
            seen == wanted
        }
        (seen, wanted) => seen.is_none() && wanted.is_none(),
    };
    let mut reports = operator.reports();
    let waited = timeout(SOON, reports.wait_for(is_so)).await.is_ok();
    assert!(waited, "wanted {wanted:?}, last: {:?}", operator.reports().borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_each_device_and_a_forced_one_leaves_an_orphan() {
    use DeviceState::{Orphaned, Removing, Running};
    let Some(world) = World::start().await else { return };
    let operator = world.operator(&world.stop);
    operator.apply(spec(ids()), held(TOKEN), ids()).await.unwrap();
    stands(&operator, Some(&[("lab-one", Running), ("lab-two", Running)])).await;

    world.set_online("lab-one", false);
    operator.apply(spec([device_id("lab-two")].into()), held(TOKEN), ids()).await.unwrap();
    stands(&operator, Some(&[("lab-one", Removing), ("lab-two", Running)])).await;
    let told = operator.reports().borrow()[&(lease(), web())].clone().unwrap()[&device_id("lab-one")]
        .message
        .clone();
    assert_eq!(told, "waits for lab-one, which is offline");
    operator.withdraw(web(), held(TOKEN), false).await.unwrap();
    stands(&operator, Some(&[("lab-one", Removing)])).await;
    operator.withdraw(web(), held(TOKEN), true).await.unwrap();
    stands(&operator, Some(&[("lab-one", Orphaned)])).await;
    let (record, _) = deployments::record(&world.bus, &lab_name(), &lease(), &web()).await.unwrap();
    let record = record.unwrap();
    assert!(record.finalizers.is_empty() && record.orphans[&device_id("lab-one")].generation == 1);

    world.set_online("lab-one", true);
    stands(&operator, None).await;
    assert_eq!(world.bus.kv_keys(subject::STATUS, ">").await.unwrap(), Vec::<String>::new());
    let gone = operator.withdraw(web(), held(TOKEN), false).await;
    assert!(matches!(gone, Err(OperatorError::Unknown(_))), "{gone:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deployed_by_hand_is_left_alone_and_a_passed_lease_has_no_say() {
    use DeviceState::{Conflict, Running};
    let Some(world) = World::start().await else { return };
    let operator = world.operator(&world.stop);
    assert!(world.by_hand("lab-one").await);
    let later = FencingToken { sequence: TOKEN.sequence + 1, ..TOKEN };
    operator.apply(spec(ids()), held(later), ids()).await.unwrap();
    stands(&operator, Some(&[("lab-one", Conflict), ("lab-two", Running)])).await;
    let early = operator.withdraw(web(), held(TOKEN), true).await;
    assert!(matches!(early, Err(OperatorError::Fenced { .. })), "{early:?}");
    operator.withdraw(web(), held(later), false).await.unwrap();
    stands(&operator, None).await;
    let keys = world.bus.kv_keys(subject::DESIRED, "*.web").await.unwrap();
    assert_eq!(keys, ["lab-one.web"], "what was put by hand stays");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_stopped_at_any_moment_is_gone_on_with() {
    let Some(world) = World::start().await else { return };
    for withdrawn in [false, true] {
        let stop = CancellationToken::new();
        let first = world.operator(&stop);
        if withdrawn {
            first.withdraw(web(), held(TOKEN), false).await.unwrap();
        } else {
            first.apply(spec(ids()), held(TOKEN), ids()).await.unwrap();
        }
        stop.cancel();
        // Each is stopped a little later than the one before, so at other writes.
        for moment in 0..40 {
            let stop = CancellationToken::new();
            let _operator = world.operator(&stop);
            sleep(Duration::from_micros(250 * moment)).await;
            stop.cancel();
        }
        let stop = CancellationToken::new();
        let last = world.operator(&stop);
        if withdrawn {
            stands(&last, None).await;
            let left = world.bus.kv_keys(subject::DESIRED, "*.web").await.unwrap();
            assert_eq!(left, Vec::<String>::new());
        } else {
            let running = DeviceState::Running;
            stands(&last, Some(&[("lab-one", running), ("lab-two", running)])).await;
        }
        stop.cancel();
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_have_deployments_of_one_name_side_by_side_and_one_that_is_given_on_keeps_its_own() {
    use DeviceState::Running;
    let Some(world) = World::start().await else { return };
    let operator = world.operator(&world.stop);
    let later = FencingToken { sequence: TOKEN.sequence + 1, ..TOKEN };
    let other = LeaseToken { lease: LeaseId::new("l-2").unwrap(), token: later };
    let (one, two) = ([device_id("lab-one")].into(), [device_id("lab-two")].into());
    operator.apply(spec(ids()), held(TOKEN), one).await.unwrap();
    operator.apply(spec(ids()), other.clone(), two).await.unwrap();
    stands(&operator, Some(&[("lab-one", Running)])).await;
    operator.withdraw(web(), other, false).await.unwrap();
    stands(&operator, Some(&[("lab-one", Running)])).await;

    operator.release(held(TOKEN)).await.unwrap();
    stands(&operator, None).await;

    // What the new holder's fence refuses under the old token is kept under the new one, by whatever operator there is.
    ledger::stock(&world.ledger, &["lab-one"]).await;
    let ann = ledger::by("ann");
    let first = ledger::granted(&world.ledger, ledger::request("l-1", "ann", Some("lab-one"))).await.held();
    operator.apply(spec(ids()), first.clone(), [device_id("lab-one")].into()).await.unwrap();
    stands(&operator, Some(&[("lab-one", Running)])).await;
    let given = world.ledger.transfer(ann, lease(), ledger::user("bob")).await.unwrap().held();
    provision::fence(&world.bus, &device_id("lab-one"), given.token).await.unwrap();
    operator.look().await.unwrap();
    let early = operator.withdraw(web(), first, true).await;
    assert!(matches!(early, Err(OperatorError::Fenced { .. })), "{early:?}");
    stands(&operator, Some(&[("lab-one", Running)])).await;
    let key = subject::deployment_key(&device_id("lab-one"), &web());
    let entry = world.bus.kv_get(subject::DESIRED, &key).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Desired>(&entry.value).unwrap().token, given.token);
    operator.release(given).await.unwrap();
    stands(&operator, None).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_at_is_not_told_to_select_nothing() {
    let Some(world) = World::start().await else { return };
    let operator = world.operator(&world.stop);
    let presence = subject::stream(subject::PRESENCE);
    world.bus.api::<Value>(&format!("STREAM.DELETE.{presence}"), &Value::Null).await.unwrap();
    operator.apply(spec(ids()), held(TOKEN), ids()).await.unwrap();
    let unseen = || operator.reports().borrow().get(&(lease(), web())) == Some(&None);
    assert!(unseen(), "{:?}", operator.reports().borrow());
    provision::buckets(&world.bus, &lab_name()).await.unwrap();
    let running = DeviceState::Running;
    stands(&operator, Some(&[("lab-one", running), ("lab-two", running)])).await;
    world.end().await;
}
