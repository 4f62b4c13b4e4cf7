//! The lab's one issuer of NATS credentials: the operator's and accounts' keys, what each kind of user
//! may do, and which credentials have been revoked.
//!
//! Users are issued without asking the server: it knows only two accounts, the lab's (coordinator, people,
//! all streams) and the devices', whose scoped signing keys carry one template of rights for all people and
//! one for all devices. Revoking one credential means a new account JWT, which [`Issuer::revoke`] sends to
//! the server. Rights follow the *name* in a
//! credential, revocation its *key*: a device keeps its name over boot attempts and gets a fresh key for
//! each, so a revocation cuts off one attempt alone.
//!
//! What a device may do, and what was tried against it: `tests/it/nats_attacks.rs`.

mod error;
mod files;
mod issued;
mod keys;
mod push;
mod rights;
mod shared;
mod site;

pub use self::error::{IssuerError, SiteError};
use self::files::{private_dir, read_private, write_private};
use self::issued::{Issued, Known};
use self::keys::{Keys, System};
use self::rights::{ANSWER_WITHIN, device_template, shared, user_template};
pub use self::site::{SiteKeys, SiteOperator};
use super::connect::Bus;
use super::jwt::{Account, JwtError, Signer, SigningKey, Standing, credentials_file};
use super::servers::Servers;
use crate::model::id::{DeviceId, LabName, UserName};
use crate::support::clock;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::Mutex;

/// The name of the coordinator's user, and so the token of its inbox.
pub const COORDINATOR: &str = "coordinator";
/// The name of the user that speaks to the system account, and so the token of its inbox.
pub const SYSTEM: &str = "system";

const KEYS: &str = "keys.json";
const REVOKED: &str = "revoked.json";
const ISSUED: &str = "issued.json";

/// How long the server may take to accept a new account JWT, connecting included.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection made for one push may be used.
const SYSTEM_TTL: Duration = Duration::from_secs(60);

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
    /// The lab's account, by which the server is named.
    pub(super) lab_account: String,
    /// Public key and JWT of every account.
    pub(super) accounts: Vec<(String, String)>,
}

/// Who holds a credential, and so in which account it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    /// A device.
    Device,
    /// A person, a CI job or the coordinator.
    Person,
}

/// A revoked key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Revocation {
    /// JWTs issued up to here are void, in seconds since 1970-01-01 UTC.
    at: u64,
    /// From here on the JWT is void anyway, and the record can go.
    expires: u64,
    holder: Holder,
}

type Revocations = BTreeMap<String, Revocation>;

