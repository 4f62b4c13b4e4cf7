//! Thousands of ways in which somebody stands still on the way to a device's desired state, on a real nats-server, while
//! the device is handed over to another.

use crate::nats::{Lab, device_id, score, web};
use pilab::bus::connect::Bus;
use pilab::bus::provision::{self, ProvisionError};
use pilab::model::id::DeviceId;
use pilab::model::lease::FencingToken;
use pilab::model::workload::{Desired, Index};
use pilab::wire::subject;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

const INTERLEAVINGS: u64 = 10_000;
/// Devices side by side.
const DEVICES: u64 = 16;
/// How long the longest way there and back takes: a put asks five times.
const MICROS: u64 = 3_000;

fn token(sequence: u64) -> FencingToken {
    FencingToken { epoch: 1, sequence }
}

/// What the old holder is at.
#[derive(Debug, Clone, Copy)]
enum Late {
    Put,
    Raw,
    Delete,
}

async fn late(bus: &Bus, device: &DeviceId, act: Late, token: FencingToken) -> Result<(), ProvisionError> {
    match act {
        Late::Put => provision::put_desired(bus, device, &web(), &score(), token).await.map(drop),
        Late::Raw => provision::put_raw(bus, device, &web(), b"x".to_vec(), token).await.map(drop),
        Late::Delete => provision::delete_desired(bus, device, &web(), token).await.map(drop),
    }
}

async fn entry(bus: &Bus, key: &str) -> Option<Vec<u8>> {
    let entry = bus.kv_get(subject::DESIRED, key).await.unwrap().filter(|entry| !entry.deleted)?;
    Some(entry.value.to_vec())
}

/// What an agent would run of what is there: what the index names at its generation, and what has come under the floor or later.
async fn runs(bus: &Bus, device: &DeviceId) -> Option<Desired> {
    let index = entry(bus, &subject::index_key(device)).await?;
    let Index { deployments, floor, .. } = serde_json::from_slice(&index).unwrap();
    let value = entry(bus, &subject::deployment_key(device, &web())).await?;
    let value: Desired = serde_json::from_slice(&value).ok()?;
    let named = deployments.get(&web()) == Some(&value.generation);
    (named || Some(value.token) >= floor).then_some(value)
}

/// How many acts of old holders were done, and how many were refused.
async fn hand_over(bus: Bus, device: DeviceId, seed: u64, count: u64) -> (u64, u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut done, mut refused) = (0, 0);
    for number in 0..count {
        let (old, new) = (token(2 * number + 1), token(2 * number + 2));
        let act = [Late::Put, Late::Raw, Late::Delete][random.random_range(0..3)];
        let pause = Duration::from_micros(random.random_range(0..MICROS));
        let (theirs, of) = (bus.clone(), device.clone());
        let mut holder = JoinSet::new();
        holder.spawn(async move { late(&theirs, &of, act, old).await });
        sleep(pause).await;
        provision::device(&bus, &device, new).await.unwrap();
        let asked_after = random.random_bool(0.1);
        if asked_after {
            let after = late(&bus, &device, act, old).await;
            assert!(matches!(after, Err(ProvisionError::Fenced { .. })), "{act:?} {after:?}");
        }
        // The next holder does not wait for what the last one is still at.
        let mine = random.random_bool(0.5);
        if mine {
            provision::put_desired(&bus, &device, &web(), &score(), new).await.unwrap();
        }
        match holder.join_next().await.unwrap().unwrap() {
            Ok(()) => done += 1,
            Err(ProvisionError::Fenced { .. }) => refused += 1,
            Err(error) => panic!("{act:?}: {error:?}"),
        }
        let runs = runs(&bus, &device).await;
        assert_eq!(
            runs.map(|desired| desired.token),
            mine.then_some(new),
            "{number}: {act:?} after {pause:?}"
        );
    }
    (done, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_stood_still_past_its_lease_deploys_nothing_and_removes_nothing() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let mut devices = JoinSet::new();
    for number in 0..DEVICES {
        let device = device_id(&format!("lab-{number}"));
        devices.spawn(hand_over(bus.clone(), device, number, INTERLEAVINGS / DEVICES));
    }
    let (mut done, mut refused) = (0, 0);
    while let Some(tally) = devices.join_next().await {
        let tally = tally.unwrap();
        (done, refused) = (done + tally.0, refused + tally.1);
    }
    println!("{done} done in time, {refused} refused");
    assert!(done > INTERLEAVINGS / 50 && refused > INTERLEAVINGS / 50, "{done} {refused}");
    lab.stop().await;
}
