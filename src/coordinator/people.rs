//! Who may do what: roles, kept in the lab's bucket. Who has none may look.

use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::model::id::{LabName, UserName};
use crate::model::role::Role;
use crate::support::lock::lock;
use crate::wire::subject;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Version of the records.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Person {
    version: u32,
    role: Role,
}

/// The roles of a lab's users.
pub(super) struct People {
    bus: Bus,
    bucket: String,
    /// Who started the coordinator: an admin, whatever is recorded.
    owner: UserName,
    /// No await happens under this lock.
    roles: Mutex<BTreeMap<UserName, Role>>,
}

impl People {
    /// Reads what is recorded. What is not understood gives no rights.
    pub(super) async fn load(bus: Bus, lab: &LabName, owner: UserName) -> Result<Self, BusError> {
        let bucket = subject::lab_bucket(lab);
        let mut roles = BTreeMap::new();
        for key in bus.kv_keys(&bucket, subject::USER_KEYS).await? {
            let Some(user) = subject::parse_user_key(&key) else { continue };
            let Some(entry) = bus.kv_get(&bucket, &key).await?.filter(|entry| !entry.deleted) else {
                continue;
            };
            match serde_json::from_slice::<Person>(&entry.value) {
                Ok(person) => {
                    roles.insert(user, person.role);
                }
                Err(error) => tracing::warn!(%user, %error, "a user's role is not understood"),
            }
        }
        Ok(Self { bus, bucket, owner, roles: Mutex::new(roles) })
    }

    pub(super) fn role(&self, user: &UserName) -> Role {
        if *user == self.owner {
            return Role::Admin;
        }
        lock(&self.roles).get(user).copied().unwrap_or(Role::Viewer)
    }

    /// Records a role; it counts once it is recorded.
    pub(super) async fn set(&self, user: &UserName, role: Role) -> Result<(), BusError> {
        let person = serde_json::to_vec(&Person { version: VERSION, role }).unwrap_or_default();
        self.bus.kv_put(&self.bucket, &subject::user_key(user), person).await?;
        lock(&self.roles).insert(user.clone(), role);
        Ok(())
    }
}
