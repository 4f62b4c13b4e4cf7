//! A lab on its site's NATS servers: the file with the keys that the site has given, and how the site makes it.
//!
//! The site's operator has its identity at its servers, and a signing key beside it. A lab gets two accounts, keys that
//! sign their users, and the operator's signing key: a revocation is a new JWT of an account, which an operator signs.

use super::files::{read_private, write_private};
use super::keys::{Keys, System, load, seed};
use super::{Issuer, IssuerError, SYSTEM, SiteError, credentials, fresh, seconds_now};
use crate::bus::jwt::{Account, Signer};
use crate::bus::servers::Servers;
use crate::model::id::LabName;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// Version of the file.
const VERSION: u32 = 1;

/// What a site has given to a lab. Secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteKeys {
    version: u32,
    lab: LabName,
    /// The seed of a signing key of the operator.
    operator: String,
    /// The text of a credentials file of the system account.
    system: String,
    /// The lab's account.
    account: String,
    /// That of its devices.
    devices_account: String,
    /// The seeds of the keys that sign for the coordinator, people and devices.
    coordinator: String,
    user: String,
    device: String,
}

impl std::fmt::Debug for SiteKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lab, account, devices_account, .. } = self;
        let mut shown = f.debug_struct("SiteKeys");
        shown.field("lab", lab).field("account", account).field("devices_account", devices_account);
        shown.finish_non_exhaustive()
    }
}

impl SiteKeys {
    /// Makes new accounts for a lab. `operator` is the seed of a signing key, or the identity, of the site's operator,
    /// `system` the text of a credentials file of its system account.
    pub fn make(lab: &LabName, operator: &str, system: &str) -> Result<Self, IssuerError> {
        let account = || KeyPair::new(KeyPairType::Account).public_key();
        Ok(Self {
            version: VERSION,
            lab: lab.clone(),
            operator: operator.to_owned(),
            system: system.to_owned(),
            account: account(),
            devices_account: account(),
            coordinator: seed(KeyPairType::Account)?,
            user: seed(KeyPairType::Account)?,
            device: seed(KeyPairType::Account)?,
        })
    }

    /// Reads the file, which nobody but its owner may be able to read.
    pub fn read(path: &Path) -> Result<Self, IssuerError> {
        let keys: Option<Self> = read_private(path)?;
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let keys =
            keys.ok_or_else(|| IssuerError::File { action: "read", path: path.to_owned(), source: missing })?;
        if keys.version == VERSION {
            return Ok(keys);
        }
        let problem = format!("its version is {}; known is {VERSION}", keys.version);
        Err(IssuerError::Damaged { path: path.to_owned(), problem })
    }

    /// Writes the file, for its owner alone.
    pub fn write(&self, path: &Path) -> Result<(), IssuerError> {
        write_private(path, self)
    }

    /// The lab's account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// `path` is where they were read, for errors.
    fn keys(&self, path: &Path) -> Result<Keys, IssuerError> {
        let load = |seed: &str, kind| load(path, seed, kind);
        Ok(Keys {
            operator: load(&self.operator, KeyPairType::Operator)?,
            system: System::Site(self.system.clone()),
            lab: self.account.clone(),
            devices: self.devices_account.clone(),
            coordinator: load(&self.coordinator, KeyPairType::Account)?,
            device: load(&self.device, KeyPairType::Account)?,
            user: load(&self.user, KeyPairType::Account)?,
        })
    }
}

impl Issuer {
    /// That of a lab on its site's servers, with the keys of the file at `path`; what it issues it remembers in `dir`.
    pub fn of_site(
        path: &Path,
        dir: impl Into<std::path::PathBuf>,
        lab: &LabName,
    ) -> Result<Self, IssuerError> {
        let keys = SiteKeys::read(path)?;
        if keys.lab != *lab {
            return Err(
                SiteError::OtherLab { path: path.to_owned(), lab: keys.lab, wanted: lab.clone() }.into()
            );
        }
        Self::with(keys.keys(path)?, dir.into(), lab)
    }

    /// Tells a site's servers both accounts of the lab, as they are now. Nothing is to be told to servers of the
    /// lab's own: they are started with them.
    pub async fn announce(&self, servers: impl Into<Servers>) -> Result<(), IssuerError> {
        if self.keys.is_site() { self.tell(&servers.into(), false).await } else { Ok(()) }
    }

    /// The same of accounts that no server knows yet.
    pub async fn introduce(&self, servers: impl Into<Servers>) -> Result<(), IssuerError> {
        self.tell(&servers.into(), true).await
    }

    async fn tell(&self, servers: &Servers, new: bool) -> Result<(), IssuerError> {
        let revoked = self.revoked.lock().await;
        for holder in [super::Holder::Person, super::Holder::Device] {
            self.push(servers, holder, &revoked, seconds_now(), new).await?;
        }
        Ok(())
    }
}

/// An operator for a site that has none: what its servers are to know, and what it keeps.
#[derive(Clone)]
pub struct SiteOperator {
    /// The operator's JWT, for the servers' configuration.
    pub jwt: String,
    /// The public key of the system account.
    pub system_account: String,
    /// Its JWT, for the servers' configuration.
    pub system_jwt: String,
    /// The seed of the operator's identity, to be kept where nobody finds it. Secret.
    pub identity: String,
    /// The seed of the operator's signing key. Secret.
    pub signing: String,
    /// The text of a credentials file of the system account. Secret.
    pub system_creds: String,
}

impl SiteOperator {
    /// Makes one; its credentials are good for `ttl`.
    pub fn make(name: &str, ttl: Duration) -> Result<Self, IssuerError> {
        let [identity, signing] = [KeyPair::new(KeyPairType::Operator), KeyPair::new(KeyPairType::Operator)];
        let system = KeyPair::new(KeyPairType::Account);
        let system_account = system.public_key();
        let signer = Signer { key: &identity, now: seconds_now() };
        let (user, user_signer, expires) = fresh(&system, ttl);
        let user_jwt = user_signer.full_user(SYSTEM, &user.public_key(), None, expires)?;
        Ok(Self {
            jwt: signer.operator(name, &system_account, vec![signing.public_key()])?,
            system_jwt: signer.account("SYS", &system_account, Account::default(), None)?,
            system_account,
            identity: identity.seed().map_err(IssuerError::Seed)?,
            signing: signing.seed().map_err(IssuerError::Seed)?,
            system_creds: credentials(&user, &user_jwt, expires)?.creds,
        })
    }

    /// What stands in the configuration of each of the site's servers. It holds no secret.
    pub fn server_config(&self) -> String {
        let Self { jwt, system_account, system_jwt, .. } = self;
        format!(
            "operator: {jwt}\n\
             system_account: {system_account}\n\
             resolver: {{ type: full, dir: \"./accounts\", allow_delete: false, interval: \"10s\" }}\n\
             resolver_preload: {{ {system_account}: {system_jwt} }}\n"
        )
    }
}
