//! By which rules a coordinator lends and trusts devices, of what the lab file says.

use super::lab::EMBEDDED_TTL;
use crate::config::health::Health;
use crate::config::leases::Leases;
use crate::plan::lease::{Policy, Quota};
use crate::plan::trust::{Care, Rules};
use std::collections::BTreeMap;

/// By which rules devices are lent: in an embedded lab all are the caller's, for as long as its runs take.
pub(super) fn policy(leases: &Leases, health: &Health, lasting: bool) -> Policy {
    let quota = Quota { devices: leases.devices_per_user, requests: leases.requests_per_user };
    let (recheck, recheck_max, idle_off) = (health.recheck, health.recheck_max, health.idle_off);
    let care = Care { recheck, recheck_max, idle_off, always_on: health.always_on.clone() };
    let policy = Policy {
        max_lease: leases.max,
        default_lease: leases.default,
        handover: leases.handover,
        aging: leases.aging,
        booking_ahead: leases.booking_ahead,
        quota,
        quotas: BTreeMap::new(),
        trust: Rules {
            tolerated: health.tolerated,
            clean_runs: health.clean_runs,
            clean_boots: health.clean_boots,
            most_boots: health.most_boots,
            boot_timeout: health.boot_timeout,
            ..Rules::default()
        },
        care,
    };
    if lasting {
        return policy;
    }
    let quota = Quota { devices: usize::MAX, requests: usize::MAX };
    Policy { max_lease: EMBEDDED_TTL, quota, care: Care::default(), ..policy }
}
