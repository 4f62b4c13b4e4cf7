//! Who may ask for what, and how much of it: whoever asks for too much at once waits behind himself alone.

use crate::lost::User;
use crate::nats::{HOUR, SOON};
use crate::support::fake_lab::FakeLab;
use pilab::model::device::{Capability, Model};
use pilab::model::id::UserName;
use pilab::model::role::Role;
use pilab::wire::boot::BOOT;
use pilab::wire::lending::{DEVICES, HEARTBEAT, LOGIN, LoginAsked};
use pilab::wire::request::Reply;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

const DEVICE: &str = "lab-vm-1";

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_requests_hang_keeps_neither_others_nor_her_own_lease_from_being_heard() {
    let hanging = watch::Sender::new(0);
    let count = hanging.clone();
    let lab = FakeLab::start_with(&[(DEVICE, Model::VmAarch64)], &[Capability::Boot], move |parts| {
        parts.find_image = Box::new(move |_, _| {
            count.send_modify(|count| *count += 1);
            Box::pin(std::future::pending())
        });
    })
    .await;
    let (cid, bob) = (Arc::new(User::new(&lab, "cid").await), User::new(&lab, "bob").await);
    cid.reserve("l1", DEVICE).await;

    let boot = json!({"device": DEVICE, "what": {"kind": "image", "image": "none"}});
    let mut asking = JoinSet::new();
    for _ in 0..1500 {
        let (cid, boot) = (Arc::clone(&cid), boot.clone());
        asking.spawn(async move { cid.ask(BOOT, &boot).await });
    }
    let turned_away = async {
        while let Some(answer) = asking.join_next().await {
            if matches!(answer.unwrap(), Reply::Refused { error, .. } if error.contains("too many requests of cid"))
            {
                return;
            }
        }
        panic!("none was turned away");
    };
    timeout(SOON, turned_away).await.unwrap();
    let mut seen = hanging.subscribe();
    timeout(SOON, seen.wait_for(|count| *count > 0)).await.unwrap().unwrap();

    for (user, verb, body) in [(&*cid, HEARTBEAT, json!({"lease": "l1"})), (&bob, DEVICES, json!({}))] {
        let answer = user.ask(verb, &body).await;
        assert!(matches!(answer, Reply::Ok { .. }), "{verb}: {answer:?}");
    }
    asking.shutdown().await;
    lab.stop().await;
}

/// Whoever has a file of the owner's has the owner's rights: a lesser role would be promised and not given.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_has_no_login_of_a_lesser_role() {
    let lab = FakeLab::start(&[(DEVICE, Model::VmAarch64)], &[]).await;
    for (user, role, refused) in [
        ("ann", Role::Viewer, true),
        ("ann", Role::User, true),
        ("ann", Role::Admin, false),
        ("bob", Role::Viewer, false),
    ] {
        let asked = LoginAsked { user: UserName::new(user).unwrap(), role, ttl: HOUR };
        let answer = lab.try_ask::<Value>(LOGIN, &asked).await;
        match answer {
            Err(error) => assert!(refused && error.contains("an admin with every login"), "{user}: {error}"),
            Ok(_) => assert!(!refused, "{user} {role}"),
        }
    }
    lab.stop().await;
}
