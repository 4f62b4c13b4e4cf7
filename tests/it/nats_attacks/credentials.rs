//! Credentials that are no longer, not yet or not at all good: nobody connects with them.

use super::Held;
use crate::nats::{HOUR, Lab, REFUSED_WITHIN, SOON, device_id, lab_name};
use data_encoding::BASE64URL_NOPAD;
use futures_util::future::join_all;
use nkeys::KeyPair;
use pilab::bus::error::BusError;
use pilab::bus::issuer::{Credentials, Holder, Issuer};
use pilab::bus::jwt::{Signer, credentials_file};
use pilab::model::id::UserName;
use pilab::support::clock;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// JWT and seed of a credentials file.
fn parts(credentials: &Credentials) -> (&str, &str) {
    let mut lines = credentials.creds.lines().filter(|line| !line.is_empty() && !line.starts_with('-'));
    (lines.next().unwrap(), lines.next().unwrap())
}

/// A JWT whose body says something else than what was signed.
fn forged(jwt: &str, from: &str, to: &str) -> String {
    let [head, body, signature] = jwt.split('.').collect::<Vec<_>>().try_into().unwrap();
    let body = String::from_utf8(BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap();
    assert!(body.contains(from), "{body}");
    format!("{head}.{}.{signature}", BASE64URL_NOPAD.encode(body.replace(from, to).as_bytes()))
}

fn in_an_hour() -> u64 {
    clock::wall_ms() / 1000 + 3600
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_connects_with_credentials_that_are_not_good() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let device = |name: &str| lab.issuer.device(&device_id(name), HOUR).unwrap();
    let (one, two, earlier) = (device("lab-one"), device("lab-two"), device("lab-one"));
    let ann = lab.issuer.user(&UserName::new("ann").unwrap(), HOUR).unwrap();
    let left = lab.issuer.user(&UserName::new("ann").unwrap(), HOUR).unwrap();
    for (holder, old) in [(Holder::Device, &earlier), (Holder::Person, &left)] {
        lab.issuer.revoke(&lab.server.url(), holder, &old.public_key, old.expires).await.unwrap();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = Issuer::open(elsewhere.path(), &lab_name()).unwrap();
    let (jwt, seed) = parts(&one);
    let own = KeyPair::from_seed(seed).unwrap();
    let account = KeyPair::new_account();
    let signer = Signer { key: &account, now: clock::wall_ms() / 1000 };
    let full = signer.full_user("coordinator", &own.public_key(), None, in_an_hour()).unwrap();
    let by_itself = Signer { key: &own, now: signer.now };
    let by_itself = by_itself.full_user("system", &own.public_key(), None, in_an_hour()).unwrap();
    let rows = [
        ("no credentials", String::new()),
        ("another's JWT with its own key", credentials_file(parts(&two).0, seed)),
        ("a person's JWT with its own key", credentials_file(parts(&ann).0, seed)),
        ("its JWT with another's name", credentials_file(&forged(jwt, "lab-one", "lab-two"), seed)),
        ("its JWT made to last", credentials_file(&forged(jwt, "\"exp\":1", "\"exp\":9"), seed)),
        ("its JWT under the lab's account", {
            let lab_account = issuer_account(parts(&ann).0);
            credentials_file(&forged(jwt, &issuer_account(jwt), &lab_account), seed)
        }),
        ("all rights, signed by an account of its own", credentials_file(&full, seed)),
        ("the system account, signed by itself", credentials_file(&by_itself, seed)),
        ("the same name from another lab", elsewhere.device(&device_id("lab-one"), HOUR).unwrap().creds),
        ("another lab's coordinator", elsewhere.coordinator(HOUR).unwrap().creds),
        ("an earlier boot attempt, revoked", earlier.creds.clone()),
        ("a login that was revoked", left.creds.clone()),
    ];
    let before = Held::read(&coordinator).await;
    let tries = rows.iter().map(async |(name, creds)| {
        let credentials = Credentials { creds: creds.clone(), ..one.clone() };
        (*name, lab.try_connect("lab-one", &credentials, REFUSED_WITHIN).await)
    });
    for (name, connected) in join_all(tries).await {
        assert!(matches!(connected, Err(BusError::Connect { .. })), "{name}: {connected:?}");
    }
    assert_eq!(Held::read(&coordinator).await, before);
    // The good ones are.
    for (name, credentials) in [("lab-one", &one), ("lab-two", &two), ("ann", &ann)] {
        lab.connect(name, credentials).await;
    }
    lab.stop().await;
}

/// The account that a user's JWT says it belongs to.
fn issuer_account(jwt: &str) -> String {
    let body = BASE64URL_NOPAD.decode(jwt.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    body["nats"]["issuer_account"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_end_by_themselves_also_on_a_connection_that_is_up() {
    let lab = Lab::start().await;
    let short = lab.issuer.device(&device_id("lab-one"), Duration::from_secs(2)).unwrap();
    let bus = lab.connect("lab-one", &short).await;
    let mut connection = bus.connection();
    timeout(SOON, connection.wait_for(|now| !now.up)).await.unwrap().unwrap();
    // The server counts whole seconds: within the last one it lets in and cuts off at once.
    let deadline = Instant::now() + SOON;
    while let Ok(bus) = lab.try_connect("lab-one", &short, REFUSED_WITHIN).await {
        assert!(Instant::now() < deadline, "it connects with credentials that have ended: {bus:?}");
    }
    lab.device("lab-one").await;
    lab.stop().await;
}
