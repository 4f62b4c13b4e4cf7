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

/// The key pairs, and the accounts they are for.
pub(super) struct Keys {
    /// Signs the accounts.
    pub(super) operator: KeyPair,
    /// The system account.
    pub(super) system: System,
    /// The lab's account.
    pub(super) lab: String,
    /// The devices' account.
    pub(super) devices: String,
    /// Signs for the coordinator.
    pub(super) coordinator: KeyPair,
    /// Signs for devices.
    pub(super) device: KeyPair,
    /// Signs for people.
    pub(super) user: KeyPair,
}

/// How the system account is spoken to.
pub(super) enum System {
    /// It is the lab's own: this signs for its users.
    Own(Box<KeyPair>),
    /// It is a site's: a credentials file's text.
    Site(String),
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
        let load = |seed: &str, kind| load(path, seed, kind);
        let lab = load(&seeds.lab, KeyPairType::Account)?;
        Ok(Self {
            operator: load(&seeds.operator, KeyPairType::Operator)?,
            system: System::Own(Box::new(load(&seeds.system, KeyPairType::Account)?)),
            lab: lab.public_key(),
            devices: load(&seeds.devices, KeyPairType::Account)?.public_key(),
            coordinator: lab,
            device: load(&seeds.device, KeyPairType::Account)?,
            user: load(&seeds.user, KeyPairType::Account)?,
        })
    }

    /// Whether the accounts are of an operator that is not the lab's own.
    pub(super) fn is_site(&self) -> bool {
        matches!(self.system, System::Site(_))
    }
}

/// The key pair of a seed that stands in the file at `path`.
pub(super) fn load(path: &Path, seed: &str, kind: KeyPairType) -> Result<KeyPair, IssuerError> {
    let damaged = |problem: String| IssuerError::Damaged { path: path.to_owned(), problem };
    let key = KeyPair::from_seed(seed).map_err(|_| damaged(format!("the {kind:?} seed is not valid")))?;
    if key.key_pair_type() == kind {
        Ok(key)
    } else {
        Err(damaged(format!("a {:?} seed stands where a {kind:?} seed should", key.key_pair_type())))
    }
}

/// The seed of a new key.
pub(super) fn seed(kind: KeyPairType) -> Result<String, IssuerError> {
    KeyPair::new(kind).seed().map_err(IssuerError::Seed)
}

impl Seeds {
    fn generate() -> Result<Self, IssuerError> {
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
