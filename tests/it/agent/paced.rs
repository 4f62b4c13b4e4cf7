//! The reconciler alone, without a bus, in a time that passes by itself: pauses are kept to the second.

use super::V1;
use super::fake::Fake;
use super::lab::{desired, service};
use pilab::agent::feed::Offer;
use pilab::agent::health::{Checks, Findings};
use pilab::agent::intake::{KeyName, Source};
use pilab::agent::policy::Policy;
use pilab::agent::ports::{ContainerRuntime, RunOutcome};
use pilab::agent::reconciler::Reconciler;
use pilab::agent::store::Store;
use pilab::bus::kv::Entry;
use pilab::model::id::{DeploymentName, DeviceId};
use pilab::model::workload::{Phase, Status};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What was told of the one deployment, and when.
type Told = Vec<(Duration, Status)>;

/// Runs a reconciler for `time` on one deployment.
async fn run(fake: &Fake, score: Value, time: Duration) -> Told {
    let dir = tempfile::tempdir().unwrap();
    let shop = DeploymentName::new("shop").unwrap();
    let (statuses, mut told) = watch::channel(None);
    let (checks, _wanted) = watch::channel(Checks::new());
    let (_found, findings) = watch::channel(Findings::new());
    let reconciler = Reconciler::new(
        &DeviceId::new("lab-1").unwrap(),
        "boot".into(),
        Arc::new(fake.clone()),
        Store::open(dir.path()).unwrap(),
        Policy::default(),
        statuses,
        (checks, findings),
    );
    let (offers, offered) = mpsc::channel(1);
    let entry = Entry { revision: 1, written_ns: 1, value: desired(1, score).into(), deleted: false };
    let (taken, _) = oneshot::channel();
    let key = KeyName::Deployment(shop.clone());
    offers.send(Offer { key, entry, source: Source::Delivered, taken }).await.unwrap();
    let (wake, began) = (Notify::new(), Instant::now());
    let mut all = Told::new();
    let follow = async {
        while told.changed().await.is_ok() {
            let now = told.borrow_and_update().as_ref().and_then(|all| all.get(&shop).cloned());
            let Some(status) = now else { continue };
            all.push((began.elapsed(), status));
        }
    };
    tokio::select! {
        () = reconciler.run(offered, &wake, CancellationToken::new()) => panic!("the reconciler ended"),
        ended = fake.watch(&wake) => panic!("the watch ended: {ended:?}"),
        () = follow => {}
        () = tokio::time::sleep(time) => {}
    }
    all
}

/// Asserts that things began at about these seconds: each pause may be a tenth longer or shorter, and what is done
/// in between takes up to `work`.
fn began_at(begun: &[Instant], expected: &[u64], work: Duration) {
    let gaps = begun.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
    assert_eq!(begun.len(), expected.len(), "{gaps:?}");
    for (gap, middle) in gaps.iter().zip(expected.windows(2).map(|pair| pair[1] - pair[0])) {
        let middle = Duration::from_secs(middle);
        let (least, most) = (middle * 9 / 10, middle * 11 / 10 + work);
        assert!(*gap >= least && *gap <= most, "{gap:?} is not {middle:?}: {gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_init_container_is_tried_again_with_its_pauses_and_its_reason() {
    let fake = Fake::with_images(&[V1]);
    let takes = Duration::from_secs(1);
    fake.slow_inits(takes);
    fake.outcome("migrate", RunOutcome::Exited { exit_code: 4 });
    let init = json!({ "name": "migrate", "image": V1 });
    let score = json!({ "init_containers": [init], "services": [service("web", V1)] });
    let told = run(&fake, score, Duration::from_secs(110)).await;
    began_at(&fake.begun(), &[0, 10, 30, 70], 2 * takes);
    let failed = told.iter().position(|(_, status)| status.message.contains("try 1 failed")).unwrap();
    let retries =
        told[failed..].iter().filter(|(_, status)| status.message.starts_with("init container 1 of 1"));
    assert_eq!(retries.count(), 3, "each retry is shown: {told:#?}");
    for (at, status) in &told[failed..] {
        let stands = (status.phase, status.reason.as_str());
        assert_eq!(stands, (Phase::Pending, "InitContainerFailed"), "at {at:?}: {}", status.message);
    }
    assert!(told.iter().all(|(_, status)| status.phase != Phase::Failed));
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_keeps_its_pauses_until_it_has_run_settled() {
    let fake = Fake::with_images(&[V1]);
    fake.crash(Some(5));
    let (heals, score) = (Duration::from_secs(50), json!({ "services": [service("web", V1)] }));
    let heal = async {
        tokio::time::sleep(heals).await;
        fake.crash(None);
    };
    let (told, ()) = tokio::join!(run(&fake, score, Duration::from_secs(200)), heal);
    began_at(&fake.begun(), &[0, 0, 10, 30, 70], Duration::from_secs(1));
    let pauses: Vec<_> = told.iter().filter(|(_, status)| status.message.contains("follows in")).collect();
    assert!(pauses.iter().all(|(_, s)| s.phase == Phase::Pending && s.reason == "CrashLoop"), "{pauses:#?}");
    assert!(pauses[0].1.message.starts_with("web ended with exit code 5: last words; restart 2 follows in "));
    let running: Vec<_> = told.iter().filter(|(_, status)| status.phase == Phase::Running).collect();
    let since = running[0].0;
    let settled = running.iter().find(|(_, status)| status.services[0].end.is_none()).unwrap().0;
    let kept = settled - since;
    assert!(
        kept >= Duration::from_secs(60) && kept < Duration::from_secs(80),
        "evidence was kept for {kept:?}"
    );
}
