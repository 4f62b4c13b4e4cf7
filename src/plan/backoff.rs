//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// The pause after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause: short enough that a person who mended the cause does not wait long.
const LONGEST: Duration = Duration::from_secs(60);
/// The pause after the first failure of a deployment: Kubernetes' `CrashLoopBackOff`.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// The longest pause between two tries of a deployment: Kubernetes' `CrashLoopBackOff`.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// The pause after `failures` in a row: none after 0, then 1 s, doubling to 60 s.
pub fn pause(failures: u32) -> Duration {
    doubled(failures, FIRST, LONGEST)
}

/// The pause before a failed deployment is tried again: 10 s, doubling to 300 s, and up to a tenth more or
/// less, so that a fleet which failed together does not come back together. The jitter depends on `seed`
/// and the number of failures alone.
pub fn retry(failures: u32, seed: &str) -> Duration {
    let pause = doubled(failures, FIRST_RETRY, LONGEST_RETRY);
    // FNV-1a (RFC 9923): cheap, and spread well enough for this.
    let bytes = seed.bytes().chain(failures.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let percent = 90 + u32::try_from((hash >> 32) % 21).unwrap_or(10);
    pause * percent / 100
}

fn doubled(failures: u32, first: Duration, longest: Duration) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => first.saturating_mul(1 << (n - 1).min(10)).min(longest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_minute() {
        let seconds: Vec<u64> = (0..9).map(|n| pause(n).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), LONGEST);
    }

    #[test]
    fn retries_double_to_five_minutes_with_a_tenth_of_jitter() {
        for seed in ["lab-1/shop", "lab-2/shop", ""] {
            for (failures, middle) in
                [(1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (40, 300), (u32::MAX, 300)]
            {
                let (pause, middle) = (retry(failures, seed), Duration::from_secs(middle));
                assert!(
                    pause >= middle * 9 / 10 && pause <= middle * 11 / 10,
                    "{failures} {seed}: {pause:?}"
                );
            }
        }
        assert_eq!(retry(0, "a"), Duration::ZERO);
        assert_eq!(retry(3, "a"), retry(3, "a"));
        let spread: std::collections::BTreeSet<_> = (0..50).map(|n| retry(1, &n.to_string())).collect();
        assert!(spread.len() > 10, "{spread:?}");
    }
}
