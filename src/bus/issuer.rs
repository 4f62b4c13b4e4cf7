//! The lab's one issuer of NATS credentials: the operator's and accounts' keys, what each kind of user
//! may do, and which credentials have been revoked.
//!
//! Users are issued without asking the server: it knows only the account, whose scoped signing keys
//! carry one template of rights for all devices and one for all people. Revoking one credential means
//! a new account JWT, which [`Issuer::revoke`] sends to the server. Rights follow the *name* in a
//! credential, revocation its *key*: a device keeps its name over boot attempts and gets a fresh key for
//! each, so a revocation cuts off one attempt alone.
//!
//! What a device may do, and what was tried against it: `tests/it/nats.rs`.

mod files;
mod rights;

use self::files::{private_dir, read_private, write_private};
use self::rights::{device_template, user_template};
use super::connect::{Bus, BusOptions};
use super::error::BusError;
use super::jwt::{JwtError, Signer, SigningKey, credentials_file};
use crate::model::id::{DeviceId, LabName, UserName};
use crate::support::clock;
use crate::wire::subject;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;

/// The name of the coordinator's user, and so the token of its inbox.
pub const COORDINATOR: &str = "coordinator";
/// The name of the user that speaks to the system account, and so the token of its inbox.
pub const SYSTEM: &str = "system";

const KEYS: &str = "keys.json";
const REVOKED: &str = "revoked.json";

/// How long the server may take to accept a new account JWT, connecting included.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection made for one push may be used.
const SYSTEM_TTL: Duration = Duration::from_secs(60);

/// The issuer could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file of the issuer cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write` …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the issuer holds something else.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never quotes the file.
        problem: String,
    },
    /// Others than the owner may read the keys.
    #[error("{} can be read by others (mode {mode:o}); it holds the lab's keys and must have mode 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A name that would share its inbox with somebody else.
    #[error("{name:?} cannot be the name of a {kind} of lab {lab}: {problem}")]
    Name {
        /// The name.
        name: String,
        /// `device` or `user`.
        kind: &'static str,
        /// The lab.
        lab: LabName,
        /// Which rule it breaks.
        problem: &'static str,
    },
    /// A credential could not be made.
    #[error("cannot issue a credential")]
    Jwt(#[from] JwtError),
    /// A key pair without its seed.
    #[error("a key of the issuer has no seed")]
    Seed(#[source] nkeys::error::Error),
    /// The server could not be reached with a revocation. It is recorded, and part of the next push and of
    /// the server's next start.
    #[error("the revocation is recorded but not yet known to the NATS server")]
    Push(#[source] BusError),
    /// The server did not take a revocation, which stays recorded.
    #[error("the NATS server refused the lab's account: {answer}")]
    PushRefused {
        /// Its words, cut to 300 characters.
        answer: String,
    },
}

/// What somebody needs to connect.
#[derive(Clone)]
pub struct Credentials {
    /// The text of a credentials file: user JWT and seed. Secret.
    pub creds: String,
    /// By what it is revoked.
    pub public_key: String,
    /// When it ends by itself, in seconds since 1970-01-01 UTC.
    pub expires: u64,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { creds: _, public_key, expires } = self;
        f.debug_struct("Credentials")
            .field("public_key", public_key)
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}

/// What the server's configuration must hold: public, signed, no secret.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    pub(super) operator_jwt: String,
    pub(super) system_account: String,
    pub(super) system_jwt: String,
    pub(super) account: String,
    pub(super) account_jwt: String,
}

/// The seeds, as kept.
#[derive(Serialize, Deserialize)]
struct Seeds {
    operator: String,
    system: String,
    account: String,
    device: String,
    user: String,
}

/// A revoked key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Revocation {
    /// JWTs issued up to here are void, in seconds since 1970-01-01 UTC.
    at: u64,
    /// From here on the JWT is void anyway, and the record can go.
    expires: u64,
}

