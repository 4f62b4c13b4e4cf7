//! The issuer's key pairs, and the file that keeps their seeds.

use super::IssuerError;
use super::files::{read_private, write_private};
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The seeds, as kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Seeds {
    pub(super) operator: String,
    system: String,
    lab: String,
    devices: String,
    device: String,
    pub(super) user: String,
}

/// The key pairs.
pub(super) struct Keys {
    /// Signs the accounts.
    pub(super) operator: KeyPair,
    /// The system account, and who signs for its users.
    pub(super) system: KeyPair,
    /// The lab's account, and who signs for the coordinator.
    pub(super) lab: KeyPair,
    /// The devices' account.
    pub(super) devices: KeyPair,
    /// Signs for devices.
    pub(super) device: KeyPair,
    /// Signs for people.
    pub(super) user: KeyPair,
}

impl Keys {
    /// Loads the keys from the file at `path`, or makes them there.
    pub(super) fn open(path: &Path) -> Result<Self, IssuerError> {
        let seeds = match read_private::<Seeds>(path)? {
            Some(seeds) => seeds,
            None => {
                let seeds = Seeds::generate()?;
                write_private(path, &seeds)?;
                seeds
            }
        };
        let load = |seed: &str, kind| {
            let damaged = |problem: String| IssuerError::Damaged { path: path.to_owned(), problem };
            let key =
                KeyPair::from_seed(seed).map_err(|_| damaged(format!("the {kind:?} seed is not valid")))?;
            if key.key_pair_type() == kind {
                Ok(key)
            } else {
                Err(damaged(format!("a {:?} seed stands where a {kind:?} seed should", key.key_pair_type())))
            }
        };
        Ok(Self {
            operator: load(&seeds.operator, KeyPairType::Operator)?,
            system: load(&seeds.system, KeyPairType::Account)?,
            lab: load(&seeds.lab, KeyPairType::Account)?,
            devices: load(&seeds.devices, KeyPairType::Account)?,
            device: load(&seeds.device, KeyPairType::Account)?,
            user: load(&seeds.user, KeyPairType::Account)?,
        })
    }
}

impl Seeds {
    fn generate() -> Result<Self, IssuerError> {
        let seed = |kind| KeyPair::new(kind).seed().map_err(IssuerError::Seed);
        Ok(Self {
            operator: seed(KeyPairType::Operator)?,
            system: seed(KeyPairType::Account)?,
            lab: seed(KeyPairType::Account)?,
            devices: seed(KeyPairType::Account)?,
            device: seed(KeyPairType::Account)?,
            user: seed(KeyPairType::Account)?,
        })
    }
}
