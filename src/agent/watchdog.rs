//! Tells the service manager that the agent lives, as long as its reconciler moves, and what it runs.
//!
//! The reconciler looks at the runtime every 15 s at least, so its task is polled at least that often. A
//! sign of life is sent only when it was polled since the last one: an agent whose reconciler waits for
//! something that never comes is ended and started again, although all its other tasks are well.

use super::report::Statuses;
use crate::support::notify::Notifier;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Counts how often a task moved.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Runs `task`; each poll of it is a beat.
    pub async fn of<F: Future>(&self, task: F) -> F::Output {
        let mut task = pin!(task);
        poll_fn(|context| {
            self.0.fetch_add(1, Ordering::Relaxed);
            task.as_mut().poll(context)
        })
        .await
    }

    fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tells until the agent ends. Returns at once when no service manager wants to be told.
pub async fn run(
    notifier: Option<Notifier>,
    pulse: Pulse,
    mut statuses: watch::Receiver<Statuses>,
    shutdown: CancellationToken,
) {
    let Some(notifier) = notifier else { return };
    // Twice as often as is asked for, as sd_watchdog_enabled(3) recommends.
    let period = notifier.watchdog().map_or(Duration::MAX, |bound| bound / 2);
    let mut ticks = tokio::time::interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    notifier.ready();
    let mut told = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let beats = pulse.beats();
                if beats != told {
                    told = beats;
                    notifier.alive();
                }
            }
            Ok(()) = statuses.changed() => notifier.status(&line(&statuses.borrow_and_update())),
            () = shutdown.cancelled() => break,
        }
    }
    notifier.stopping();
}

/// What `systemctl status` shows.
fn line(statuses: &Statuses) -> String {
    let Some(statuses) = statuses else { return "has not looked at the device yet".to_owned() };
    let mut phases: BTreeMap<String, usize> = BTreeMap::new();
    for status in statuses.values() {
        *phases.entry(status.phase.to_string()).or_default() += 1;
    }
    let phases: Vec<String> = phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    match phases.as_slice() {
        [] => "no deployments".to_owned(),
        phases => format!("deployments: {}", phases.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    struct Manager {
        socket: UnixDatagram,
        _dir: tempfile::TempDir,
    }

    impl Manager {
        fn new() -> (Self, Notifier) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            let notifier = Notifier::new(path.as_os_str(), Some(Duration::from_secs(90))).unwrap();
            (Self { socket, _dir: dir }, notifier)
        }

        fn heard(&self) -> Vec<String> {
            let mut buffer = [0; 512];
            let next = || {
                let length = self.socket.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
            };
            std::iter::from_fn(next).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_end_when_the_task_no_longer_moves() {
        let (manager, notifier) = Manager::new();
        let (shutdown, pulse) = (CancellationToken::new(), Pulse::default());
        let (statuses, seen) = watch::channel(None);
        let told = run(Some(notifier), pulse.clone(), seen, shutdown.clone());
        let moving = async {
            // Looks every 15 s for 3 minutes, and then waits for what never comes.
            for _ in 0..12 {
                tokio::time::sleep(Duration::from_secs(15)).await;
            }
            std::future::pending::<()>().await;
        };
        // Tasks of their own: who is polled with another would beat for it.
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(told);
        let (stop, beating) = (shutdown.clone(), pulse.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = beating.of(moving) => {}
                () = stop.cancelled() => {}
            }
        });
        tokio::time::sleep(Duration::from_secs(181)).await;
        let heard = manager.heard();
        assert_eq!(heard[0], "READY=1");
        // At 45, 90, 135 and 180 s, and at the start if the task was polled before the first tick.
        let alive = heard[1..].iter().filter(|line| *line == "WATCHDOG=1").count();
        assert!((4..=5).contains(&alive), "{heard:?}");
        // The tick at 225 s still tells of a poll at 180 s that came after the tick of then.
        tokio::time::sleep(Duration::from_secs(50)).await;
        manager.heard();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(manager.heard(), Vec::<String>::new());

        statuses.send(Some(BTreeMap::new())).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
        assert_eq!(manager.heard(), ["STATUS=no deployments", "STOPPING=1"]);
    }
}
