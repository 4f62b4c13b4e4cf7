//! `[leases]` of a lab file: for how long, how soon, how many.

use super::error::ConfigError;
use super::raw::Source;
use serde::Deserialize;
use std::time::Duration;
use toml::Spanned;

/// The rules by which a lab lends its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leases {
    /// The longest a lease may be, extensions included.
    pub max: Duration,
    /// How long one is when nobody says.
    pub default: Duration,
    /// How long making a device ready for the next holder may take.
    pub handover: Duration,
    /// How much earlier a request must come to go before one of the class above.
    pub aging: Duration,
    /// How far ahead a booking may start.
    pub booking_ahead: Duration,
    /// How many devices a user may hold, book and wait for together.
    pub devices_per_user: usize,
    /// How many requests of a user may wait.
    pub requests_per_user: usize,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            max: Duration::from_secs(8 * 3600),
            default: Duration::from_secs(3600),
            handover: Duration::from_secs(300),
            aging: Duration::from_secs(1800),
            booking_ahead: Duration::from_secs(14 * 86400),
            devices_per_user: 16,
            requests_per_user: 16,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLeases {
    max: Option<Spanned<String>>,
    default: Option<Spanned<String>>,
    handover: Option<Spanned<String>>,
    aging: Option<Spanned<String>>,
    booking_ahead: Option<Spanned<String>>,
    devices_per_user: Option<usize>,
    requests_per_user: Option<usize>,
}

/// The shortest and the longest time in `[leases]`.
const RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(366 * 86400));

impl RawLeases {
    pub(super) fn check(self, source: &Source) -> Result<Leases, ConfigError> {
        let usual = Leases::default();
        let time = |key: &str, raw: Option<Spanned<String>>, usual: Duration| {
            let Some(raw) = raw else { return Ok(usual) };
            let error = |cause: String| source.value(&raw.span(), format!("leases.{key}"), cause);
            let time = humantime::parse_duration(raw.get_ref())
                .map_err(|e| error(format!("{:?} is no time such as \"90m\": {e}", raw.get_ref())))?;
            if time < RANGE.0 || time > RANGE.1 {
                return Err(error(format!("{:?} is not between 1 s and 366 days", raw.get_ref())));
            }
            Ok(time)
        };
        let spans = (self.default.as_ref().map(Spanned::span), self.max.as_ref().map(Spanned::span));
        let leases = Leases {
            max: time("max", self.max, usual.max)?,
            default: time("default", self.default, usual.default)?,
            handover: time("handover", self.handover, usual.handover)?,
            aging: time("aging", self.aging, usual.aging)?,
            booking_ahead: time("booking_ahead", self.booking_ahead, usual.booking_ahead)?,
            devices_per_user: self.devices_per_user.unwrap_or(usual.devices_per_user),
            requests_per_user: self.requests_per_user.unwrap_or(usual.requests_per_user),
        };
        let wrong = match spans {
            _ if leases.default <= leases.max => return Ok(leases),
            (Some(span), _) => (span, "default"),
            (None, Some(span)) => (span, "max"),
            (None, None) => return Ok(leases),
        };
        let cause = "the usual lease is longer than the longest".to_owned();
        Err(source.value(&wrong.0, format!("leases.{}", wrong.1), cause))
    }
}
