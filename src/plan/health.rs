//! Whether a service is well, from what its checks found. The rules are Docker's
//! (docs.docker.com/reference/dockerfile, HEALTHCHECK): it is starting until a check passes; failures
//! within the start period do not count unless one has passed before; as many failures in a row as
//! `retries` make it unhealthy, one pass makes it healthy again.

use crate::model::workload::HealthCheck;
use std::time::Duration;

/// How a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// No check has passed yet, and not enough have failed.
    Starting,
    /// The last check passed, or too few have failed since one did.
    Healthy,
    /// Enough checks in a row failed.
    Unhealthy {
        /// What the last one printed.
        output: String,
    },
}

/// What is remembered of a service between its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How it is.
    pub health: Health,
    /// Failures in a row that count.
    failures: u32,
}

impl Default for Record {
    fn default() -> Self {
        Self { health: Health::Starting, failures: 0 }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it passed.
    pub passed: bool,
    /// What it printed.
    pub output: String,
}

impl Record {
    /// Takes in what a check found that began when the service had been `up` for this long.
    pub fn take(&mut self, check: &HealthCheck, up: Duration, finding: Finding) {
        if finding.passed {
            *self = Self { health: Health::Healthy, failures: 0 };
            return;
        }
        if self.health == Health::Starting && up < check.start_period {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= check.retries.max(1) {
            self.health = Health::Unhealthy { output: finding.output };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTING: &str = "starting";
    const HEALTHY: &str = "healthy";

    fn name(health: &Health) -> &str {
        match health {
            Health::Starting => STARTING,
            Health::Healthy => HEALTHY,
            Health::Unhealthy { output } => output,
        }
    }

    #[test]
    fn docker_s_rules_hold() {
        let check = |retries, start| HealthCheck {
            command: vec!["check".into()],
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            retries,
            start_period: Duration::from_secs(start),
        };
        // Per second one check: whether it passes, and how the service is then.
        let cases: &[(u32, u64, &str, &[&str])] = &[
            (3, 0, "---+", &[STARTING, STARTING, "2", HEALTHY]),
            (3, 0, "+--+--", &[HEALTHY; 6]),
            (2, 0, "+--", &[HEALTHY, HEALTHY, "2"]),
            (1, 3, "---- -", &[STARTING, STARTING, STARTING, "3", "4", "5"]),
            (1, 3, "+-", &[HEALTHY, "1"]),
            (0, 0, "-", &["0"]),
        ];
        for (retries, start, checks, expected) in cases {
            let (check, mut record) = (check(*retries, *start), Record::default());
            let mut seen = Vec::new();
            for (second, found) in checks.chars().enumerate() {
                let finding = Finding { passed: found == '+', output: second.to_string() };
                record.take(&check, Duration::from_secs(second.try_into().unwrap()), finding);
                seen.push(name(&record.health).to_owned());
            }
            assert_eq!(seen, *expected, "{checks} with {retries} retries, {start} s to start");
        }
    }
}
