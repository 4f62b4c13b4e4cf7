//! The hash by which a container is known to be what a score asks for: the agent labels containers with it
//! (`label::SPEC_HASH`), and whoever compares a device with its desired state computes it again. It has no key and is of the values of
//! `env` as well, so it stands nowhere but on the device, where who reads it may read those too.

use crate::model::workload::{PodmanService, Score};
use sha2::{Digest, Sha256};

/// Hash of a service's wire form: equal services have equal hashes, whatever generation they came with.
pub fn hash(service: &PodmanService) -> String {
    digest(&serde_json::to_vec(service).unwrap_or_default())
}

/// Hash of a whole score: what its init containers belong to, and what a failed upgrade is known by.
pub fn set(score: &Score) -> String {
    digest(&serde_json::to_vec(score).unwrap_or_default())
}

/// Half of a SHA-256, hex: labels are read by people.
fn digest(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).get(..16).unwrap_or_default())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
