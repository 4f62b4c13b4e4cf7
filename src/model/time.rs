//! When something happened, on two clocks, and when something ends.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// One instant on the coordinator's host. Within one boot of the host the boot clock orders; wall
/// time is for people, and for ordering across boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Nanoseconds of `CLOCK_BOOTTIME` (clock_gettime(2)): never set back, counts suspend.
    pub boot_ns: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub wall_ms: u64,
}

impl Stamp {
    /// Seconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn seconds_since(&self, earlier: &Stamp) -> f64 {
        Duration::from_nanos(self.boot_ns.saturating_sub(earlier.boot_ns)).as_secs_f64()
    }
}

/// One boot of the coordinator's host: `/proc/sys/kernel/random/boot_id` (random(4)), a UUID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostBoot(u128);

/// A text is not the id of a boot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a boot id is a UUID, 32 hexadecimal digits in five groups: {0:?} is none")]
pub struct HostBootError(String);

impl std::str::FromStr for HostBoot {
    type Err = HostBootError;
    fn from_str(text: &str) -> Result<Self, HostBootError> {
        let groups = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
        let digits = text.replace('-', "");
        // `from_str_radix` alone would let a sign pass.
        let hexadecimal = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(&digits, 16).ok().filter(|_| groups && hexadecimal);
        number.map(Self).ok_or_else(|| HostBootError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for HostBoot {
    type Error = HostBootError;
    fn try_from(text: String) -> Result<Self, HostBootError> {
        text.parse()
    }
}

impl From<HostBoot> for String {
    fn from(boot: HostBoot) -> String {
        boot.to_string()
    }
}

impl fmt::Display for HostBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// An instant that can be compared with one in another boot of the coordinator's host.
///
/// Within a boot the boot clock rules, whatever the wall clock is set to. Across boots wall time counts, when
/// the clock was synchronised at both instants; until then no time has passed that anybody could know of. (A
/// Raspberry Pi has no battery clock, and may be the coordinator.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// In which boot of the host.
    pub boot: HostBoot,
    /// When.
    #[serde(flatten)]
    pub at: Stamp,
    /// Whether the wall clock was synchronised.
    pub synchronised: bool,
}

impl Moment {
    /// How long from `self` to `now`: zero when it is not past, none when nobody can know.
    pub fn elapsed(&self, now: &Moment) -> Option<Duration> {
        if self.boot == now.boot {
            Some(Duration::from_nanos(now.at.boot_ns.saturating_sub(self.at.boot_ns)))
        } else if self.synchronised && now.synchronised {
            Some(Duration::from_millis(now.at.wall_ms.saturating_sub(self.at.wall_ms)))
        } else {
            None
        }
    }
}

/// When something ends: a length of time after a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// From when it counts.
    pub from: Moment,
    /// How long after.
    pub length: Duration,
}

impl Deadline {
    /// What is left of it: zero when it has passed, none while it is frozen.
    pub fn left(&self, now: &Moment) -> Option<Duration> {
        self.from.elapsed(now).map(|elapsed| self.length.saturating_sub(elapsed))
    }

    /// The same deadline on the clocks of `now`, when it should be written down anew: once the clock is
    /// synchronised, for a deadline of another boot or one whose wall time nobody vouched for. Of the latter,
    /// from another boot, nobody knows how much has passed: it has its whole length again.
    pub fn anchored(&self, now: &Moment) -> Option<Deadline> {
        let sound = self.from.synchronised && self.from.boot == now.boot;
        (now.synchronised && !sound)
            .then(|| Deadline { from: *now, length: self.left(now).unwrap_or(self.length) })
    }

    /// Its wall time, in milliseconds since 1970-01-01 UTC: for people.
    pub fn wall_ms(&self) -> u64 {
        self.from.at.wall_ms.saturating_add(u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot: u128, boot_s: u64, wall_s: u64, synchronised: bool) -> Moment {
        let at = Stamp { boot_ns: boot_s * 1_000_000_000, wall_ms: wall_s * 1000 };
        Moment { boot: HostBoot(boot), at, synchronised }
    }

    #[test]
    fn which_clock_rules() {
        let some = |seconds| Some(Duration::from_secs(seconds));
        let table = [
            // The same boot: the boot clock, wherever the wall clock went.
            (moment(1, 10, 1000, true), moment(1, 70, 1060, true), some(60)),
            (moment(1, 10, 1000, true), moment(1, 70, 9999, true), some(60)),
            (moment(1, 10, 1000, true), moment(1, 70, 0, false), some(60)),
            (moment(1, 10, 1000, true), moment(1, 5, 1000, true), some(0)),
            // Another boot: the wall clock, if it was right both times.
            (moment(1, 500, 1000, true), moment(2, 3, 1060, true), some(60)),
            (moment(1, 500, 1000, true), moment(2, 3, 900, true), some(0)),
            (moment(1, 500, 1000, true), moment(2, 3, 1060, false), None),
            (moment(1, 500, 5, false), moment(2, 3, 1060, true), None),
        ];
        for (from, now, elapsed) in table {
            assert_eq!(from.elapsed(&now), elapsed, "{from:?} {now:?}");
            let left = Deadline { from, length: Duration::from_secs(100) }.left(&now);
            assert_eq!(left, elapsed.map(|elapsed| Duration::from_secs(100) - elapsed));
        }
    }

    #[test]
    fn a_deadline_is_written_anew_once_the_clock_can_be_trusted() {
        let deadline = |from| Deadline { from, length: Duration::from_secs(100) };
        let seconds = |from: Moment, now: Moment| deadline(from).anchored(&now).map(|d| d.length.as_secs());
        assert_eq!(seconds(moment(1, 10, 1000, true), moment(1, 70, 9, true)), None, "it is sound");
        assert_eq!(seconds(moment(1, 10, 5, false), moment(1, 70, 65, false)), None, "not yet");
        assert_eq!(seconds(moment(1, 10, 5, false), moment(1, 70, 9000, true)), Some(40));
        assert_eq!(seconds(moment(1, 10, 1000, true), moment(2, 1, 1060, false)), None, "frozen");
        assert_eq!(seconds(moment(1, 10, 1000, true), moment(2, 1, 1060, true)), Some(40));
        assert_eq!(seconds(moment(1, 10, 5, false), moment(2, 1, 1060, true)), Some(100), "nobody knows");
    }

    #[test]
    fn a_boot_id_is_read_and_written_as_linux_does() {
        let text = "0f3c2a51-9d0e-4b6a-8c11-00000000beef";
        let boot: HostBoot = text.parse().unwrap();
        assert_eq!(boot.to_string(), text);
        assert_eq!(serde_json::to_string(&boot).unwrap(), format!("{text:?}"));
        for bad in ["", "x", "0f3c2a519d0e4b6a8c1100000000beef", "+f3c2a51-9d0e-4b6a-8c11-00000000beef"] {
            assert!(bad.parse::<HostBoot>().is_err(), "{bad:?}");
        }
    }
}
