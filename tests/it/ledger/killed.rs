//! A coordinator that is killed with `kill -9` at each place where that leaves the ledger in another state.

use super::*;
use crate::nats::SOON;
use pilab::bus::connect::BusOptions;
use pilab::bus::issuer::COORDINATOR;
use pilab::coordinator::ledger::FailPoint;
use pilab::model::health::{Finding, Origin, Sign, Trust};
use pilab::model::run::Verdict;
use pilab::support::command::Command;
use pilab::wire::subject;
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicU32, Ordering};

const DIR: &str = "PILAB_TEST_LEDGER_DIR";
const DEATH: &str = "PILAB_TEST_LEDGER_DEATH";

/// What goes on in the lab. Done twice, it comes to the same: `waits` has `pi-1`, `pi-2` has a finding, and `pi-3` is gone.
async fn script(ledger: &LedgerHandle) {
    let allowed = |done: Result<(), LedgerError>| match done {
        // The second time some of it has been done already.
        Ok(()) | Err(LedgerError::Refused(_)) => {}
        Err(error) => panic!("{error}"),
    };
    stock(ledger, &["pi-1", "pi-2", "pi-3"]).await;
    for (id, device) in [("first", "pi-1"), ("second", "pi-2"), ("waits", "pi-1")] {
        allowed(ledger.reserve(by("ann"), request(id, "ann", Some(device))).await.map(drop));
    }
    allowed(ledger.extend(by("ann"), lease_id("second"), HOUR, 1).await.map(drop));
    allowed(ledger.transfer(by("ann"), lease_id("second"), user("bob")).await.map(drop));
    allowed(ledger.extend(by("bob"), lease_id("second"), HOUR, 2).await.map(drop));
    allowed(ledger.release(by("ann"), lease_id("first")).await);
    allowed(ledger.device_ready(device_id("pi-1")).await);
    allowed(ledger.release(by("bob"), lease_id("second")).await);
    allowed(ledger.device_ready(device_id("pi-2")).await);
    let finding = Finding {
        origin: Origin::Run,
        of: "run".to_owned(),
        verdict: Verdict::Passed,
        sign: Sign::Clean,
        cause: String::new(),
        boots: 1,
        at: (host_clock())(),
        past: false,
    };
    allowed(ledger.device_finding(device_id("pi-2"), finding).await);
    ledger.inventory(vec![device("pi-1"), device("pi-2")], Health::Good).await.unwrap();
}

fn check(rows: &[pilab::coordinator::ledger::DeviceRow]) {
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            let lease = row.lease.as_ref().map(|(lease, _)| lease.request.id.as_str());
            let Trust { findings, clean, .. } = &row.record.trust;
            (row.record.device.id.as_str(), lease, row.record.handover.is_some(), findings.len(), *clean)
        })
        .collect();
    assert_eq!(seen, [("pi-1", Some("waits"), false, 0, 0), ("pi-2", None, false, 1, 1)]);
}

/// Not a test of its own: the coordinator that the next test has killed.
#[tokio::test(flavor = "multi_thread")]
async fn helper_coordinator_that_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = std::path::PathBuf::from(dir);
    let death: u32 = std::env::var(DEATH).unwrap().parse().unwrap();
    let file = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let bus = BusOptions {
        url: file("url").into(),
        creds: file("creds"),
        name: COORDINATOR.to_owned(),
        inbox_prefix: subject::inbox(COORDINATOR),
    };
    let bus = Bus::connect(bus, Some(SOON)).await.unwrap();
    let (count, reached) = (AtomicU32::new(0), dir.join("reached"));
    let hook = Hook::new(move |point| {
        if count.fetch_add(1, Ordering::Relaxed) + 1 == death {
            std::fs::write(&reached, format!("{point:?}")).unwrap();
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
    });
    let ledger = Running::start(options(&bus, &dir, Some(hook))).await;
    script(&ledger.handle).await;
    ledger.stop().await;
    std::fs::write(dir.join("reached"), "").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_coordinator_finishes_whatever_a_killed_one_began() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let stream = subject::stream(&subject::ledger_bucket(&lab_name()));
    let this = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let mut visited = BTreeSet::new();
    for death in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let creds = lab.issuer.coordinator(HOUR).unwrap().creds;
        for (name, text) in [("url", lab.server.url()), ("creds", creds)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let killed = Command::new(this.clone())
            .args(["--exact", "ledger::killed::helper_coordinator_that_is_killed", "--nocapture"])
            .env(DIR, dir.path().to_string_lossy())
            .env(DEATH, death.to_string())
            .build()
            .stdout(std::process::Stdio::null())
            .status();
        let killed = tokio::time::timeout(SOON, killed).await.unwrap().unwrap();
        let point = std::fs::read_to_string(dir.path().join("reached")).unwrap();
        assert_eq!(killed.signal(), (!point.is_empty()).then_some(9), "{killed} at {point:?}");

        let ledger = Running::start(options(&bus, dir.path(), None)).await;
        let rows = ledger.handle.devices().await.unwrap();
        let leased: Vec<_> = rows.iter().filter_map(|row| row.lease.as_ref()).collect();
        let ids: BTreeSet<_> = leased.iter().map(|(lease, _)| &lease.request.id).collect();
        assert_eq!(ids.len(), leased.len(), "after {point}: {rows:?}");
        if !point.is_empty() {
            script(&ledger.handle).await;
        }
        check(&ledger.handle.devices().await.unwrap());
        assert!(ledger.handle.queue().await.unwrap().is_empty(), "after {point}");
        ledger.stop().await;
        bus.api::<Value>(&format!("STREAM.DELETE.{stream}"), &Value::Null).await.unwrap();
        if point.is_empty() {
            println!("killed at {} places", death - 1);
            break;
        }
        visited.insert(point);
    }
    let all = FailPoint::ALL.map(|point| format!("{point:?}"));
    assert_eq!(visited, BTreeSet::from(all), "each fail point is visited");
    lab.stop().await;
}
