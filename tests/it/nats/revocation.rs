//! Credentials that are taken back.

use super::{HOUR, Lab, SOON, device_id, lab_name};
use pilab::bus::issuer::{Holder, Issuer};
use pilab::wire::subject;
use std::os::unix::fs::PermissionsExt;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_cuts_off_one_boot_attempt_and_nobody_else() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let old = lab.issuer.device(&device_id("lab-one"), HOUR).unwrap();
    let (first, second) = (lab.connect("lab-one", &old).await, lab.device("lab-one").await);
    let other = lab.device("lab-two").await;
    let began = Instant::now();
    lab.issuer.revoke(&lab.server.url(), Holder::Device, &old.public_key, old.expires).await.unwrap();
    let pushed = began.elapsed();
    let mut connection = first.connection();
    tokio::time::timeout(SOON, connection.wait_for(|now| !now.up)).await.unwrap().unwrap();
    println!("revoke: pushed after {pushed:?}, cut off after {:?}", began.elapsed());
    lab.refused("lab-one", &old).await;
    // The same device's later attempt, another device and the coordinator have noticed nothing.
    for (bus, key) in [(&second, "lab-one.web"), (&other, "lab-two.web"), (&coordinator, "lab-one.x")] {
        bus.kv_put(subject::STATUS, key, "ok").await.unwrap();
        assert_eq!(bus.connection().borrow().epoch, 1);
    }
    lab.device("lab-one").await;

    // It holds over a restart of server and coordinator.
    let lab = Lab::start_in(lab.stop().await).await;
    lab.refused("lab-one", &old).await;
    lab.device("lab-one").await;
    let revoked = std::fs::metadata(lab.dir.path().join("issuer/revoked.json")).unwrap();
    assert_eq!(revoked.permissions().mode() & 0o777, 0o600);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_the_server_missed_holds_from_its_next_start() {
    let lab = Lab::start().await;
    let old = lab.issuer.device(&device_id("lab-one"), HOUR).unwrap();
    let url = lab.server.url();
    let dir = lab.stop().await;
    let issuer = Issuer::open(dir.path().join("issuer"), &lab_name()).unwrap();
    issuer.revoke(&url, Holder::Device, &old.public_key, old.expires).await.unwrap_err();
    drop(issuer);
    let lab = Lab::start_in(dir).await;
    lab.refused("lab-one", &old).await;
    lab.stop().await;
}