/// Issues and revokes. One per lab; its directory belongs to one process at a time.
pub struct Issuer {
    dir: PathBuf,
    lab: LabName,
    keys: Keys,
    /// How long after a request a device may answer it.
    answer_within: Duration,
    issued: Issued,
    /// Held over a push, so that an older account JWT never overtakes a newer one.
    revoked: Mutex<Revocations>,
    /// Where the next coordinator looks for what this one has issued; none where it has the same disk.
    shared: OnceLock<Bus>,
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
        let keys = Keys::open(&dir.join(KEYS))?;
        Self::with(keys, dir, lab)
    }

    fn with(keys: Keys, dir: PathBuf, lab: &LabName) -> Result<Self, IssuerError> {
        private_dir(&dir)?;
        let revoked = read_private::<Revocations>(&dir.join(REVOKED))?.unwrap_or_default();
        let issued = Issued::open(dir.join(ISSUED))?;
        let (lab, revoked) = (lab.clone(), Mutex::new(revoked));
        let shared = OnceLock::new();
        Ok(Self { dir, lab, keys, answer_within: ANSWER_WITHIN, issued, revoked, shared })
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
        self.scoped(&self.keys.device, Holder::Device, device.as_str(), ttl)
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
        self.scoped(&self.keys.user, Holder::Person, name, ttl)
    }

    /// For the coordinator: everything in the lab's account. Its inboxes begin with
    /// `wire::subject::inbox(COORDINATOR)`.
    pub fn coordinator(&self, ttl: Duration) -> Result<Credentials, IssuerError> {
        let account = self.keys.is_site().then_some(&*self.keys.lab);
        full(&self.keys.coordinator, COORDINATOR, account, ttl)
    }

    /// For the system account: the server's own events, and revocations.
    pub fn system(&self, ttl: Duration) -> Result<Credentials, IssuerError> {
        match &self.keys.system {
            System::Own(key) => full(key, SYSTEM, None, ttl),
            // The site's, for as long as it has made them.
            System::Site(creds) => {
                Ok(Credentials { creds: creds.clone(), public_key: String::new(), expires: u64::MAX })
            }
        }
    }

    /// Voids a credential now: whoever is connected with it is cut off, and it never connects again.
    /// The record is on disk before the server at `url` is told, so that a crash, or a server that is down,
    /// does not undo it. `public_key` and `expires` are those of the [`Credentials`].
    pub async fn revoke(
        &self,
        url: impl Into<Servers>,
        holder: Holder,
        public_key: &str,
        expires: u64,
    ) -> Result<(), IssuerError> {
        let now = seconds_now();
        let mut revoked = self.revoked.lock().await;
        let mut next = revoked.clone();
        next.retain(|_, revocation| revocation.expires > now);
        next.insert(public_key.to_owned(), Revocation { at: now, expires, holder });
        let (path, content) = (self.dir.join(REVOKED), next.clone());
        // fsync may take long, and this runs among the coordinator's other tasks.
        let written = tokio::task::spawn_blocking(move || write_private(&path, &content)).await;
        written.map_err(|panic| self.file("write", REVOKED, io::Error::other(panic)))??;
        *revoked = next;
        // Or the next coordinator would make the account without it.
        self.share(&revoked).await?;
        self.push(&url.into(), holder, &revoked, now, false).await
    }

    /// Voids all credentials of a device but the one to be kept, those of coordinators before this one included.
    pub async fn revoke_device(
        &self,
        url: impl Into<Servers>,
        device: &DeviceId,
        keep: Option<&str>,
    ) -> Result<(), IssuerError> {
        self.revoke_all(url, Holder::Device, device.as_str(), keep).await.map(|_| ())
    }

    /// Voids all logins of a person or CI job; answers how many.
    pub async fn revoke_user(&self, url: impl Into<Servers>, user: &UserName) -> Result<usize, IssuerError> {
        self.revoke_all(url, Holder::Person, user.as_str(), None).await
    }

    async fn revoke_all(
        &self,
        url: impl Into<Servers>,
        holder: Holder,
        name: &str,
        keep: Option<&str>,
    ) -> Result<usize, IssuerError> {
        let url = url.into();
        let mut known = self.issued.of(name, seconds_now());
        known.retain(|known| Some(&*known.public_key) != keep);
        for Known { public_key, expires } in &known {
            self.revoke(&url, holder, public_key, *expires).await?;
            self.issued.remove(name, public_key, seconds_now())?;
        }
        Ok(known.len())
    }

    /// Voids one credential of a device.
    pub async fn revoke_one(
        &self,
        url: impl Into<Servers>,
        device: &DeviceId,
        credentials: &Credentials,
    ) -> Result<(), IssuerError> {
        let Credentials { public_key, expires, .. } = credentials;
        self.revoke(url, Holder::Device, public_key, *expires).await?;
        self.issued.remove(device.as_str(), public_key, seconds_now())
    }

    /// What a server needs to know at its start, revocations included.
    pub(super) async fn trust(&self) -> Result<Trust, IssuerError> {
        let now = seconds_now();
        let operator = Signer { key: &self.keys.operator, now };
        let System::Own(system) = &self.keys.system else { return Err(IssuerError::NotOwn) };
        let system = system.public_key();
        let revoked = self.revoked.lock().await;
        let account = |holder| -> Result<_, JwtError> {
            Ok((self.account(holder).to_owned(), self.account_jwt(holder, &revoked, now, None)?))
        };
        Ok(Trust {
            operator_jwt: operator.operator(self.lab.as_str(), &system, Vec::new())?,
            lab_account: self.keys.lab.clone(),
            accounts: vec![
                (system.clone(), operator.account("SYS", &system, Account::default(), None)?),
                account(Holder::Person)?,
                account(Holder::Device)?,
            ],
            system_account: system,
        })
    }

    fn account(&self, holder: Holder) -> &str {
        match holder {
            Holder::Device => &self.keys.devices,
            Holder::Person => &self.keys.lab,
        }
    }

    fn account_jwt(
        &self,
        holder: Holder,
        revoked: &Revocations,
        now: u64,
        before: Option<&Standing>,
    ) -> Result<String, JwtError> {
        let revoked = revoked.iter().filter(|(_, revocation)| revocation.holder == holder);
        let revocations = revoked.map(|(key, revocation)| (key.clone(), revocation.at)).collect();
        let key = |key: &KeyPair, role, template| SigningKey::scoped(key.public_key(), role, template);
        let lab = &self.keys.lab;
        // An account's own key need not be named.
        let coordinator = self.keys.is_site().then(|| SigningKey::Plain(self.keys.coordinator.public_key()));
        let (name, account) = match holder {
            Holder::Person => (
                self.lab.to_string(),
                Account {
                    jetstream: true,
                    exports: shared(),
                    signing_keys: coordinator
                        .into_iter()
                        .chain([key(&self.keys.user, "user", user_template(&self.lab))])
                        .collect(),
                    revocations,
                    ..Account::default()
                },
            ),
            Holder::Device => (
                format!("{}-devices", self.lab),
                Account {
                    imports: shared().iter().map(|export| export.import(lab)).collect(),
                    signing_keys: vec![key(&self.keys.device, "device", device_template(self.answer_within))],
                    revocations,
                    ..Account::default()
                },
            ),
        };
        let signer = Signer { key: &self.keys.operator, now };
        signer.account(&name, self.account(holder), account, before)
    }

    fn scoped(
        &self,
        signing: &KeyPair,
        holder: Holder,
        name: &str,
        ttl: Duration,
    ) -> Result<Credentials, IssuerError> {
        let (user, signer, expires) = fresh(signing, ttl);
        let jwt = signer.scoped_user(name, &user.public_key(), self.account(holder), expires)?;
        let known = Known { public_key: user.public_key(), expires };
        self.issued.add(name, known, seconds_now())?;
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

/// All rights in an account: its own key signs, or one of its signing keys where `account` is named.
fn full(key: &KeyPair, name: &str, account: Option<&str>, ttl: Duration) -> Result<Credentials, IssuerError> {
    let (user, signer, expires) = fresh(key, ttl);
    let jwt = signer.full_user(name, &user.public_key(), account, expires)?;
    credentials(&user, &jwt, expires)
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
    use super::keys::Seeds;
    use super::*;
    use crate::bus::connect::BusOptions;
    use crate::bus::error::BusError;
    use crate::bus::server::{EmbeddedServer, ServerOptions};
    use crate::wire::subject;
    use std::net::Ipv4Addr;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    fn lab() -> LabName {
        LabName::new("lab").unwrap()
    }

    #[test]
    fn keys_are_made_once_kept_private_and_loaded_again() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("issuer");
        let first = Issuer::open(&dir, &lab()).unwrap();
        let second = Issuer::open(&dir, &lab()).unwrap();
        assert_eq!(first.keys.lab, second.keys.lab);
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
        // A seed is 58 characters of base32. Its first letters, SU, stand in one of twenty public keys too.
        let seed = |word: &str| word.len() == 58 && word.starts_with('S');
        let mut words = shown.split(|c: char| !c.is_ascii_alphanumeric());
        assert!(!words.any(seed) && !shown.contains("SEED"), "{shown}");
        assert!(credentials.creds.lines().any(seed), "that is what they look like");
    }

    #[tokio::test]
    async fn an_answer_that_comes_too_late_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let within = Duration::from_millis(200);
        let issuer =
            Issuer { answer_within: within, ..Issuer::open(dir.path().join("keys"), &lab()).unwrap() };
        let issuer = Arc::new(issuer);
        let options = ServerOptions {
            dir: dir.path().join("nats"),
            listen: Ipv4Addr::LOCALHOST.into(),
            port: None,
            program: None,
            tls: None,
        };
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let server = EmbeddedServer::start(options, Arc::clone(&issuer), &tracker, stop.clone()).await;
        let url = server.unwrap().url();
        let connect = async |name: &str, credentials: Credentials| {
            let (name, inbox_prefix) = (name.to_owned(), subject::inbox(name));
            let url = url.clone().into();
            let options = BusOptions { url, creds: credentials.creds, name, inbox_prefix };
            Bus::connect(options, Some(PUSH_TIMEOUT)).await.unwrap()
        };
        let device = DeviceId::new("lab-one").unwrap();
        let coordinator = connect(COORDINATOR, issuer.coordinator(SYSTEM_TTL).unwrap()).await;
        let bus = connect("lab-one", issuer.device(&device, SYSTEM_TTL).unwrap()).await;
        let mut requests = bus.subscribe(subject::fleet_all("lab-one")).await.unwrap();
        bus.flush().await.unwrap();
        for late in [false, true] {
            let patience = Duration::from_secs(5);
            let ping = subject::fleet(&device, "ping");
            let answer = async {
                let request = requests.next().await.unwrap();
                if late {
                    tokio::time::sleep(within * 2).await;
                }
                bus.publish(request.reply.unwrap(), "!").await.unwrap();
                bus.flush().await.unwrap();
            };
            let bound = if late { within * 4 } else { patience };
            let asked = async {
                loop {
                    // The server may not have come to the subscription yet.
                    match coordinator.request(ping.clone(), "?", bound).await {
                        Err(BusError::NoResponders { .. }) => tokio::time::sleep(within / 10).await,
                        asked => return asked,
                    }
                }
            };
            let (asked, ()) = tokio::join!(asked, answer);
            assert_eq!(asked.is_err(), late, "{asked:?}");
            if late {
                let mut connection = bus.connection();
                let told = connection.wait_for(|now| {
                    now.denied.as_ref().is_some_and(|d| d.subject.starts_with("_INBOX.coordinator."))
                });
                tokio::time::timeout(patience, told).await.unwrap().unwrap();
            }
        }
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