type Revocations = BTreeMap<String, Revocation>;

/// Issues and revokes. One per lab; its directory belongs to one process at a time.
pub struct Issuer {
    dir: PathBuf,
    lab: LabName,
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
    device: KeyPair,
    user: KeyPair,
    /// Held over a push, so that an older account JWT never overtakes a newer one.
    revoked: Mutex<Revocations>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dir, lab, .. } = self;
        f.debug_struct("Issuer").field("dir", dir).field("lab", lab).finish_non_exhaustive()
    }
}

impl Issuer {
    /// Loads the lab's keys from `dir`, or makes them there: directory mode 0700, files 0600.
    pub fn open(dir: impl Into<PathBuf>, lab: &LabName) -> Result<Self, IssuerError> {
        let dir = dir.into();
        private_dir(&dir)?;
        let keys = dir.join(KEYS);
        let seeds = match read_private::<Seeds>(&keys)? {
            Some(seeds) => seeds,
            None => {
                let seeds = Seeds::generate()?;
                write_private(&keys, &seeds)?;
                seeds
            }
        };
        let revoked = read_private::<Revocations>(&dir.join(REVOKED))?.unwrap_or_default();
        let load = |seed: &str, kind| {
            let damaged = |problem: String| IssuerError::Damaged { path: keys.clone(), problem };
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
            account: load(&seeds.account, KeyPairType::Account)?,
            device: load(&seeds.device, KeyPairType::Account)?,
            user: load(&seeds.user, KeyPairType::Account)?,
            revoked: Mutex::new(revoked),
            lab: lab.clone(),
            dir,
        })
    }

    /// For one boot attempt of a device. Its id must begin with `<lab>-`, as all devices' do.
    pub fn device(&self, device: &DeviceId, ttl: Duration) -> Result<Credentials, IssuerError> {
        if !self.is_device_name(device.as_str()) {
            return Err(self.bad_name(
                "device",
                device.as_str(),
                "it must begin with the lab's name and '-'",
            ));
        }
        self.scoped(&self.device, device.as_str(), ttl)
    }

    /// For one login of a person or CI job. Inboxes go by name, so that a user named like a device or
    /// like the coordinator would read its answers: such names are refused.
    pub fn user(&self, user: &UserName, ttl: Duration) -> Result<Credentials, IssuerError> {
        let name = user.as_str();
        if name == COORDINATOR || name == SYSTEM {
            return Err(self.bad_name("user", name, "the name is reserved"));
        }
        if self.is_device_name(name) {
            return Err(self.bad_name(
                "user",
                name,
                "names that begin with the lab's name and '-' are devices'",
            ));
        }
        self.scoped(&self.user, name, ttl)
    }

    /// For the coordinator: everything in the lab's account. Its inboxes begin with
    /// `wire::subject::inbox(COORDINATOR)`.
    pub fn coordinator(&self, ttl: Duration) -> Result<Credentials, IssuerError> {
        self.full(&self.account, COORDINATOR, ttl)
    }

    /// For the system account: the server's own events, and revocations.
    pub fn system(&self, ttl: Duration) -> Result<Credentials, IssuerError> {
        self.full(&self.system, SYSTEM, ttl)
    }

    /// Voids a credential now: whoever is connected with it is cut off, and it never connects again.
    /// The record is on disk before the server at `url` is told, so that a crash, or a server that is down,
    /// does not undo it. `public_key` and `expires` are those of the [`Credentials`].
    pub async fn revoke(&self, url: &str, public_key: &str, expires: u64) -> Result<(), IssuerError> {
        let now = seconds_now();
        let mut revoked = self.revoked.lock().await;
        let mut next = revoked.clone();
        next.retain(|_, revocation| revocation.expires > now);
        next.insert(public_key.to_owned(), Revocation { at: now, expires });
        let (path, content) = (self.dir.join(REVOKED), next.clone());
        // fsync may take long, and this runs among the coordinator's other tasks.
        let written = tokio::task::spawn_blocking(move || write_private(&path, &content)).await;
        written.map_err(|panic| self.file("write", REVOKED, io::Error::other(panic)))??;
        *revoked = next;
        self.push(url, &revoked, now).await
    }

    /// Tells the server at `url` of all revocations on record.
    async fn push(&self, url: &str, revoked: &Revocations, now: u64) -> Result<(), IssuerError> {
        let claims = self.account_jwt(revoked, now)?;
        let options = BusOptions {
            url: url.to_owned(),
            creds: self.system(SYSTEM_TTL)?.creds,
            name: SYSTEM.to_owned(),
            inbox_prefix: subject::inbox(SYSTEM),
        };
        let update = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", self.account.public_key());
        let bus = Bus::connect(options, Some(PUSH_TIMEOUT)).await.map_err(IssuerError::Push)?;
        let answer = bus.request(update, claims, PUSH_TIMEOUT).await.map_err(IssuerError::Push)?;
        if let Err(error) = bus.close().await {
            tracing::debug!(%error, "the connection to the system account did not end cleanly");
        }
        let accepted = serde_json::from_slice::<ClaimsAnswer>(&answer);
        if accepted.is_ok_and(|answer| answer.data.is_some_and(|data| data.code == 200)) {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&answer).chars().take(300).collect();
        Err(IssuerError::PushRefused { answer })
    }

    /// What a server needs to know at its start, revocations included.
    pub(super) async fn trust(&self) -> Result<Trust, IssuerError> {
        let now = seconds_now();
        let operator = Signer { key: &self.operator, now };
        let (system, account) = (self.system.public_key(), self.account.public_key());
        let account_jwt = self.account_jwt(&*self.revoked.lock().await, now)?;
        Ok(Trust {
            operator_jwt: operator.operator(self.lab.as_str(), &system)?,
            system_jwt: operator.account("SYS", &system, false, Vec::new(), BTreeMap::new())?,
            system_account: system,
            account,
            account_jwt,
        })
    }

    fn account_jwt(&self, revoked: &Revocations, now: u64) -> Result<String, JwtError> {
        let keys = vec![
            SigningKey::scoped(self.device.public_key(), "device", device_template()),
            SigningKey::scoped(self.user.public_key(), "user", user_template(&self.lab)),
        ];
        let revoked = revoked.iter().map(|(key, revocation)| (key.clone(), revocation.at)).collect();
        let signer = Signer { key: &self.operator, now };
        signer.account(self.lab.as_str(), &self.account.public_key(), true, keys, revoked)
    }

    fn scoped(&self, signing: &KeyPair, name: &str, ttl: Duration) -> Result<Credentials, IssuerError> {
        let (user, signer, expires) = fresh(signing, ttl);
        let jwt = signer.scoped_user(name, &user.public_key(), &self.account.public_key(), expires)?;
        credentials(&user, &jwt, expires)
    }

    fn full(&self, account: &KeyPair, name: &str, ttl: Duration) -> Result<Credentials, IssuerError> {
        let (user, signer, expires) = fresh(account, ttl);
        let jwt = signer.full_user(name, &user.public_key(), expires)?;
        credentials(&user, &jwt, expires)
    }

    fn is_device_name(&self, name: &str) -> bool {
        name.strip_prefix(self.lab.as_str()).is_some_and(|rest| rest.starts_with('-'))
    }

    fn bad_name(&self, kind: &'static str, name: &str, problem: &'static str) -> IssuerError {
        IssuerError::Name { name: name.to_owned(), kind, lab: self.lab.clone(), problem }
    }

    fn file(&self, action: &'static str, name: &str, source: io::Error) -> IssuerError {
        IssuerError::File { action, path: self.dir.join(name), source }
    }
}

