//! Which credentials devices and people have that have neither ended nor been revoked. On disk, so that a coordinator
//! revokes what the one before it has issued.

use super::IssuerError;
use super::files::{read_private, write_private};
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

/// By device id or user name: no user is named like a device of the lab.
pub(super) type Holders = BTreeMap<String, Vec<Known>>;

#[derive(Debug)]
pub(super) struct Issued {
    path: PathBuf,
    /// No await happens under this lock; it is held over a write, so that the file never goes back.
    holders: Mutex<Holders>,
}

impl Issued {
    pub(super) fn open(path: PathBuf) -> Result<Self, IssuerError> {
        let holders = Mutex::new(read_private::<Holders>(&path)?.unwrap_or_default());
        Ok(Self { path, holders })
    }

    /// Adds one, on disk before it can be used.
    pub(super) fn add(&self, holder: &str, known: Known, now: u64) -> Result<(), IssuerError> {
        self.change(now, |holders| holders.entry(holder.to_owned()).or_default().push(known))
    }

    /// Forgets one: it is revoked.
    pub(super) fn remove(&self, holder: &str, public_key: &str, now: u64) -> Result<(), IssuerError> {
        self.change(now, |holders| {
            if let Some(known) = holders.get_mut(holder) {
                known.retain(|known| known.public_key != public_key);
            }
        })
    }

    /// Those of a holder that can still be used.
    pub(super) fn of(&self, holder: &str, now: u64) -> Vec<Known> {
        let holders = lock(&self.holders);
        let known = holders.get(holder).into_iter().flatten();
        known.filter(|known| known.expires > now).cloned().collect()
    }

    /// All of them.
    pub(super) fn all(&self) -> Holders {
        lock(&self.holders).clone()
    }

    /// Adds what another coordinator has issued.
    pub(super) fn merge(&self, others: Holders, now: u64) -> Result<(), IssuerError> {
        self.change(now, |holders| {
            for (holder, others) in others {
                let known = holders.entry(holder).or_default();
                let new: Vec<_> = others.into_iter().filter(|other| !known.contains(other)).collect();
                known.extend(new);
            }
        })
    }

    fn change(&self, now: u64, change: impl FnOnce(&mut Holders)) -> Result<(), IssuerError> {
        let mut holders = lock(&self.holders);
        let mut next = holders.clone();
        change(&mut next);
        next.values_mut().for_each(|known| known.retain(|known| known.expires > now));
        next.retain(|_, known| !known.is_empty());
        write_private(&self.path, &next)?;
        *holders = next;
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
        let known = |key: &str, expires| Known { public_key: key.to_owned(), expires };
        let issued = Issued::open(path.clone()).unwrap();
        for (key, expires) in [("one", 10), ("two", 20), ("three", 30)] {
            issued.add("lab-a", known(key, expires), 5).unwrap();
        }
        issued.remove("lab-a", "two", 5).unwrap();
        let issued = Issued::open(path).unwrap();
        assert_eq!(issued.of("lab-a", 5), [known("one", 10), known("three", 30)]);
        assert_eq!(issued.of("lab-a", 10), [known("three", 30)]);
        assert_eq!(issued.of("lab-b", 5), []);
    }
}
