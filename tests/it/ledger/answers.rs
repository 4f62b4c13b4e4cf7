//! What the ledger answers, and that the next coordinator says the same.

use super::*;
use crate::nats::SOON;
use pilab::plan::lease::{Blocker, Refusal};
use pilab::wire::subject;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_granted_waits_and_is_granted_when_the_device_is_ready() {
    let lab = Lab::start().await;
    let (ledger, _bus) = Running::on(&lab).await;
    let handle = &ledger.handle;
    stock(handle, &["pi-1"]).await;
    let first = granted(handle, request("a", "ann", None)).await;
    let Reserved::Waiting(place, mut wait) =
        handle.reserve(by("bob"), request("b", "bob", None)).await.unwrap()
    else {
        panic!("there is one device");
    };
    assert_eq!(place.position, Some(1));
    assert!(matches!(&place.blocker, Blocker::Lease { holder, .. } if holder.as_str() == "ann"), "{place:?}");
    assert!(place.estimate.unwrap() > HOUR);
    assert_eq!(handle.queue().await.unwrap().len(), 1);
    let refused = handle.extend(by("ann"), lease_id("a"), HOUR, 1).await;
    assert!(matches!(refused, Err(LedgerError::Refused(Refusal::WaitedFor { .. }))), "{refused:?}");

    let changes = handle.changes();
    let before = *changes.borrow();
    handle.release(by("ann"), lease_id("a")).await.unwrap();
    handle.device_ready(device_id("pi-1")).await.unwrap();
    let second = tokio::time::timeout(SOON, wait.granted()).await.unwrap().unwrap();
    assert!(second.token > first.token && *changes.borrow() > before);
    assert!(handle.queue().await.unwrap().is_empty());

    let third = handle.transfer(by("bob"), lease_id("b"), user("cid")).await.unwrap();
    assert!(third.token > second.token);
    let deadline = handle.extend(by("cid"), lease_id("b"), HOUR, 2).await.unwrap();
    assert!(deadline.length > HOUR);
    let row = handle.devices().await.unwrap().remove(0);
    assert_eq!(row.lease, Some((third, deadline)));
    let lost = handle.heartbeat(by("ann"), lease_id("a")).await;
    let Err(LedgerError::Refused(Refusal::LeaseLost(lost))) = lost else { panic!("{lost:?}") };
    assert_eq!(lost.present.unwrap().holder, user("cid"), "who came after is named");
    ledger.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_withdrawn_waits_no_longer_and_a_deadline_is_kept_by_the_clock() {
    let lab = Lab::start().await;
    let (ledger, _bus) = Running::on(&lab).await;
    let handle = &ledger.handle;
    stock(handle, &["pi-1"]).await;
    let second = Duration::from_secs(1);
    granted(handle, LeaseRequest { duration: Some(second), ..request("a", "ann", None) }).await;
    let Reserved::Waiting(_, mut wait) = handle.reserve(by("bob"), request("b", "bob", None)).await.unwrap()
    else {
        panic!();
    };
    handle.release(by("bob"), lease_id("b")).await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, wait.granted()).await.unwrap(), Err(LedgerError::Gone));
    let ended = async {
        let mut changes = handle.changes();
        while handle.devices().await.unwrap()[0].record.handover.is_none() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, ended).await.unwrap();
    ledger.stop().await;
    assert_eq!(handle_after_stop(&lab).await, vec![None]);
    lab.stop().await;
}

/// The leases of the devices, as the next coordinator has them.
async fn handle_after_stop(lab: &Lab) -> Vec<Option<LeaseId>> {
    let (ledger, _bus) = Running::on(lab).await;
    let rows = ledger.handle.devices().await.unwrap();
    ledger.stop().await;
    rows.into_iter().map(|row| row.lease.map(|(lease, _)| lease.request.id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_coordinator_has_leases_queue_and_remaining_time_and_greater_tokens() {
    let lab = Lab::start().await;
    let (ledger, _bus) = Running::on(&lab).await;
    let names = ["pi-1", "pi-2", "pi-3"];
    stock(&ledger.handle, &names).await;
    let lease = granted(&ledger.handle, request("a", "ann", Some("pi-1"))).await;
    for id in ["z", "y", "x"] {
        let waits = ledger.handle.reserve(by("bob"), request(id, "bob", Some("pi-1"))).await.unwrap();
        assert!(matches!(waits, Reserved::Waiting(..)));
    }
    let (rows, queue) = (ledger.handle.devices().await.unwrap(), ledger.handle.queue().await.unwrap());
    ledger.stop().await;

    let (ledger, _bus) = Running::on(&lab).await;
    assert_eq!(ledger.handle.devices().await.unwrap(), rows);
    let again = ledger.handle.queue().await.unwrap();
    let ids = |places: &[pilab::coordinator::ledger::Place]| {
        places.iter().map(|place| place.request.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&again), ids(&queue));
    assert_eq!(granted(&ledger.handle, request("a", "ann", Some("pi-1"))).await, lease, "asked again");
    let other = granted(&ledger.handle, request("b", "ann", Some("pi-2"))).await;
    assert!(other.token.epoch > lease.token.epoch);
    ledger.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_marks_do_not_pile_up() {
    let lab = Lab::start().await;
    let (ledger, bus) = Running::on(&lab).await;
    stock(&ledger.handle, &["pi-1"]).await;
    for number in 0..500 {
        let id = format!("l{number}");
        granted(&ledger.handle, request(&id, "ann", None)).await;
        ledger.handle.release(by("ann"), lease_id(&id)).await.unwrap();
        ledger.handle.device_ready(device_id("pi-1")).await.unwrap();
    }
    let bucket = subject::ledger_bucket(&lab_name());
    let marks = async {
        loop {
            let snapshot = bus.kv_snapshot(&bucket).await.unwrap();
            // Of 1024 writes, a quarter are deletions.
            if snapshot.entries.iter().filter(|(_, entry)| entry.deleted).count() <= 256 {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, marks).await.unwrap();
    ledger.stop().await;
    assert_eq!(handle_after_stop(&lab).await, vec![None]);
    lab.stop().await;
}