/// The server's answer to a claims update.
#[derive(Deserialize)]
struct ClaimsAnswer {
    data: Option<ClaimsData>,
}

#[derive(Deserialize)]
struct ClaimsData {
    code: u32,
}

impl Seeds {
    fn generate() -> Result<Self, IssuerError> {
        let seed = |kind| KeyPair::new(kind).seed().map_err(IssuerError::Seed);
        Ok(Self {
            operator: seed(KeyPairType::Operator)?,
            system: seed(KeyPairType::Account)?,
            account: seed(KeyPairType::Account)?,
            device: seed(KeyPairType::Account)?,
            user: seed(KeyPairType::Account)?,
        })
    }
}

/// A new user key, who signs for it, and when it ends.
fn fresh(signing: &KeyPair, ttl: Duration) -> (KeyPair, Signer<'_>, u64) {
    let now = seconds_now();
    (KeyPair::new_user(), Signer { key: signing, now }, now.saturating_add(ttl.as_secs().max(1)))
}

fn credentials(user: &KeyPair, jwt: &str, expires: u64) -> Result<Credentials, IssuerError> {
    let seed = user.seed().map_err(IssuerError::Seed)?;
    Ok(Credentials { creds: credentials_file(jwt, &seed), public_key: user.public_key(), expires })
}

