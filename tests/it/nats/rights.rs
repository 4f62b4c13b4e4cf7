//! What is permitted.

use super::{
    HOUR, Lab, NEVER, SOON, TOKEN, denied, device_id, device_settled, lab_name, raw_client, score, web,
};
use pilab::bus::consume::{Durable, Pulled};
use pilab::bus::error::BusError;
use pilab::bus::issuer::COORDINATOR;
use pilab::bus::provision;
use pilab::model::id::UserName;
use pilab::wire::subject;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_sees_and_writes_its_own_keys_alone() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let (mine, other) = (device_id("lab-one"), device_id("lab-two"));
    for device in [&mine, &other] {
        provision::device(&coordinator, device, TOKEN).await.unwrap();
        provision::put_desired(&coordinator, device, &web(), &score(), TOKEN).await.unwrap();
        coordinator.kv_put(subject::STATUS, &subject::deployment_key(device, &web()), "mine").await.unwrap();
    }
    let bus = lab.device("lab-one").await;

    // What it needs.
    let key = subject::deployment_key(&mine, &web());
    assert!(bus.kv_get(subject::DESIRED, &key).await.unwrap().is_some());
    assert!(bus.kv_get(subject::DESIRED, &subject::index_key(&mine)).await.unwrap().is_some());
    bus.kv_put(subject::STATUS, &key, "ok").await.unwrap();
    bus.kv_put(subject::PRESENCE, mine.as_str(), "here").await.unwrap();
    let durable = Durable::new(bus.clone(), subject::DESIRED, subject::durable(&mine));
    for _ in 0..2 {
        let Pulled::Delivery(delivery) = durable.pull(SOON).await.unwrap() else { panic!("nothing to pull") };
        assert!(delivery.key.starts_with("lab-one."), "{delivery:?}");
        durable.ack(&delivery).await.unwrap();
    }
    assert!(bus.connection().borrow().denied.is_none(), "normal operation breaks no rule");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_answers_what_it_was_asked_once_and_nothing_else() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let bus = lab.device("lab-one").await;
    let mut requests = bus.subscribe("fleet.lab-one.>").await.unwrap();
    device_settled(&bus, "lab-one").await;
    let mut inbox = coordinator.subscribe("_INBOX.coordinator.test.>").await.unwrap();
    coordinator.settle().await.unwrap();
    let raw = raw_client(&lab, &lab.issuer.coordinator(HOUR).unwrap(), COORDINATOR).await;
    let publish = raw.publish_with_reply("fleet.lab-one.ping", "_INBOX.coordinator.test.1", "?".into());
    publish.await.unwrap();
    raw.flush().await.unwrap();
    let request = tokio::time::timeout(SOON, requests.next()).await.unwrap().unwrap();
    assert_eq!(request.reply.as_deref(), Some("_INBOX.coordinator.test.1"));
    // The neighbour of a reply subject that it knows.
    denied(&bus, "_INBOX.coordinator.test.2", "forged").await;
    bus.publish("_INBOX.coordinator.test.1", "!").await.unwrap();
    bus.flush().await.unwrap();
    let answer = tokio::time::timeout(SOON, inbox.next()).await.unwrap().unwrap();
    assert_eq!(answer.payload, "!");
    denied(&bus, "_INBOX.coordinator.test.1", "again").await;
    assert!(tokio::time::timeout(NEVER, inbox.next()).await.is_err());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_asks_under_her_own_name_alone() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let ann = lab.connect("ann", &lab.issuer.user(&UserName::new("ann").unwrap(), HOUR).unwrap()).await;
    let mut events = ann.subscribe("lab.lab.event.>").await.unwrap();
    // Nobody serves her yet; that the server says so means that it has come to her subscription.
    let unserved = ann.request("lab.lab.req.ann.hello", "x", SOON).await;
    assert!(matches!(unserved, Err(BusError::NoResponders { .. })), "{unserved:?}");
    let mut requests = coordinator.subscribe(subject::requests(&lab_name())).await.unwrap();
    coordinator.settle().await.unwrap();
    ann.publish("lab.lab.req.ann.hello", "x").await.unwrap();
    let request = tokio::time::timeout(SOON, requests.next()).await.unwrap().unwrap();
    assert_eq!(subject::parse_request(&request.subject), Some((UserName::new("ann").unwrap(), "hello")));
    coordinator.publish("lab.lab.event.lab-one", "e").await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap().payload, "e");
    lab.stop().await;
}
