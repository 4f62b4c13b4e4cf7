//! The answer to `GET /containers/<name>/json`, and what it says of a container's end.

use super::api;
use crate::agent::ports::ServiceState;
use crate::model::id::DeviceId;
use crate::model::workload::{ContainerEnd, DEFAULT_STOP_TIMEOUT, label};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// How much sooner than its deadline, counted from the container's start, conmon may end it: it counts
/// from its own start, which comes first by as long as the OCI runtime takes.
const EARLY_MS: u64 = 2000;

/// A container, as far as it is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    pub(super) id: String,
    #[serde(default)]
    pub(super) state: State,
    /// The image's id.
    #[serde(default)]
    pub(super) image: String,
    #[serde(default)]
    image_digest: String,
    #[serde(default)]
    config: Config,
}

/// What it does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    #[serde(default)]
    status: String,
    /// Its first process; 0 when there is none.
    #[serde(default)]
    pub(super) pid: i32,
    /// The process that waits for it; 0 when there is none.
    #[serde(default)]
    pub(super) conmon_pid: i32,
    #[serde(default)]
    exit_code: i32,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    /// `Healthcheck` before podman 4.4.
    #[serde(default, alias = "Healthcheck")]
    pub(super) health: Option<api::HealthLog>,
    /// RFC 3339; year 1 when never.
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    finished_at: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    /// After how many seconds conmon ends it.
    #[serde(default)]
    timeout: u64,
    /// How many seconds it has to end after it was asked to.
    stop_timeout: Option<u64>,
}

impl Inspected {
    /// The value of one of its labels.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether `device`'s agent made it.
    pub(super) fn is_of(&self, device: &DeviceId) -> bool {
        self.label(label::MANAGED_BY) == Some(label::AGENT)
            && self.label(label::DEVICE) == Some(device.as_str())
    }

    /// How long it may take to end after it was asked to.
    pub(super) fn stop_timeout(&self) -> Duration {
        self.config.stop_timeout.map_or(DEFAULT_STOP_TIMEOUT, Duration::from_secs)
    }

    /// What podman says it does.
    pub(super) fn state(&self) -> ServiceState {
        api::state(&self.state.status, self.state.exit_code)
    }

    /// Whether it was ever started.
    pub(super) fn has_run(&self) -> bool {
        unix_ms(&self.state.started_at).is_some()
    }

    /// After which time conmon ends it; zero when never.
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_secs(self.config.timeout)
    }

    /// Whether it ran and ended. podman's `wait` answers 0 for one that never started.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state(), ServiceState::Exited { .. }) && self.has_run()
    }

    /// The evidence of its end, all but the log; of one that has not ended, what is known by now.
    pub(super) fn end(&self) -> ContainerEnd {
        let ended = self.has_ended();
        let code = if ended { self.state.exit_code } else { -1 };
        let started = unix_ms(&self.state.started_at);
        let until = if ended { unix_ms(&self.state.finished_at) } else { now_ms() };
        let ran_ms = until.zip(started).map(|(end, start)| end - start);
        let ran_ms = ran_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
        let deadline_ms = self.config.timeout.saturating_mul(1000);
        let image_digest = match (self.image_digest.is_empty(), self.image.is_empty()) {
            (false, _) => self.image_digest.clone(),
            (true, false) => format!("sha256:{}", self.image.trim_start_matches("sha256:")),
            (true, true) => String::new(),
        };
        ContainerEnd {
            exit_code: code,
            signal: u8::try_from(code).ok().and_then(|code| code.checked_sub(128)).filter(|n| *n > 0),
            oom: self.state.oom_killed,
            // conmon's deadline shows as -1, which other failures of the runtime do too.
            timed_out: ended
                && code == -1
                && deadline_ms > 0
                && ran_ms.saturating_add(EARLY_MS) >= deadline_ms,
            image_digest,
            ran_ms,
            log_tail: String::new(),
        }
    }
}

fn now_ms() -> Option<i64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(now.as_millis()).ok()
}

/// Milliseconds since 1970 of an RFC 3339 time; none for one before, as podman's "never" is.
fn unix_ms(text: &str) -> Option<i64> {
    unix_ns(text).map(|ns| ns / 1_000_000)
}

/// Nanoseconds since 1970 of an RFC 3339 time; none for one before, or after 2262.
pub(super) fn unix_ns(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let fraction: String =
        fraction.trim_start_matches('.').chars().chain("000000000".chars()).take(9).collect();
    let offset = match zone.split_at(1) {
        ("Z", _) => 0,
        (sign, zone) => {
            let (hours, minutes) = zone.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if sign == "-" { -minutes } else { minutes }
        }
    };
    // Days from 1970 in the proleptic Gregorian calendar, years counted from March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 719_469;
    let seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction.parse().ok()?).filter(|ns| *ns >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podmans_times_are_read() {
        assert_eq!(unix_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_ms("2026-11-24T02:03:00.123456789Z"), Some(1_795_485_780_123));
        assert_eq!(unix_ms("2026-11-24T04:03:00.5+02:00"), Some(1_795_485_780_500));
        assert_eq!(unix_ms("2024-02-29T23:59:59-01:30"), Some(1_709_256_599_000));
        for never in ["0001-01-01T00:00:00Z", "", "0001", "yyyy-01-01T00:00:00Z", "2024-02-29T23:59:59"] {
            assert_eq!(unix_ms(never), None, "{never}");
        }
    }

    fn inspected(status: &str, code: i32, started: &str, finished: &str) -> Inspected {
        let state = serde_json::json!({ "Status": status, "ExitCode": code, "StartedAt": started,
            "FinishedAt": finished });
        let config = serde_json::json!({ "Timeout": 7 });
        serde_json::from_value(
            serde_json::json!({ "Id": "x", "Image": "ab", "State": state, "Config": config }),
        )
        .unwrap()
    }

    #[test]
    fn only_what_ran_has_ended() {
        let (never, then) = ("0001-01-01T00:00:00Z", "2026-11-24T02:03:00Z");
        assert!(inspected("exited", 0, then, then).has_ended());
        assert!(inspected("stopped", 0, then, then).has_ended());
        for status in ["created", "running", "stopping", "paused", "new-in-podman-9"] {
            assert!(!inspected(status, 0, then, then).has_ended(), "{status}");
        }
        assert!(!inspected("exited", 0, never, never).has_ended());
    }

    #[test]
    fn the_end_tells_signals_and_conmons_deadline() {
        let (start, at_4, at_8) = ("2026-11-24T02:03:00Z", "2026-11-24T02:03:04Z", "2026-11-24T02:03:08Z");
        let end = inspected("exited", 137, start, at_4).end();
        assert_eq!((end.signal, end.ran_ms, end.image_digest.as_str()), (Some(9), 4000, "sha256:ab"));
        let end = inspected("exited", 1, start, at_4).end();
        assert_eq!((end.signal, end.timed_out), (None, false));
        assert!(!inspected("exited", -1, start, at_4).end().timed_out, "-1 before the deadline");
        let end = inspected("exited", -1, start, at_8).end();
        assert_eq!((end.exit_code, end.signal, end.timed_out), (-1, None, true));
        let end = inspected("running", 0, start, "0001-01-01T00:00:00Z").end();
        assert_eq!((end.exit_code, end.timed_out, end.ran_ms > 0), (-1, false, true), "it has not ended");
    }
}
