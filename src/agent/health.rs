//! The task that runs the services' health checks and owns what they found.
//!
//! Checks of different containers run at the same time, each under its own deadline, so a stuck one holds
//! up nothing else; a container's next check begins an interval after its last one ended.

use super::ports::{ContainerRuntime, RuntimeError};
use crate::model::workload::HealthCheck;
use crate::plan::health::{Finding, Health, Record};
use crate::support::chain::Chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How soon after its start a service is checked first, unless its interval is shorter: Docker waits for
/// a whole interval, which would be over after most probations.
const FIRST: Duration = Duration::from_secs(1);
/// The most checks under way at once: each is a process on the device.
const AT_ONCE: usize = 32;
/// The longest output kept, in characters.
const MAX_OUTPUT: usize = 200;

/// What to check, by container id.
pub type Checks = BTreeMap<String, HealthCheck>;
/// How the checked containers are, by container id.
pub type Findings = BTreeMap<String, Health>;

struct Patient {
    check: HealthCheck,
    since: Instant,
    record: Record,
    /// When its next check is due; none while one is under way.
    due: Option<Instant>,
}

/// Checks what `wanted` names, until `shutdown` or until nobody can name anything any more.
pub async fn run<R: ContainerRuntime>(
    runtime: Arc<R>,
    wanted: watch::Receiver<Checks>,
    found: watch::Sender<Findings>,
    shutdown: CancellationToken,
) {
    let check = move |id: String, timeout| {
        let runtime = Arc::clone(&runtime);
        async move { runtime.check_health(&id, timeout).await }
    };
    keep(check, wanted, found, shutdown).await;
}

async fn keep<F, C>(
    check: C,
    mut wanted: watch::Receiver<Checks>,
    found: watch::Sender<Findings>,
    shutdown: CancellationToken,
) where
    C: Fn(String, Duration) -> F,
    F: Future<Output = Result<(bool, String), RuntimeError>> + Send + 'static,
{
    let mut patients: BTreeMap<String, Patient> = BTreeMap::new();
    let mut checks = JoinSet::new();
    admit(&mut patients, &wanted.borrow_and_update());
    loop {
        let now = Instant::now();
        for (id, patient) in &mut patients {
            if checks.len() >= AT_ONCE || patient.due.is_none_or(|due| due > now) {
                continue;
            }
            patient.due = None;
            let (id, since, timeout) = (id.clone(), patient.since, patient.check.timeout);
            let result = check(id.clone(), timeout);
            checks.spawn(async move {
                let result = tokio::time::timeout(timeout, result).await;
                (id, since, now, result)
            });
        }
        tell(&patients, &found);
        let due =
            patients.values().filter_map(|patient| patient.due).min().filter(|_| checks.len() < AT_ONCE);
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = wanted.changed() => match changed {
                Ok(()) => admit(&mut patients, &wanted.borrow_and_update()),
                Err(_) => return,
            },
            () = sleep_until(due) => {}
            Some(ended) = checks.join_next() => {
                let Ok((id, since, began, result)) = ended else { continue };
                let Some(patient) = patients.get_mut(&id).filter(|patient| patient.since == since) else {
                    continue;
                };
                let finding = match result {
                    Ok(Ok((passed, output))) => {
                        Some(Finding { passed, output: output.chars().take(MAX_OUTPUT).collect() })
                    }
                    // The runtime's trouble is not the service's.
                    Ok(Err(error)) => {
                        tracing::debug!(id, error = %Chain(&error), "a health check could not be run");
                        None
                    }
                    Err(_) => {
                        let seconds = patient.check.timeout.as_secs();
                        Some(Finding { passed: false, output: format!("it did not end within {seconds} s") })
                    }
                };
                if let Some(finding) = finding {
                    patient.record.take(&patient.check, began - since, finding);
                }
                patient.due = Some(Instant::now() + patient.check.interval.max(FIRST));
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Takes in new containers, and forgets those that are not wanted any more.
fn admit(patients: &mut BTreeMap<String, Patient>, wanted: &Checks) {
    patients.retain(|id, patient| wanted.get(id) == Some(&patient.check));
    for (id, check) in wanted {
        patients.entry(id.clone()).or_insert_with(|| {
            let since = Instant::now();
            let due = Some(since + check.interval.min(FIRST));
            Patient { check: check.clone(), since, record: Record::default(), due }
        });
    }
}

fn tell(patients: &BTreeMap<String, Patient>, found: &watch::Sender<Findings>) {
    let all: Findings =
        patients.iter().map(|(id, patient)| (id.clone(), patient.record.health.clone())).collect();
    found.send_if_modified(|now| {
        let changed = *now != all;
        *now = all;
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> HealthCheck {
        let second = Duration::from_secs(1);
        let command = vec!["check".into()];
        HealthCheck {
            command,
            interval: second,
            timeout: 5 * second,
            retries: 2,
            start_period: Duration::ZERO,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_check_is_a_failure_and_stalls_no_other() {
        let ids = ["good", "bad", "stuck", "broken"];
        let all: Checks = ids.iter().map(|&id| (id.to_owned(), check())).collect();
        let (wants, wanted) = watch::channel(all);
        let (finds, mut found) = watch::channel(Findings::new());
        let shutdown = CancellationToken::new();
        let run = |id: String, timeout| async move {
            match id.as_str() {
                "stuck" => std::future::pending().await,
                "broken" => Err(RuntimeError::TimedOut { operation: id, timeout }),
                id => Ok((id == "good", format!("{id}{}", "!".repeat(500)))),
            }
        };
        let began = Instant::now();
        let watching = async {
            found.wait_for(|now| matches!(now.get("bad"), Some(Health::Unhealthy { .. }))).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
            {
                let now = found.borrow();
                assert_eq!((&now["good"], &now["stuck"]), (&Health::Healthy, &Health::Starting));
                let Health::Unhealthy { output } = &now["bad"] else { panic!("{now:?}") };
                assert!(output.starts_with("bad!") && output.len() == 200, "{output}");
            }
            found.wait_for(|now| matches!(now.get("stuck"), Some(Health::Unhealthy { .. }))).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
            assert_eq!(
                found.borrow()["broken"],
                Health::Starting,
                "the runtime's trouble is not the service's"
            );
            wants.send(BTreeMap::from([("new".to_owned(), check())])).unwrap();
            found.wait_for(|now| now.len() == 1 && now.contains_key("new")).await.unwrap();
        };
        tokio::select! {
            () = keep(run, wanted, finds, shutdown) => panic!("it ended"),
            () = watching => {}
        }
    }
}
