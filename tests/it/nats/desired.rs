//! What the coordinator makes in JetStream.

use super::{Lab, TOKEN, device_id, lab_name, score, web};
use pilab::bus::provision;
use pilab::model::id::DeploymentName;
use pilab::model::lease::FencingToken;
use pilab::model::workload::{Desired, Index};
use pilab::wire::subject;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_start_leaves_nothing_of_the_last_holder() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    provision::buckets(&coordinator, &lab_name()).await.unwrap();
    let (mine, other) = (device_id("lab-one"), device_id("lab-two"));
    for device in [&mine, &other] {
        provision::device(&coordinator, device).await.unwrap();
        provision::put_desired(&coordinator, device, &web(), &score(), TOKEN).await.unwrap();
        coordinator.kv_put(subject::STATUS, &subject::deployment_key(device, &web()), "x").await.unwrap();
        coordinator.kv_put(subject::PRESENCE, device.as_str(), "x").await.unwrap();
    }
    provision::device(&coordinator, &mine).await.unwrap();
    assert_eq!(coordinator.kv_keys(subject::DESIRED, ">").await.unwrap(), ["lab-two._index", "lab-two.web"]);
    assert_eq!(coordinator.kv_keys(subject::STATUS, ">").await.unwrap(), ["lab-two.web"]);
    assert_eq!(coordinator.kv_keys(subject::PRESENCE, ">").await.unwrap(), ["lab-two"]);
    let info: Value = coordinator.api("CONSUMER.INFO.KV_desired.lab-one", &Value::Null).await.unwrap();
    assert_eq!(info["num_pending"], 0, "{info}");
    assert_eq!(info["config"]["filter_subject"], "$KV.desired.lab-one.>");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desired_state_and_its_index_go_together() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let device = device_id("lab-one");
    provision::device(&bus, &device).await.unwrap();
    let key = subject::deployment_key(&device, &web());
    let desired = async || -> Option<Desired> {
        let entry = bus.kv_get(subject::DESIRED, &key).await.unwrap().filter(|entry| !entry.deleted)?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    };
    let indexed = async || -> Option<u64> {
        let entry = bus.kv_get(subject::DESIRED, &subject::index_key(&device)).await.unwrap()?;
        serde_json::from_slice::<Index>(&entry.value).unwrap().deployments.get(&web()).copied()
    };
    let put = async |token| provision::put_desired(&bus, &device, &web(), &score(), token).await;

    let mut last = (0, 0);
    for _ in 0..3 {
        let next = put(TOKEN).await.unwrap();
        assert!(next.0 > last.0 && next.1 > last.1, "{last:?} {next:?}");
        assert_eq!((desired().await.unwrap().generation, indexed().await), (next.0, Some(next.0)));
        last = next;
    }
    // Another deployment's entry stays.
    let db = DeploymentName::new("db").unwrap();
    provision::put_desired(&bus, &device, &db, &score(), TOKEN).await.unwrap();
    assert_eq!(indexed().await, Some(last.0));

    assert!(provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap().is_some());
    assert_eq!((desired().await, indexed().await), (None, None));
    assert_eq!(provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap(), None);
    let again = put(TOKEN).await.unwrap();
    assert!(again.0 > last.0, "grows over a deletion: {last:?} {again:?}");

    // Something that nobody understands stands in nobody's way.
    bus.kv_put(subject::DESIRED, &key, "{").await.unwrap();
    let after = put(TOKEN).await.unwrap();
    assert!(after.0 > again.0);
    bus.kv_put(subject::DESIRED, &key, "{").await.unwrap();
    assert!(provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap().is_some());

    // A later lease fences off an earlier one.
    put(FencingToken { epoch: 1, sequence: 2 }).await.unwrap();
    let error = put(TOKEN).await.unwrap_err();
    assert!(matches!(error, provision::ProvisionError::Fenced { .. }), "{error}");
    provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap_err();

    // Many at once: each takes part, none is lost.
    let names: Vec<_> = (0..4).map(|n| DeploymentName::new(format!("n{n}")).unwrap()).collect();
    let score = score();
    let puts = names.iter().map(|name| provision::put_desired(&bus, &device, name, &score, TOKEN));
    for done in futures_util::future::join_all(puts).await {
        done.unwrap();
    }
    let entry = bus.kv_get(subject::DESIRED, &subject::index_key(&device)).await.unwrap().unwrap();
    let index: Index = serde_json::from_slice(&entry.value).unwrap();
    assert!(names.iter().all(|name| index.deployments.contains_key(name)), "{index:?}");
    lab.stop().await;
}
