//! What is permitted.

use super::{HOUR, Lab, NEVER, SOON, TOKEN, denied, device_id, lab_name, raw_client, score, web};
use pilab::bus::consume::{Durable, Pulled};
use pilab::bus::issuer::COORDINATOR;
use pilab::bus::provision;
use pilab::model::id::UserName;
use pilab::wire::subject;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_sees_and_writes_its_own_keys_alone() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let (mine, other) = (device_id("lab-one"), device_id("lab-two"));
    for device in [&mine, &other] {
        provision::device(&coordinator, device).await.unwrap();
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
        let Pulled::Delivery(delivery) = durable.pull().await.unwrap() else { panic!("nothing to pull") };
        assert!(delivery.key.starts_with("lab-one."), "{delivery:?}");
        durable.ack(&delivery).await.unwrap();
    }
    assert!(bus.connection().borrow().denied.is_none(), "normal operation breaks no rule");

    // Other devices' keys, and what only the coordinator writes.
    denied(&bus, "$JS.API.DIRECT.GET.KV_desired.$KV.desired.lab-two.web", "").await;
    denied(&bus, "$JS.API.DIRECT.GET.KV_desired", r#"{"seq":1}"#).await;
    denied(&bus, "$JS.API.DIRECT.GET.KV_desired.$KV.desired.>", "").await;
    denied(&bus, "$JS.API.STREAM.MSG.GET.KV_desired", r#"{"seq":1}"#).await;
    denied(&bus, "$JS.API.DIRECT.GET.KV_status.$KV.status.lab-one.web", "").await;
    denied(&bus, "$KV.status.lab-two.web", "x").await;
    denied(&bus, "$KV.presence.lab-two", "x").await;
    denied(&bus, "$KV.desired.lab-one.web", "x").await;
    denied(&bus, "$KV.desired.lab-one._index", "x").await;
    denied(&bus, "$KV.lab-lab.lease.x", "x").await;
    // Names that begin like its own, are longer, or hold more tokens.
    for (bucket, key) in [
        (subject::STATUS, "lab-one2.web"),
        (subject::STATUS, "lab-on.web"),
        (subject::STATUS, "lab-one"),
        (subject::STATUS, "x.lab-one.web"),
        (subject::PRESENCE, "lab-one2"),
        (subject::PRESENCE, "lab-one.x"),
        (subject::DESIRED, "lab-one2.web"),
    ] {
        denied(&bus, &subject::key(bucket, key), "x").await;
        denied(&bus, &format!("$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{key}"), "").await;
    }
    denied(&bus, "$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-one2", "").await;
    denied(&bus, "$JS.API.CONSUMER.MSG.NEXT.KV_status.lab-one", "").await;
    denied(&bus, "$JS.ACK.KV_desired.lab-one2.1.1.1.1.1", "+ACK").await;
    // The structure of the store.
    for call in [
        "INFO",
        "STREAM.LIST",
        "STREAM.NAMES",
        "CONSUMER.NAMES.KV_desired",
        "STREAM.INFO.KV_desired",
        "STREAM.PURGE.KV_status",
        "STREAM.DELETE.KV_status",
        "STREAM.UPDATE.KV_status",
        "STREAM.MSG.DELETE.KV_status",
        "CONSUMER.LIST.KV_desired",
        "CONSUMER.INFO.KV_desired.lab-one",
        "CONSUMER.INFO.KV_desired.lab-two",
        "CONSUMER.MSG.NEXT.KV_desired.lab-two",
        "CONSUMER.DELETE.KV_desired.lab-one",
        "CONSUMER.DELETE.KV_desired.lab-two",
    ] {
        denied(&bus, &format!("$JS.API.{call}"), r#"{"subjects_filter":">"}"#).await;
    }
    denied(&bus, "$JS.ACK.KV_desired.lab-two.1.1.1.1.1", "+ACK").await;
    // Consumers: to read all, to re-point another's, to deliver into another's subjects.
    let all = json!({"stream_name": "KV_desired", "config": {"filter_subject": "$KV.desired.>", "ack_policy": "none"}});
    let many = json!({"stream_name": "KV_desired", "config": {
        "durable_name": "lab-one", "filter_subjects": ["$KV.desired.lab-one.>", "$KV.desired.lab-two.>"],
        "ack_policy": "none"}});
    let stolen = json!({"stream_name": "KV_desired", "config": {
        "durable_name": "lab-two", "filter_subject": "$KV.desired.lab-one.>", "ack_policy": "explicit"}});
    let injected = json!({"stream_name": "KV_desired", "config": {
        "deliver_subject": "fleet.lab-two.ping", "filter_subject": "$KV.desired.lab-one.>", "ack_policy": "none"}});
    for (call, body) in [
        ("CREATE.KV_desired", &all),
        ("CREATE.KV_desired.*.$KV.desired.lab-one.>", &all),
        ("CREATE.KV_desired.lab-one.$KV.desired.>", &all),
        ("CREATE.KV_desired.lab-one.$KV.desired.lab-one.>", &many),
        ("CREATE.KV_desired.lab-one", &many),
        ("CREATE.KV_desired.x.$KV.desired.lab-one.>", &stolen),
        ("CREATE.KV_desired.lab-two.$KV.desired.lab-one.>", &stolen),
        ("CREATE.KV_desired.lab-one.$KV.desired.lab-one.>", &injected),
        ("DURABLE.CREATE.KV_desired.lab-two", &stolen),
        ("DURABLE.CREATE.KV_desired.lab-one", &stolen),
    ] {
        denied(&bus, &format!("$JS.API.CONSUMER.{call}"), body.to_string()).await;
    }
    // Other clients.
    denied(&bus, "fleet.lab-two.ping", "").await;
    denied(&bus, "fleet.lab-one.ping", "").await;
    denied(&bus, "lab.lab.req.ann.run", "").await;
    denied(&bus, "lab.lab.run.r1", "").await;
    denied(&bus, "lab.lab.event.lab-one", "").await;
    denied(&bus, "_INBOX.coordinator.x.y", "").await;
    denied(&bus, "_INBOX.lab-two.x", "").await;
    denied(&bus, "$SYS.REQ.SERVER.PING", "").await;

    let told = bus.denials();
    assert!(!told.is_empty() && told.len() <= 16, "what was denied is told, and bounded: {told:?}");
    assert!(told.iter().any(|denied| denied.subject.ends_with("lab-two.web")), "{told:?}");

    // Its own subject, but a header that would empty the whole bucket.
    let raw = raw_client(&lab, &lab.issuer.device(&mine, HOUR).unwrap(), "lab-one").await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    let answer =
        raw.request_with_headers("$KV.status.lab-one.web".to_string(), headers, "x".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("10111"), "{answer:?}");
    let kept = coordinator.kv_get(subject::STATUS, &subject::deployment_key(&other, &web())).await.unwrap();
    assert_eq!(kept.unwrap().value, "mine");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_cannot_listen_to_others() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let bus = lab.device("lab-one").await;
    for subject in [
        ">",
        "$KV.>",
        "$KV.desired.lab-one.web",
        "_INBOX.>",
        "_INBOX.coordinator.>",
        "_INBOX.*.>",
        "fleet.>",
        "fleet.lab-two.ping",
        "lab.lab.req.>",
        "lab.lab.console.lab-two",
        "$SYS.>",
        "$JS.>",
    ] {
        let mut subscription = bus.subscribe(subject).await.unwrap();
        let mut connection = bus.connection();
        let told = connection.wait_for(|now| now.denied.as_ref().is_some_and(|d| d.subject == subject));
        tokio::time::timeout(SOON, told).await.unwrap_or_else(|_| panic!("{subject} is not denied")).unwrap();
        coordinator.publish("fleet.lab-two.ping", "x").await.unwrap();
        coordinator.flush().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), subscription.next()).await.is_err());
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_answers_what_it_was_asked_once_and_nothing_else() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let bus = lab.device("lab-one").await;
    let mut requests = bus.subscribe("fleet.lab-one.>").await.unwrap();
    bus.flush().await.unwrap();
    let mut inbox = coordinator.subscribe("_INBOX.coordinator.test.>").await.unwrap();
    coordinator.flush().await.unwrap();
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
    let ann =
        lab.connect("ann", &lab.issuer.user(&UserName::new("ann").unwrap(), HOUR).unwrap()).await.unwrap();
    let mut requests = coordinator.subscribe(subject::requests(&lab_name())).await.unwrap();
    let mut events = ann.subscribe("lab.lab.event.>").await.unwrap();
    coordinator.flush().await.unwrap();
    ann.flush().await.unwrap();
    ann.publish("lab.lab.req.ann.hello", "x").await.unwrap();
    let request = tokio::time::timeout(SOON, requests.next()).await.unwrap().unwrap();
    assert_eq!(subject::parse_request(&request.subject), Some((UserName::new("ann").unwrap(), "hello")));
    coordinator.publish("lab.lab.event.lab-one", "e").await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap().payload, "e");
    for subject in [
        "lab.lab.req.bob.hello",
        "lab.other.req.ann.hello",
        "lab.lab.event.lab-one",
        "lab.lab.console.lab-one",
        "lab.lab.run.r1",
        "fleet.lab-one.ping",
        "$KV.desired.lab-one.web",
        "$JS.API.INFO",
        "$JS.API.STREAM.LIST",
        "_INBOX.coordinator.x",
    ] {
        denied(&ann, subject, "").await;
    }
    lab.stop().await;
}

