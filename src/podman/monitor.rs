//! The containers' monitors: each container has a process of its own, conmon, that waits for its end.
//!
//! When conmon is killed, podman says `running` for ever, and its `wait` takes 20 s to fail (4.3). A
//! pidfd tells of conmon's end at once, whatever podman says, and costs nothing meanwhile.

use crate::support::lock::lock;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// A monitor that was there when it was looked for.
#[derive(Debug)]
pub(super) struct Monitor {
    fd: AsyncFd<OwnedFd>,
}

/// What is known of a container's monitor.
#[derive(Debug)]
pub(super) enum Conmon {
    /// It lives, or did a moment ago.
    There(Monitor),
    /// There is no such process.
    Gone,
    /// It cannot be watched: a kernel before 5.3, or podman's processes are not visible here.
    Unseen,
}

impl Conmon {
    /// Looks for a process by its id.
    pub(super) fn find(pid: i32) -> Self {
        let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Self::Unseen };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => match watch(fd).map(|fd| Monitor { fd }) {
                // Dead, but not reaped yet.
                Ok(monitor) if monitor.has_ended() => Self::Gone,
                Ok(monitor) => Self::There(monitor),
                Err(_) => Self::Unseen,
            },
            Err(Errno::SRCH) => Self::Gone,
            Err(_) => Self::Unseen,
        }
    }
}

#[expect(deprecated, reason = "unsound for types whose descriptor may change or close; OwnedFd's does not")]
fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

impl Monitor {
    /// Waits for its end. A pidfd becomes readable then (pidfd_open(2)).
    pub(super) async fn ended(&self) {
        if self.fd.readable().await.is_err() {
            // The runtime shuts down: nothing more will be told.
            std::future::pending::<()>().await;
        }
    }

    fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.get_ref(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

/// The monitors of the services that were seen running, by container id.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    known: Mutex<BTreeMap<String, Watched>>,
    changed: Notify,
}

#[derive(Debug, Clone)]
struct Watched {
    monitor: Arc<Monitor>,
    /// Its end has been told.
    told: bool,
}

impl Monitors {
    /// Whether a container's monitor is known to live.
    pub(super) fn lives(&self, id: &str) -> bool {
        lock(&self.known).get(id).is_some_and(|watched| !watched.monitor.has_ended())
    }

    /// Whether a container's monitor was known and has ended.
    pub(super) fn ended(&self, id: &str) -> bool {
        lock(&self.known).get(id).is_some_and(|watched| watched.monitor.has_ended())
    }

    /// Watches a container's monitor from now on.
    pub(super) fn insert(&self, id: &str, monitor: Monitor) {
        lock(&self.known).insert(id.to_owned(), Watched { monitor: Arc::new(monitor), told: false });
        self.changed.notify_one();
    }

    /// Forgets those of containers that are not there any more.
    pub(super) fn retain(&self, there: impl Fn(&str) -> bool) {
        lock(&self.known).retain(|id, _| there(id));
    }

    /// Notifies `wake` of the end of each monitor, once.
    pub(super) async fn tell(&self, wake: &Notify) -> Infallible {
        loop {
            let untold: Vec<_> = lock(&self.known)
                .iter()
                .filter(|(_, watched)| !watched.told)
                .map(|(id, watched)| (id.clone(), Arc::clone(&watched.monitor)))
                .collect();
            let mut ends: FuturesUnordered<_> = untold
                .into_iter()
                .map(|(id, monitor)| async move {
                    monitor.ended().await;
                    (id, monitor)
                })
                .collect();
            tokio::select! {
                () = self.changed.notified() => {}
                Some((id, monitor)) = ends.next() => {
                    if let Some(watched) = lock(&self.known).get_mut(&id)
                        && Arc::ptr_eq(&watched.monitor, &monitor)
                    {
                        watched.told = true;
                    }
                    wake.notify_one();
                }
            }
        }
    }
}
