//! The pauses of a console that is shown again: as long as they were, or shorter by a factor.

use crate::model::boot::BootAttempt;
use crate::model::time::Stamp;
use std::time::Duration;

/// The longest pause: a board may have stood still for a night.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Where a replay is.
#[derive(Debug)]
pub(super) struct Pace {
    speed: f64,
    last: Option<(BootAttempt, Stamp)>,
}

impl Pace {
    /// `speed` times as fast as it was.
    pub(super) fn new(speed: f64) -> Self {
        Self { speed, last: None }
    }

    /// How long to wait before what came then. Between two boot attempts there is no pause to see again.
    pub(super) fn pause(&mut self, attempt: BootAttempt, at: Stamp) -> Duration {
        let before = self.last.replace((attempt, at)).filter(|(before, _)| *before == attempt);
        let was = before.map_or(0, |(_, before)| at.boot_ns.saturating_sub(before.boot_ns));
        Duration::from_nanos(was).div_f64(self.speed).min(MAX_PAUSE)
    }
}

/// A speed that can be divided by.
pub(in crate::cli) fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.01..=1000.0).contains(&speed) => Ok(speed),
        _ => Err("use a number from 0.01 to 1000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_as_they_were_within_a_boot_attempt() {
        let mut pace = Pace::new(2.0);
        let mut pause = |attempt, ms: u64| {
            pace.pause(BootAttempt(attempt), Stamp { boot_ns: ms * 1_000_000, wall_ms: 0 }).as_millis()
        };
        assert_eq!([pause(1, 1000), pause(1, 1400), pause(1, 1300), pause(1, 1300)], [0, 200, 0, 0]);
        assert_eq!([pause(2, 9_000), pause(2, 900_000)], [0, 60_000]);
    }

    #[test]
    fn a_speed_is_a_number_that_makes_sense() {
        assert_eq!(speed("0.5"), Ok(0.5));
        for text in ["0", "-1", "NaN", "inf", "1e9", "fast", ""] {
            speed(text).unwrap_err();
        }
    }
}
