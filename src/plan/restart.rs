//! When a service that ended is started again.
//!
//! The first time at once: most ends are single ones. A service that ends again before it has run
//! [`SETTLED`] waits longer each time (`plan::backoff`), so that one which cannot run costs the device
//! little, and its last words stay where they can be read.

use super::backoff;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a service must run for its ends before to be forgotten.
pub const SETTLED: Duration = Duration::from_secs(60);

/// The ends of one service that followed each other too soon. It may be written to disk: an agent that is
/// itself started again goes on counting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// Hash of the specification that they are about.
    hash: String,
    /// The boot of the device: what ended with the last one says nothing about this one.
    boot_id: String,
    /// How many.
    ends: u32,
    /// The container whose last end is among them, and which has not been started since.
    counted: Option<String>,
}

impl Restarts {
    /// Takes note that container `id` ended after it had run for `ran`.
    pub fn ended(&mut self, hash: &str, boot_id: &str, id: &str, ran: Duration) {
        if self.hash != hash || self.boot_id != boot_id || ran >= SETTLED {
            *self = Self { hash: hash.to_owned(), boot_id: boot_id.to_owned(), ..Self::default() };
        }
        self.ends = self.ends.saturating_add(1);
        self.counted = Some(id.to_owned());
    }

    /// Takes note that the service was started again.
    pub fn started(&mut self) {
        self.counted = None;
    }

    /// Whether the end in which container `id` is has been taken note of.
    pub fn has_counted(&self, boot_id: &str, id: &str) -> bool {
        self.boot_id == boot_id && self.counted.as_deref() == Some(id)
    }

    /// How many ends of a service of this specification followed each other.
    pub fn ends(&self, hash: &str) -> u32 {
        if self.hash == hash { self.ends } else { 0 }
    }

    /// How long after its last end the service is started again. The jitter depends on `seed`.
    pub fn pause(&self, seed: &str) -> Duration {
        backoff::retry(self.ends.saturating_sub(1), seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    /// The middles of the pauses after ends, each end after the service had run for so long.
    fn pauses(restarts: &mut Restarts, ran: &[Duration]) -> Vec<u64> {
        let one = |ran: &Duration| {
            restarts.ended("hash", "boot", "id", *ran);
            restarts.started();
            let pause = restarts.pause("seed");
            let middles = [0, 10, 20, 40, 80, 160, 300];
            let near = |middle: &&u64| {
                let middle = Duration::from_secs(**middle);
                pause >= middle * 9 / 10 && pause <= middle * 11 / 10
            };
            *middles.iter().find(near).unwrap()
        };
        ran.iter().map(one).collect()
    }

    #[test]
    fn the_first_restart_is_at_once_and_each_later_one_waits_longer() {
        let mut restarts = Restarts::default();
        assert_eq!(pauses(&mut restarts, &[SHORT; 8]), [0, 10, 20, 40, 80, 160, 300, 300]);
        restarts.ends = u32::MAX;
        assert_eq!(pauses(&mut restarts, &[SHORT]), [300], "it saturates");
    }

    #[test]
    fn one_that_ran_settled_begins_anew() {
        let almost = SETTLED.saturating_sub(Duration::from_millis(1));
        let mut restarts = Restarts::default();
        assert_eq!(pauses(&mut restarts, &[SHORT, almost, SHORT, SETTLED, SHORT]), [0, 10, 20, 0, 10]);
    }

    #[test]
    fn ends_of_another_specification_or_boot_do_not_count() {
        let mut restarts = Restarts::default();
        for (hash, boot_id, ends) in
            [("a", "1", 1), ("a", "1", 2), ("b", "1", 1), ("b", "1", 2), ("b", "2", 1), ("b", "2", 2)]
        {
            restarts.ended(hash, boot_id, "id", SHORT);
            assert_eq!(restarts.ends(hash), ends, "{hash} {boot_id}");
        }
        assert_eq!(restarts.ends("a"), 0);
    }

    #[test]
    fn each_end_of_a_container_counts_once() {
        let mut restarts = Restarts::default();
        assert!(!restarts.has_counted("boot", "id"));
        restarts.ended("hash", "boot", "id", SHORT);
        for (boot_id, id, counted) in
            [("boot", "id", true), ("boot", "another", false), ("reboot", "id", false)]
        {
            assert_eq!(restarts.has_counted(boot_id, id), counted, "{boot_id} {id}");
        }
        restarts.started();
        assert!(!restarts.has_counted("boot", "id"), "its next end is another one");
    }
}
