//! Who may do what: roles, kept in the lab's bucket, and logins, which the issuer makes. Who has no role may look.

use super::check::CHECKER;
use super::parts::Parts;
use super::refusal::Refusal;
use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::bus::issuer::Issuer;
use crate::bus::servers::Servers;
use crate::model::id::UserName;
use crate::model::role::Role;
use crate::support::chain::Chain;
use crate::support::lock::lock;
use crate::wire::lending::{LoginAsked, LoginMade, TlsTold};
use crate::wire::subject;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest that a login is good.
const MAX_LOGIN: Duration = Duration::from_secs(365 * 24 * 3600);
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
    issuer: Arc<Issuer>,
    nats_url: Servers,
    /// No await happens under this lock.
    roles: Mutex<BTreeMap<UserName, Role>>,
}

impl People {
    /// Reads what is recorded. What is not understood gives no rights.
    pub(super) async fn load(parts: &Parts) -> Result<Self, BusError> {
        let (bus, bucket) = (parts.bus.clone(), subject::lab_bucket(&parts.lab));
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
        let (owner, issuer, nats_url) =
            (parts.owner.clone(), Arc::clone(&parts.issuer), parts.nats_url.clone());
        Ok(Self { bus, bucket, owner, issuer, nats_url, roles: Mutex::new(roles) })
    }

    pub(super) fn role(&self, user: &UserName) -> Role {
        if self.is_owner(user) {
            return Role::Admin;
        }
        lock(&self.roles).get(user).copied().unwrap_or(Role::Viewer)
    }

    fn is_owner(&self, user: &UserName) -> bool {
        *user == self.owner
    }

    /// Makes a login; the user's role is this from now on.
    pub(super) async fn login(&self, asked: LoginAsked) -> Result<LoginMade, Refusal> {
        let LoginAsked { user, role, ttl } = asked;
        if user.as_str() == CHECKER {
            return Err(Refusal::new(format!("{user} is the lab's own name for its checks of devices")));
        }
        // Recorded, it would be believed to hold.
        if self.is_owner(&user) && role != Role::Admin {
            return Err(Refusal::hinted(
                format!("{user} is whose coordinator this is, and an admin with every login: not a {role}"),
                format!("--role admin, or the login of another name that is a {role}"),
            ));
        }
        if ttl.is_zero() || ttl > MAX_LOGIN {
            let days = MAX_LOGIN.as_secs() / 86400;
            return Err(Refusal::new(format!("a login is good for at most {days} days")));
        }
        let creds = self.issuer.user(&user, ttl).map_err(|e| Refusal::new(Chain(&e).to_string()))?;
        let recorded = self.set(&user, role).await;
        recorded.map_err(|e| Refusal::new(format!("the role was not recorded: {}", Chain(&e))))?;
        self.issuer.remember().await.map_err(|e| Refusal::new(Chain(&e).to_string()))?;
        tracing::info!(%user, %role, "a login was made");
        Ok(LoginMade { url: self.nats_url.urls().to_owned(), creds: creds.creds, tls: self.tls()? })
    }

    /// What a client must know of the servers to trust them. Who they ask for a certificate has one of their own.
    fn tls(&self) -> Result<Option<TlsTold>, Refusal> {
        let Some(files) = self.nats_url.tls() else { return Ok(None) };
        let ca = files.ca.as_ref().map(std::fs::read_to_string).transpose();
        let ca = ca.map_err(|e| Refusal::new(format!("the servers' `ca` cannot be read: {e}")))?;
        Ok(Some(TlsTold { ca, mutual: files.cert.is_some() }))
    }

    /// Takes back a user's role and all logins; answers how many those were.
    pub(super) async fn logout(&self, user: &UserName) -> Result<usize, Refusal> {
        if self.is_owner(user) {
            return Err(Refusal::new(format!("{user} is whose coordinator this is")));
        }
        // The role first: what cannot be revoked for now may then only look.
        let forgotten = self.forget(user).await;
        forgotten.map_err(|e| Refusal::new(format!("the role was not taken back: {}", Chain(&e))))?;
        let revoked = self.issuer.revoke_user(&self.nats_url, user).await;
        let logins = revoked.map_err(|e| {
            Refusal::hinted(
                format!("{user} has no role any more, but the logins were not revoked: {}", Chain(&e)),
                "ask again",
            )
        })?;
        tracing::info!(%user, logins, "all logins were taken back");
        Ok(logins)
    }

    async fn forget(&self, user: &UserName) -> Result<(), BusError> {
        self.bus.kv_delete(&self.bucket, &subject::user_key(user)).await?;
        lock(&self.roles).remove(user);
        Ok(())
    }

    /// Records a role; it counts once it is recorded.
    async fn set(&self, user: &UserName, role: Role) -> Result<(), BusError> {
        let person = serde_json::to_vec(&Person { version: VERSION, role }).unwrap_or_default();
        self.bus.kv_put(&self.bucket, &subject::user_key(user), person).await?;
        lock(&self.roles).insert(user.clone(), role);
        Ok(())
    }
}