fn seconds_now() -> u64 {
    clock::wall_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn lab() -> LabName {
        LabName::new("lab").unwrap()
    }

    #[test]
    fn keys_are_made_once_kept_private_and_loaded_again() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("issuer");
        let first = Issuer::open(&dir, &lab()).unwrap();
        let second = Issuer::open(&dir, &lab()).unwrap();
        assert_eq!(first.account.public_key(), second.account.public_key());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(KEYS))), (0o700, 0o600));

        std::fs::set_permissions(dir.join(KEYS), std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Issuer::open(&dir, &lab()).unwrap_err();
        assert!(matches!(error, IssuerError::Exposed { mode: 0o640, .. }), "{error}");
    }

    #[test]
    fn a_damaged_key_file_is_named_and_not_quoted() {
        let temporary = tempfile::tempdir().unwrap();
        drop(Issuer::open(temporary.path(), &lab()).unwrap());
        let path = temporary.path().join(KEYS);
        let text = std::fs::read_to_string(&path).unwrap();
        let seeds: Seeds = serde_json::from_str(&text).unwrap();
        let swapped = text.replace(&seeds.operator, &seeds.user);
        for damaged in [&text[..text.len() / 2], &swapped, &text.replace("SO", "SX"), "[]", ""] {
            std::fs::write(&path, damaged).unwrap();
            let error = Issuer::open(temporary.path(), &lab()).unwrap_err();
            assert!(matches!(error, IssuerError::Damaged { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(KEYS) && !text.contains(&seeds.user), "{text}");
        }
    }

    #[test]
    fn names_that_share_an_inbox_are_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let issuer = Issuer::open(temporary.path(), &lab()).unwrap();
        let hour = Duration::from_secs(3600);
        for (name, fits) in
            [("ann", true), ("lab", true), ("coordinator", false), ("system", false), ("lab-vm", false)]
        {
            assert_eq!(issuer.user(&UserName::new(name).unwrap(), hour).is_ok(), fits, "user {name}");
        }
        for (name, fits) in [("lab-vm", true), ("labx-vm", false), ("coordinator", false), ("ann", false)] {
            assert_eq!(issuer.device(&DeviceId::new(name).unwrap(), hour).is_ok(), fits, "device {name}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let temporary = tempfile::tempdir().unwrap();
        let issuer = Issuer::open(temporary.path(), &lab()).unwrap();
        let credentials = issuer.coordinator(Duration::from_secs(1)).unwrap();
        let shown = format!("{credentials:?} {issuer:?}");
        assert!(!shown.contains("SU") && !shown.contains("SEED"), "{shown}");
    }
}
