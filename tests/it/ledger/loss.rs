//! NATS away, the bucket gone, another coordinator.

use super::*;
use crate::nats::{SOON, kill};
use pilab::model::lease::FencingToken;
use pilab::wire::subject;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_coordinator_writes_nothing_more_whatever_the_key() {
    let lab = Lab::start().await;
    let (old, bus) = Running::on(&lab).await;
    stock(&old.handle, &["pi-1", "pi-2"]).await;
    let first = granted(&old.handle, request("a", "ann", Some("pi-1"))).await;
    let Reserved::Waiting(_, mut wait) =
        old.handle.reserve(by("bob"), request("b", "bob", Some("pi-1"))).await.unwrap()
    else {
        panic!();
    };
    // Another coordinator, with a disk of its own that has seen nothing.
    let elsewhere = tempfile::tempdir().unwrap();
    let new = Running::start(options(&bus, elsewhere.path(), None)).await;
    let bucket = subject::ledger_bucket(&lab_name());
    let kept = async || {
        let all = bus.kv_snapshot(&bucket).await.unwrap().entries;
        all.into_iter().filter(|(key, _)| key != subject::EPOCH_KEY).collect::<Vec<_>>()
    };
    let last = kept().await;
    // Neither a new key, nor one that the new coordinator has not touched. The first may be unknown for a moment.
    let deposed = async {
        loop {
            match old.handle.reserve(by("eve"), request("e", "eve", Some("pi-2"))).await {
                Err(LedgerError::Deposed { epoch }) => return epoch,
                Err(LedgerError::Away) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let epoch = tokio::time::timeout(SOON, deposed).await.unwrap();
    assert!(epoch > first.token.epoch);
    for refused in [
        old.handle.release(by("ann"), lease_id("a")).await,
        old.handle.device_health(device_id("pi-2"), Health::Suspect, "x".to_owned()).await,
        old.handle.queue().await.map(drop),
    ] {
        assert_eq!(refused, Err(LedgerError::Deposed { epoch }));
    }
    assert_eq!(wait.granted().await, Err(LedgerError::Deposed { epoch }));
    assert_eq!(kept().await, last, "nothing was written");
    let second = granted(&new.handle, request("c", "cid", Some("pi-2"))).await;
    assert!(second.token > first.token);
    assert_eq!(new.handle.queue().await.unwrap().len(), 1);
    new.stop().await;
    old.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_lent_twice_while_nats_is_killed_again_and_again() {
    let lab = Lab::start().await;
    let (ledger, bus) = Running::on(&lab).await;
    let names: Vec<String> = (0..6).map(|number| format!("pi-{number}")).collect();
    stock(&ledger.handle, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let kept = granted(&ledger.handle, request("kept", "ann", Some("pi-0"))).await;
    let Reserved::Waiting(_, mut wait) =
        ledger.handle.reserve(by("bob"), request("waits", "bob", Some("pi-0"))).await.unwrap()
    else {
        panic!();
    };
    let done = Arc::new(AtomicBool::new(false));
    let clients = TaskTracker::new();
    let tokens = Arc::new(std::sync::Mutex::new(Vec::<FencingToken>::new()));
    for client in 0..4 {
        let (ledger, done, tokens) = (ledger.handle.clone(), done.clone(), tokens.clone());
        clients.spawn(async move {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                let id = format!("c{client}-{number}");
                let asked = request(&id, "cid", None);
                let reserved = again(|| ledger.reserve(by("cid"), asked.clone())).await;
                let Reserved::Granted(lease) = reserved else { panic!("there are five for four") };
                tokens.lock().unwrap().push(lease.token);
                let rows = again(|| ledger.devices()).await;
                let has = |row: &pilab::coordinator::ledger::DeviceRow| {
                    row.lease.as_ref().is_some_and(|(held, _)| held.token == lease.token)
                };
                assert_eq!(rows.iter().filter(|row| has(row)).count(), 1, "what was answered is kept");
                // Released twice, it is lost: the answer to the first may have been.
                let released = async || match ledger.release(by("cid"), lease_id(&id)).await {
                    Err(LedgerError::Refused(_)) => Ok(()),
                    other => other,
                };
                again(released).await;
                again(|| ledger.device_ready(lease.devices[0].clone())).await;
            }
        });
    }
    for deaths in 1..=3 {
        let before = tokens.lock().unwrap().len();
        let grants = async {
            while tokens.lock().unwrap().len() < before + 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, grants).await.unwrap();
        kill(lab.pid());
        let mut status = lab.server.status();
        tokio::time::timeout(SOON, status.wait_for(|now| now.deaths == deaths)).await.unwrap().unwrap();
        let mut connection = bus.connection();
        let back = connection.wait_for(|now| now.up && now.epoch > u64::from(deaths));
        tokio::time::timeout(SOON, back).await.unwrap().unwrap();
    }
    done.store(true, Ordering::Relaxed);
    clients.close();
    tokio::time::timeout(SOON, clients.wait()).await.unwrap();
    let mut seen = tokens.lock().unwrap().clone();
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all, "no token was granted twice");
    assert!(seen.last().unwrap().epoch > kept.token.epoch);
    // Whoever waited has waited on.
    ledger.handle.release(by("ann"), lease_id("kept")).await.unwrap();
    ledger.handle.device_ready(device_id("pi-0")).await.unwrap();
    let lease = tokio::time::timeout(SOON, wait.granted()).await.unwrap().unwrap();
    assert_eq!(lease.request.id, lease_id("waits"));
    ledger.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_made_anew_has_a_greater_epoch_from_the_disk() {
    let lab = Lab::start().await;
    let (ledger, bus) = Running::on(&lab).await;
    stock(&ledger.handle, &["pi-1"]).await;
    let before = granted(&ledger.handle, request("a", "ann", None)).await;
    let stream = subject::stream(&subject::ledger_bucket(&lab_name()));
    let gone =
        async || drop(bus.api::<Value>(&format!("STREAM.DELETE.{stream}"), &Value::Null).await.unwrap());
    gone().await;
    // Under the running coordinator, which learns of it by its next write.
    let unknown = ledger.handle.device_health(device_id("pi-1"), Health::Suspect, "x".to_owned()).await;
    assert_eq!(unknown, Err(LedgerError::Away));
    again(|| ledger.handle.inventory(vec![device("pi-1")], Health::Good)).await;
    ledger.handle.device_ready(device_id("pi-1")).await.unwrap();
    let after = granted(&ledger.handle, request("b", "bob", None)).await;
    assert!(after.token > before.token);
    ledger.stop().await;
    // Between two coordinators.
    gone().await;
    let (ledger, _bus) = Running::on(&lab).await;
    stock(&ledger.handle, &["pi-1"]).await;
    let last = granted(&ledger.handle, request("c", "cid", None)).await;
    assert!(last.token > after.token);
    ledger.stop().await;
    // The disk is lost instead: the bucket knows.
    std::fs::remove_file(lab.dir.path().join("ledger-epoch")).unwrap();
    let (ledger, _bus) = Running::on(&lab).await;
    let lease = ledger.handle.transfer(by("cid"), lease_id("c"), user("dan")).await.unwrap();
    assert!(lease.token > last.token);
    ledger.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_keeps_the_ledger_from_being_taken_and_is_named() {
    let lab = Lab::start().await;
    let (ledger, bus) = Running::on(&lab).await;
    ledger.stop().await;
    let bucket = subject::ledger_bucket(&lab_name());
    for (key, value) in [
        ("lease.a", r#"{"version":1}"#),
        ("lease.a", r#"{"version":2,"record":null}"#),
        ("what", "x"),
        ("queue.b", r#"{"version":1,"record":{"renewal":{}}}"#),
    ] {
        bus.kv_put(&bucket, key, value).await.unwrap();
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let error = start(options(&bus, lab.dir.path(), None), &tracker, shutdown).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("key {key} of the ledger")), "{error}");
        bus.kv_delete(&bucket, key).await.unwrap();
    }
    lab.stop().await;
}
