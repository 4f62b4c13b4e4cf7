//! What the coordinator makes in JetStream.

use super::{Lab, TOKEN, device_id, lab_name, score, web};
use pilab::bus::connect::Bus;
use pilab::bus::provision::{self, ProvisionError};
use pilab::model::id::{DeploymentName, DeviceId};
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
        provision::device(&coordinator, device, TOKEN).await.unwrap();
        provision::put_desired(&coordinator, device, &web(), &score(), TOKEN).await.unwrap();
        coordinator.kv_put(subject::STATUS, &subject::deployment_key(device, &web()), "x").await.unwrap();
        coordinator.kv_put(subject::PRESENCE, device.as_str(), "x").await.unwrap();
    }
    provision::device(&coordinator, &mine, TOKEN).await.unwrap();
    let keys = coordinator.kv_keys(subject::DESIRED, ">").await.unwrap();
    // The index stays, with the floor alone.
    assert_eq!(keys, ["lab-one._index", "lab-two._index", "lab-two.web"]);
    let index = coordinator.kv_get(subject::DESIRED, "lab-one._index").await.unwrap().unwrap();
    let index: Index = serde_json::from_slice(&index.value).unwrap();
    assert_eq!((index.deployments.len(), index.floor), (0, Some(TOKEN)));
    assert_eq!(coordinator.kv_keys(subject::STATUS, ">").await.unwrap(), ["lab-two.web"]);
    assert_eq!(coordinator.kv_keys(subject::PRESENCE, ">").await.unwrap(), ["lab-two"]);
    let info: Value = coordinator.api("CONSUMER.INFO.KV_desired.lab-one", &Value::Null).await.unwrap();
    assert_eq!(info["num_pending"], 1, "the index: {info}");
    assert_eq!(info["config"]["filter_subject"], "$KV.desired.lab-one.>");
    lab.stop().await;
}

/// The server takes a purge up to the sequence 1 for one without a bound.
#[tokio::test(flavor = "multi_thread")]
async fn the_floor_of_the_first_device_of_a_new_lab_stays() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let device = device_id("lab-one");
    provision::device(&bus, &device, TOKEN).await.unwrap();
    let index = bus.kv_get(subject::DESIRED, &subject::index_key(&device)).await.unwrap().unwrap();
    assert_eq!(index.revision, 1, "or else this tells nothing");
    assert_eq!(serde_json::from_slice::<Index>(&index.value).unwrap().floor, Some(TOKEN));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desired_state_and_its_index_go_together() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let device = device_id("lab-one");
    provision::device(&bus, &device, TOKEN).await.unwrap();
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
    let later = FencingToken { epoch: 1, sequence: 2 };
    put(later).await.unwrap();
    let error = put(TOKEN).await.unwrap_err();
    assert!(matches!(error, ProvisionError::Fenced { .. }), "{error}");
    provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap_err();

    // Many at once: each takes part, none is lost.
    let names: Vec<_> = (0..4).map(|n| DeploymentName::new(format!("n{n}")).unwrap()).collect();
    let score = score();
    let puts = names.iter().map(|name| provision::put_desired(&bus, &device, name, &score, later));
    for done in futures_util::future::join_all(puts).await {
        done.unwrap();
    }
    let entry = bus.kv_get(subject::DESIRED, &subject::index_key(&device)).await.unwrap().unwrap();
    let index: Index = serde_json::from_slice(&entry.value).unwrap();
    assert!(names.iter().all(|name| index.deployments.contains_key(name)), "{index:?}");
    lab.stop().await;
}

/// What the second holder sees of the device: its keys, and what stands under the first deployment's.
async fn seen(bus: &Bus, device: &DeviceId) -> (Vec<String>, Option<Vec<u8>>) {
    let entry = bus.kv_get(subject::DESIRED, &subject::deployment_key(device, &web())).await.unwrap();
    let value = entry.filter(|entry| !entry.deleted).map(|entry| entry.value.to_vec());
    (bus.kv_keys(subject::DESIRED, &subject::device_keys(device)).await.unwrap(), value)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_held_a_device_before_a_handover_or_a_transfer_deploys_nothing_after_it() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let device = device_id("lab-one");
    let token = |sequence| FencingToken { epoch: 1, sequence };
    let db = DeploymentName::new("db").unwrap();
    let refused = async |token: FencingToken, floor: FencingToken| {
        let before = seen(&bus, &device).await;
        for name in [&web(), &db] {
            let raw = provision::put_raw(&bus, &device, name, b"raw".to_vec(), token).await.map(drop);
            let put = provision::put_desired(&bus, &device, name, &score(), token).await.map(drop);
            let deleted = provision::delete_desired(&bus, &device, name, token).await.map(drop);
            for done in [raw, put, deleted] {
                assert!(
                    matches!(done, Err(ProvisionError::Fenced { floor: at, .. }) if at == floor),
                    "{done:?}"
                );
            }
        }
        assert_eq!(seen(&bus, &device).await, before);
    };
    provision::device(&bus, &device, token(2)).await.unwrap();
    provision::put_desired(&bus, &device, &web(), &score(), token(3)).await.unwrap();
    refused(token(2), token(3)).await;

    // Handed over, and nobody has deployed since.
    provision::device(&bus, &device, token(5)).await.unwrap();
    refused(token(3), token(5)).await;
    // Given on: what runs goes on, and whoever had it changes nothing any more, under whatever name.
    provision::put_desired(&bus, &device, &web(), &score(), token(6)).await.unwrap();
    provision::fence(&bus, &device, token(8)).await.unwrap();
    refused(token(6), token(8)).await;
    assert!(seen(&bus, &device).await.1.is_some());
    provision::put_raw(&bus, &device, &web(), b"raw".to_vec(), token(8)).await.unwrap();

    // A handover of a coordinator that another has followed wipes nothing.
    for late in
        [provision::device(&bus, &device, token(7)).await, provision::fence(&bus, &device, token(7)).await]
    {
        assert!(matches!(late, Err(ProvisionError::Fenced { .. })), "{late:?}");
    }
    assert_eq!(seen(&bus, &device).await.1.unwrap(), b"raw");

    // An index that nobody understands stands in the way of all but a fresh start.
    bus.kv_put(subject::DESIRED, &subject::index_key(&device), "{").await.unwrap();
    assert!(provision::fence(&bus, &device, token(9)).await.is_err());
    provision::device(&bus, &device, token(9)).await.unwrap();
    refused(token(8), token(9)).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_bytes_have_a_generation_that_grows_over_a_deletion_and_a_durable_that_was_lost() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let device = device_id("lab-one");
    let raw = async || provision::put_raw(&bus, &device, &web(), b"raw".to_vec(), TOKEN).await.unwrap().0;
    let (first, second) = (raw().await, raw().await);
    provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap();
    let durable = format!("{}.{}", subject::stream(subject::DESIRED), subject::durable(&device));
    bus.api::<Value>(&format!("CONSUMER.DELETE.{durable}"), &Value::Null).await.unwrap();
    let third = raw().await;
    let put = provision::put_desired(&bus, &device, &web(), &score(), TOKEN).await.unwrap().0;
    assert!(first < second && second < third && third < put, "{first} {second} {third} {put}");
    assert!(bus.api::<Value>(&format!("CONSUMER.INFO.{durable}"), &Value::Null).await.is_ok());
    lab.stop().await;
}