/// JetStream answers to whatever reply subject a request names, with no rights of its own to check. The
/// answers to a device end in the devices' account, which has no streams, whatever they are aimed at.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_of_the_server_can_be_aimed_at_a_key_or_at_the_coordinator() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let (mine, other) = (device_id("lab-one"), device_id("lab-two"));
    for device in [&mine, &other] {
        provision::device(&coordinator, device).await.unwrap();
        provision::put_desired(&coordinator, device, &web(), &score(), TOKEN).await.unwrap();
        coordinator.kv_put(subject::STATUS, &subject::deployment_key(device, &web()), "mine").await.unwrap();
        coordinator.kv_put(subject::PRESENCE, device.as_str(), "mine").await.unwrap();
    }
    let keys = [
        (subject::DESIRED, "lab-two.web"),
        (subject::DESIRED, "lab-two._index"),
        (subject::DESIRED, "lab-one.web"),
        (subject::STATUS, "lab-two.web"),
        (subject::PRESENCE, "lab-two"),
        ("lab-lab", "lease.x"),
    ];
    let look = async || {
        futures_util::future::join_all(keys.map(|(bucket, key)| coordinator.kv_get(bucket, key))).await
    };
    let before: Vec<_> = look().await.into_iter().map(Result::unwrap).collect();
    let mut inbox = coordinator.subscribe("_INBOX.coordinator.test.>").await.unwrap();
    coordinator.flush().await.unwrap();
    let raw = raw_client(&lab, &lab.issuer.device(&mine, HOUR).unwrap(), "lab-one").await;
    let targets = keys.map(|(bucket, key)| subject::key(bucket, key));
    let inboxes = ["_INBOX.coordinator.test.x", "lab.lab.req.ann.run", "lab.lab.run.r1"].map(str::to_owned);
    for reply in targets.into_iter().chain(inboxes) {
        for (request, body) in [
            ("$JS.API.DIRECT.GET.KV_desired.$KV.desired.lab-one.web", ""),
            ("$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-one", "{"),
            ("$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-one", r#"{"batch":1,"no_wait":true}"#),
            ("$KV.status.lab-one.web", "x"),
        ] {
            raw.publish_with_reply(request.to_owned(), reply.clone(), body.into()).await.unwrap();
            // The device's own answer comes after what its earlier requests caused.
            raw.request("$KV.status.lab-one.x".to_owned(), "x".into()).await.unwrap();
            let now: Vec<_> = look().await.into_iter().map(Result::unwrap).collect();
            assert_eq!(now, before, "{request} with the reply subject {reply}");
        }
    }
    assert!(tokio::time::timeout(NEVER, inbox.next()).await.is_err(), "an answer reached the coordinator");
    lab.stop().await;
}
