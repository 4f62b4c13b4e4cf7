//! Which night a moment belongs to, and which nights were missed. Each start opens a night that lasts until the next.

use std::time::Duration;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// The night of a moment, as the number of days from 1970-01-01 UTC to the day on which it starts.
pub fn night_of(at_ms: u64, start: Duration) -> u64 {
    at_ms.saturating_sub(millis(start)) / DAY_MS
}

/// Whether a night that begins at this moment is late: after the window behind its start.
pub fn is_late(at_ms: u64, start: Duration, window: Duration) -> bool {
    at_ms.saturating_sub(millis(start)) % DAY_MS > millis(window)
}

/// The nights between that of the last one that began and the one of this moment, at most `most` of them, the newest.
pub fn missed(last_ms: Option<u64>, now_ms: u64, start: Duration, most: usize) -> Vec<u64> {
    let Some(last) = last_ms.map(|last| night_of(last, start)) else { return Vec::new() };
    let nights: Vec<u64> = (last + 1..night_of(now_ms, start)).rev().take(most).collect();
    nights.into_iter().rev().collect()
}

/// The moment at which a night starts.
pub fn starts_ms(night: u64, start: Duration) -> u64 {
    night * DAY_MS + millis(start)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_lasts_from_its_start_to_the_next() {
        let (start, hour) = (Duration::from_secs(22 * 3600), 3_600_000);
        let ten = starts_ms(100, start);
        for (at, night, late) in [
            (ten, 100, false),
            (ten + 2 * hour, 100, false),
            (ten + 3 * hour, 100, true),
            (ten - 1, 99, true),
        ] {
            assert_eq!(night_of(at, start), night);
            assert_eq!(is_late(at, start, Duration::from_secs(2 * 3600)), late);
        }
        assert_eq!(missed(Some(ten), ten + 24 * hour, start, 9), [0; 0]);
        assert_eq!(missed(Some(ten), ten + 80 * hour, start, 9), [101, 102]);
        assert_eq!(missed(Some(ten), ten + 80 * hour, start, 1), [102]);
        assert_eq!(missed(None, ten, start, 9), [0; 0]);
    }
}
