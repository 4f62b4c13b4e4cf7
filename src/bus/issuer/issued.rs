//! Which credentials devices have that have neither ended nor been revoked. On disk, so that a coordinator revokes what the one
//! before it has issued.

use super::IssuerError;
use super::files::{read_private, write_private};
use crate::model::id::DeviceId;
use crate::support::lock::lock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

/// A credential that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// By what it is revoked.
    pub(super) public_key: String,
    /// When it ends by itself, in seconds since 1970-01-01 UTC.
    pub(super) expires: u64,
}

type Devices = BTreeMap<DeviceId, Vec<Known>>;

#[derive(Debug)]
pub(super) struct Issued {
    path: PathBuf,
    /// No await happens under this lock; it is held over a write, so that the file never goes back.
    devices: Mutex<Devices>,
}

impl Issued {
    pub(super) fn open(path: PathBuf) -> Result<Self, IssuerError> {
        let devices = Mutex::new(read_private::<Devices>(&path)?.unwrap_or_default());
        Ok(Self { path, devices })
    }

    /// Adds one, on disk before it can be used.
    pub(super) fn add(&self, device: &DeviceId, known: Known, now: u64) -> Result<(), IssuerError> {
        self.change(now, |devices| devices.entry(device.clone()).or_default().push(known))
    }

    /// Forgets one: it is revoked.
    pub(super) fn remove(&self, device: &DeviceId, public_key: &str, now: u64) -> Result<(), IssuerError> {
        self.change(now, |devices| {
            if let Some(known) = devices.get_mut(device) {
                known.retain(|known| known.public_key != public_key);
            }
        })
    }

    /// Those of a device that can still be used.
    pub(super) fn of(&self, device: &DeviceId, now: u64) -> Vec<Known> {
        let devices = lock(&self.devices);
        let known = devices.get(device).into_iter().flatten();
        known.filter(|known| known.expires > now).cloned().collect()
    }

    fn change(&self, now: u64, change: impl FnOnce(&mut Devices)) -> Result<(), IssuerError> {
        let mut devices = lock(&self.devices);
        let mut next = devices.clone();
        change(&mut next);
        next.values_mut().for_each(|known| known.retain(|known| known.expires > now));
        next.retain(|_, known| !known.is_empty());
        write_private(&self.path, &next)?;
        *devices = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_issued_is_known_after_a_restart_until_it_is_revoked_or_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issued.json");
        let device = DeviceId::new("lab-a").unwrap();
        let known = |key: &str, expires| Known { public_key: key.to_owned(), expires };
        let issued = Issued::open(path.clone()).unwrap();
        for (key, expires) in [("one", 10), ("two", 20), ("three", 30)] {
            issued.add(&device, known(key, expires), 5).unwrap();
        }
        issued.remove(&device, "two", 5).unwrap();
        let issued = Issued::open(path).unwrap();
        assert_eq!(issued.of(&device, 5), [known("one", 10), known("three", 30)]);
        assert_eq!(issued.of(&device, 10), [known("three", 30)]);
        assert_eq!(issued.of(&DeviceId::new("lab-b").unwrap(), 5), []);
    }
}
