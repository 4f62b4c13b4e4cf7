//! Two labs under load while a server of the cluster is killed: nothing is lent twice, no lease is lost, people go on.

use super::{Site, lab};
use crate::support::program::{PATIENCE, finish};
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::servers::Servers;
use pilab::config::login::Login;
use pilab::model::id::{DeviceId, LabName, LeaseId, UserName};
use pilab::model::lease::{Priority, Purpose};
use pilab::model::scenario::Need;
use pilab::wire::lending::{LEASE, LeaseAsked, LeaseRef, LeaseState, RELEASE, RESERVE, Reserve};
use pilab::wire::request::{REQUEST_VERSION, Reply};
use pilab::wire::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const BOARDS: usize = 3;
const CLIENTS: usize = 4;

/// What all clients have seen.
#[derive(Default)]
pub(super) struct Tally {
    /// Who has what, as the holders themselves know it.
    held: Mutex<BTreeMap<DeviceId, LeaseId>>,
    twice: AtomicU64,
    pub(super) granted: AtomicU64,
    /// Questions that were asked again under the same id: nobody answered, or the ledger could not be reached.
    pub(super) again: AtomicU64,
    /// Everything else that went wrong.
    wrong: Mutex<BTreeSet<String>>,
}

impl Tally {
    #[track_caller]
    pub(super) fn check(&self) {
        assert_eq!(*self.wrong.lock().unwrap(), BTreeSet::new());
        assert_eq!(self.twice.load(Ordering::SeqCst), 0, "lent twice");
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// A user's connection.
pub(super) struct Asker {
    bus: Bus,
    lab: LabName,
    user: UserName,
    tally: Arc<Tally>,
}

impl Asker {
    pub(super) async fn login(path: &Path, tally: &Arc<Tally>) -> Self {
        let Login { lab, user, url, creds, tls, .. } = Login::read(path).unwrap();
        let (name, inbox_prefix) = (user.to_string(), subject::inbox(user.as_str()));
        let options = BusOptions { url: Servers::from(url).with_tls(tls), creds, name, inbox_prefix };
        let bus = Bus::connect(options, Some(PATIENCE)).await.unwrap();
        Self { bus, lab, user, tally: Arc::clone(tally) }
    }

    /// Asks until there is an answer; a refusal that says to ask again is none.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &impl Serialize,
    ) -> Result<T, String> {
        let subject = subject::request(&self.lab, &self.user, verb);
        let body = serde_json::to_vec(body).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.bus.request(subject.clone(), body.clone(), Duration::from_secs(10)).await;
            let again = match answer {
                Ok(answer) => match serde_json::from_slice(&answer).unwrap() {
                    Reply::Ok { body } => return Ok(body),
                    Reply::Refused { error, .. } if !error.contains("ask again") => return Err(error),
                    Reply::Refused { error, .. } => error,
                },
                Err(error) => error.to_string(),
            };
            Tally::count(&self.tally.again);
            assert!(Instant::now() < deadline, "{verb}: {again}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks, and does not wait for an answer.
    pub(super) async fn send(&self, verb: &str, body: &impl Serialize) {
        let subject = subject::request(&self.lab, &self.user, verb);
        let _ =
            self.bus.request(subject, serde_json::to_vec(body).unwrap(), Duration::from_millis(100)).await;
    }

    fn asked(id: &LeaseId, length: Duration) -> Reserve {
        let need = Need { role: "1".into(), ..Need::default() };
        Reserve {
            version: REQUEST_VERSION,
            id: id.clone(),
            purpose: Purpose::default(),
            needs: vec![need],
            duration: Some(length),
            priority: Priority::Normal,
            hold_by_process: None,
            start_ms: None,
            no_wait: false,
        }
    }

    /// Asks for a device that is not free.
    pub(super) async fn queue(&self, id: &LeaseId, length: Duration) {
        let state: LeaseState = self.ask(RESERVE, &Self::asked(id, length)).await.unwrap();
        assert!(matches!(state, LeaseState::Waiting(_)), "{state:?}");
    }

    pub(super) async fn reserve(&self, id: &LeaseId, length: Duration) -> Result<Vec<DeviceId>, String> {
        let mut state: LeaseState = self.ask(RESERVE, &Self::asked(id, length)).await?;
        loop {
            match state {
                LeaseState::Granted(row) => return Ok(row.devices),
                LeaseState::Waiting(_) => {}
                LeaseState::Ended => return Err(format!("{id} has ended while it waited")),
            }
            let asked = LeaseAsked { lease: id.clone(), wait: Duration::from_secs(2) };
            state = self.ask(LEASE, &asked).await?;
        }
    }

    pub(super) async fn release(&self, id: &LeaseId) -> Result<(), String> {
        match self.ask::<serde_json::Value>(RELEASE, &LeaseRef { lease: id.clone() }).await {
            // It was done, and the answer was lost.
            Err(error) if error.contains("no lease") || error.contains("ended") => Ok(()),
            done => done.map(drop),
        }
    }

    /// Gets a device, has it for a moment, gives it back, and so on.
    pub(super) async fn work(self, name: String, stop: CancellationToken) {
        for number in 0.. {
            if stop.is_cancelled() {
                return;
            }
            let id = LeaseId::new(format!("{name}-{number}")).unwrap();
            let done = async {
                let devices = self.reserve(&id, Duration::from_secs(600)).await?;
                Tally::count(&self.tally.granted);
                for device in &devices {
                    let before = self.tally.held.lock().unwrap().insert(device.clone(), id.clone());
                    if let Some(before) = before {
                        let both = format!("{device} is {id}'s and {before}'s");
                        self.tally.wrong.lock().unwrap().insert(both);
                        Tally::count(&self.tally.twice);
                    }
                }
                sleep(Duration::from_millis(20)).await;
                for device in &devices {
                    self.tally.held.lock().unwrap().remove(device);
                }
                self.release(&id).await
            };
            if let Err(error) = done.await {
                self.tally.wrong.lock().unwrap().insert(error);
            }
        }
    }
}

async fn until_granted(tally: &Tally, more: u64) {
    let wanted = tally.granted.load(Ordering::SeqCst) + more;
    let deadline = Instant::now() + PATIENCE;
    while tally.granted.load(Ordering::SeqCst) < wanted {
        assert!(Instant::now() < deadline, "nothing is lent any more; {:?}", tally.wrong.lock().unwrap());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_cluster_dies_under_two_labs_and_nothing_is_lent_twice() {
    let Some(mut site) = Site::start().await else { return };
    let (east, west) = tokio::join!(lab(&site, "east", BOARDS), lab(&site, "west", BOARDS));
    let (one, two) = tokio::join!(east.coordinator(), west.coordinator());
    let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
    let mut work = JoinSet::new();
    let mut kept = Vec::new();
    for (name, lab) in [("east", &east), ("west", &west)] {
        for client in 0..CLIENTS {
            let login = lab.login(&format!("u{client}"), "user").await;
            let asker = Asker::login(&login, &tally).await;
            work.spawn(asker.work(format!("{name}-{client}"), stop.clone()));
        }
        // One lease is held all the while.
        let login = lab.login("ann", "user").await;
        let ann = Asker::login(&login, &Arc::new(Tally::default())).await;
        let id = LeaseId::new(format!("{name}-kept")).unwrap();
        let devices = ann.reserve(&id, Duration::from_secs(600)).await.unwrap();
        kept.push((ann, id, devices));
    }
    until_granted(&tally, 30).await;
    // All that the one lab decides goes through this one.
    let leader = site.leader("east").await;
    let before = tally.granted.load(Ordering::SeqCst);
    site.kill_node(leader).await;
    until_granted(&tally, 30).await;
    site.start_node(leader);
    until_granted(&tally, 30).await;
    stop.cancel();
    while let Some(done) = work.join_next().await {
        done.unwrap();
    }
    tally.check();
    for (ann, id, devices) in &kept {
        let asked = LeaseAsked { lease: id.clone(), wait: Duration::ZERO };
        let state: LeaseState = ann.ask(LEASE, &asked).await.unwrap();
        let LeaseState::Granted(row) = state else { panic!("{id} is lost: {state:?}") };
        assert_eq!(&row.devices, devices);
    }
    let (granted, again) = (tally.granted.load(Ordering::SeqCst), tally.again.load(Ordering::SeqCst));
    println!(
        "{granted} leases, {} of them after the first death; {again} questions asked again",
        granted - before
    );
    finish(one).await;
    finish(two).await;
}
