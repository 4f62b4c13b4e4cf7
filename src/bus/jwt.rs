//! NATS JWTs: the claims of an operator, an account and a user, and their signed text.
//!
//! The form is nats-io/jwt v2: a JWT whose algorithm is `ed25519-nkey` and whose subject and issuer are
//! nkeys (public keys in base32 with a letter for their kind). Pure: the time is passed in.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// The header of every NATS JWT of version 2.
const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// The version of nats-io/jwt that the claims follow.
const CLAIMS_VERSION: u32 = 2;

/// In a limit: no limit.
const NO_LIMIT: i64 = -1;

/// Why a JWT could not be made.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// The claims do not become JSON.
    #[error("cannot write the claims of a NATS JWT")]
    Encode(#[source] serde_json::Error),
    /// The key cannot sign.
    #[error("cannot sign a NATS JWT")]
    Sign(#[source] nkeys::error::Error),
}

/// Claims, as signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claims {
    jti: String,
    /// Seconds since 1970-01-01 UTC.
    iat: u64,
    iss: String,
    name: String,
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    nats: Body,
}

/// What the claims say, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Body {
    Operator {
        version: u32,
        system_account: String,
        /// Who may sign for it, beside its own key.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        signing_keys: Vec<String>,
    },
    Account {
        version: u32,
        limits: serde_json::Value,
        #[serde(flatten)]
        account: Account,
    },
    User {
        version: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        issuer_account: Option<String>,
        #[serde(flatten)]
        permissions: Option<Permissions>,
    },
}

/// Limits of an account: none, except that JetStream is switched off by leaving its part out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct AccountLimits {
    subs: i64,
    data: i64,
    payload: i64,
    imports: i64,
    exports: i64,
    wildcards: bool,
    conn: i64,
    leaf: i64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    jetstream: Option<JetStreamLimits>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct JetStreamLimits {
    mem_storage: i64,
    disk_storage: i64,
    streams: i64,
    consumer: i64,
}

/// What is particular to an account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Whether it may have streams. The system account may not.
    #[serde(skip)]
    pub jetstream: bool,
    /// What it offers to other accounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    /// What it takes from other accounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// Who may issue users, beside the account's own key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<SigningKey>,
    /// For each revoked user's public key the time up to which its JWTs are void, in seconds since
    /// 1970-01-01 UTC.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub revocations: BTreeMap<String, u64>,
}

/// Which way messages go between two accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// From the exporting account to subscribers in the importing one.
    Stream,
    /// From the importing account to the exporting one, and one answer back.
    Service,
}

/// A subject that an account offers to every other account of its operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    name: String,
    subject: String,
    #[serde(rename = "type")]
    share: Share,
}

impl Export {
    /// Offers `subject`, which may hold wildcards.
    pub fn new(share: Share, subject: impl Into<String>) -> Self {
        let subject = subject.into();
        Self { name: subject.clone(), subject, share }
    }

    /// The import of this, by another account, from the one with this public key.
    pub fn import(&self, exporter: impl Into<String>) -> Import {
        Import { export: self.clone(), account: exporter.into() }
    }
}

/// A subject that an account takes from another, under the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    #[serde(flatten)]
    export: Export,
    account: String,
}

/// A key that may issue users of an account, and what each of its users may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SigningKey {
    /// Its users bring their rights with them.
    Plain(String),
    /// Its users have the rights of a template.
    Scoped {
        /// Always `user_scope`.
        kind: &'static str,
        /// The public key.
        key: String,
        /// What its users are.
        role: String,
        /// What they may do.
        template: Permissions,
    },
}

impl SigningKey {
    /// A key whose users have exactly the rights of `template`. In it the server replaces `{{name()}}`
    /// by the user's name, but only where that is a whole token of a subject.
    pub fn scoped(public_key: impl Into<String>, role: impl Into<String>, template: Permissions) -> Self {
        Self::Scoped { kind: "user_scope", key: public_key.into(), role: role.into(), template }
    }
}

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Permissions {
    #[serde(rename = "pub")]
    publish: Subjects,
    #[serde(rename = "sub")]
    subscribe: Subjects,
    #[serde(rename = "resp", skip_serializing_if = "Option::is_none")]
    responses: Option<Responses>,
    subs: i64,
    data: i64,
    payload: i64,
}

/// Subjects that are allowed and denied; both empty means everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Subjects {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
}

impl Subjects {
    /// An empty list would allow everything, so it becomes a denial of everything.
    fn only(allow: Vec<String>) -> Self {
        let deny = if allow.is_empty() { vec![">".to_owned()] } else { Vec::new() };
        Self { allow, deny }
    }
}

/// The right to answer a message on its reply subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Responses {
    max: u32,
    /// Nanoseconds.
    ttl: u64,
}

impl Permissions {
    /// Everything in the account.
    pub fn full() -> Self {
        Self {
            publish: Subjects::default(),
            subscribe: Subjects::default(),
            responses: None,
            subs: NO_LIMIT,
            data: NO_LIMIT,
            payload: NO_LIMIT,
        }
    }

    /// Only these subjects. An empty list allows nothing.
    pub fn only(publish: Vec<String>, subscribe: Vec<String>) -> Self {
        Self { publish: Subjects::only(publish), subscribe: Subjects::only(subscribe), ..Self::full() }
    }

    /// Adds: one answer to each message received, within `ttl` of it.
    #[must_use]
    pub fn with_one_response(mut self, ttl: Duration) -> Self {
        self.responses = Some(Responses { max: 1, ttl: u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX) });
        self
    }

    /// Bounds the number of subscriptions and the bytes of a message.
    #[must_use]
    pub fn with_limits(mut self, subscriptions: u32, payload: u32) -> Self {
        self.subs = i64::from(subscriptions);
        self.payload = i64::from(payload);
        self
    }
}

/// What of an account's JWT its operator has said, and who renews it keeps.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    limits: serde_json::Value,
    /// When it was signed, in seconds since 1970-01-01 UTC.
    issued: u64,
}

impl Standing {
    /// Reads an account's JWT, as a server tells it: the signature is the server's to check.
    pub fn read(jwt: &str) -> Option<Self> {
        let body = BASE64URL_NOPAD.decode(jwt.split('.').nth(1)?.as_bytes()).ok()?;
        let claims: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let limits = claims.get("nats")?.get("limits")?.clone();
        Some(Self { limits, issued: claims.get("iat")?.as_u64()? })
    }
}

/// Who signs, and when: what all claims have in common.
#[derive(Debug)]
pub struct Signer<'a> {
    /// The key that signs.
    pub key: &'a KeyPair,
    /// Seconds since 1970-01-01 UTC.
    pub now: u64,
}

impl Signer<'_> {
    /// An operator, signed by itself; `signing_keys` may sign accounts in its place.
    pub fn operator(
        &self,
        name: &str,
        system_account: &str,
        signing_keys: Vec<String>,
    ) -> Result<String, JwtError> {
        let system_account = system_account.to_owned();
        let body = Body::Operator { version: CLAIMS_VERSION, system_account, signing_keys };
        self.sign(name, &self.key.public_key(), None, body)
    }

    /// An account, signed by its operator. It stays within the limits of the one `before` it, where there is one.
    pub fn account(
        &self,
        name: &str,
        public_key: &str,
        account: Account,
        before: Option<&Standing>,
    ) -> Result<String, JwtError> {
        if let Some(Standing { limits, issued }) = before {
            // Servers that were away take the newer one, by the second.
            let signer = Self { key: self.key, now: self.now.max(issued + 1) };
            let body = Body::Account { version: CLAIMS_VERSION, limits: limits.clone(), account };
            return signer.sign(name, public_key, None, body);
        }
        let limits = AccountLimits {
            subs: NO_LIMIT,
            data: NO_LIMIT,
            payload: NO_LIMIT,
            imports: NO_LIMIT,
            exports: NO_LIMIT,
            wildcards: true,
            conn: NO_LIMIT,
            leaf: NO_LIMIT,
            jetstream: account.jetstream.then_some(JetStreamLimits {
                mem_storage: NO_LIMIT,
                disk_storage: NO_LIMIT,
                streams: NO_LIMIT,
                consumer: NO_LIMIT,
            }),
        };
        let limits = serde_json::to_value(limits).map_err(JwtError::Encode)?;
        let body = Body::Account { version: CLAIMS_VERSION, limits, account };
        self.sign(name, public_key, None, body)
    }

    /// A user with every right in the account, signed by the account's own key, or by a signing key of `account`
    /// that has no template.
    pub fn full_user(
        &self,
        name: &str,
        public_key: &str,
        account: Option<&str>,
        expires: u64,
    ) -> Result<String, JwtError> {
        let permissions = Some(Permissions::full());
        let issuer_account = account.map(str::to_owned);
        let body = Body::User { version: CLAIMS_VERSION, issuer_account, permissions };
        self.sign(name, public_key, Some(expires), body)
    }

    /// A user signed by a scoped signing key of `account`. Its rights are those of the key's template:
    /// the server refuses a JWT that brings rights of its own.
    pub fn scoped_user(
        &self,
        name: &str,
        public_key: &str,
        account: &str,
        expires: u64,
    ) -> Result<String, JwtError> {
        let issuer_account = Some(account.to_owned());
        let body = Body::User { version: CLAIMS_VERSION, issuer_account, permissions: None };
        self.sign(name, public_key, Some(expires), body)
    }

    fn sign(&self, name: &str, subject: &str, exp: Option<u64>, nats: Body) -> Result<String, JwtError> {
        let mut claims = Claims {
            jti: String::new(),
            iat: self.now,
            iss: self.key.public_key(),
            name: name.to_owned(),
            sub: subject.to_owned(),
            exp,
            nats,
        };
        let unnamed = serde_json::to_vec(&claims).map_err(JwtError::Encode)?;
        claims.jti = BASE32_NOPAD.encode(&Sha256::digest(unnamed));
        let body = serde_json::to_vec(&claims).map_err(JwtError::Encode)?;
        let signed =
            format!("{}.{}", BASE64URL_NOPAD.encode(HEADER.as_bytes()), BASE64URL_NOPAD.encode(&body));
        let signature = self.key.sign(signed.as_bytes()).map_err(JwtError::Sign)?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
    }
}

/// The text of a credentials file, as every NATS client reads it.
pub fn credentials_file(jwt: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nkeys::KeyPairType;
    use serde_json::{Value, json};

    fn key(kind: KeyPairType, fill: u8) -> KeyPair {
        KeyPair::new_from_raw(kind, [fill; 32]).unwrap()
    }

    /// Checks the signature and answers the claims.
    fn open(jwt: &str, signer: &KeyPair) -> Value {
        let (signed, signature) = jwt.rsplit_once('.').unwrap();
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        signer.verify(signed.as_bytes(), &signature).unwrap();
        let (header, body) = signed.split_once('.').unwrap();
        assert_eq!(BASE64URL_NOPAD.decode(header.as_bytes()).unwrap(), HEADER.as_bytes());
        serde_json::from_slice(&BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn an_operator_names_its_system_account() {
        let operator = key(KeyPairType::Operator, 1);
        let claims =
            open(&Signer { key: &operator, now: 7 }.operator("lab", "ASYS", Vec::new()).unwrap(), &operator);
        assert_eq!(claims["iss"], claims["sub"]);
        assert_eq!(claims["iat"], 7);
        assert_eq!(claims["nats"], json!({"type": "operator", "version": 2, "system_account": "ASYS"}));
    }

    #[test]
    fn an_account_carries_templates_and_revocations() {
        let (operator, account) = (key(KeyPairType::Operator, 1), key(KeyPairType::Account, 2));
        let template = Permissions::only(vec!["a.{{name()}}.>".into()], vec![])
            .with_one_response(Duration::from_secs(5))
            .with_limits(10, 1000);
        let asking = Export::new(Share::Service, "ask.>");
        let body = Account {
            jetstream: true,
            imports: vec![asking.import("AOTHER")],
            exports: vec![asking, Export::new(Share::Stream, "news.*")],
            signing_keys: vec![SigningKey::scoped("ASIGN", "device", template)],
            revocations: [("UX".to_owned(), 6)].into(),
        };
        let jwt =
            Signer { key: &operator, now: 7 }.account("lab", &account.public_key(), body, None).unwrap();
        let claims = open(&jwt, &operator);
        assert_eq!(claims["sub"], account.public_key());
        assert_eq!(claims["nats"]["revocations"], json!({"UX": 6}));
        assert_eq!(claims["nats"]["limits"]["disk_storage"], -1);
        assert_eq!(
            claims["nats"]["signing_keys"],
            json!([{"kind": "user_scope", "key": "ASIGN", "role": "device", "template": {
                "pub": {"allow": ["a.{{name()}}.>"]},
                "sub": {"deny": [">"]},
                "resp": {"max": 1, "ttl": 5_000_000_000_u64},
                "subs": 10, "data": -1, "payload": 1000,
            }}])
        );
        assert_eq!(
            claims["nats"]["exports"],
            json!([{"name": "ask.>", "subject": "ask.>", "type": "service"},
                {"name": "news.*", "subject": "news.*", "type": "stream"}])
        );
        assert_eq!(
            claims["nats"]["imports"],
            json!([{"name": "ask.>", "subject": "ask.>", "type": "service", "account": "AOTHER"}])
        );
        let system = Signer { key: &operator, now: 7 }.account("SYS", "ASYS", Account::default(), None);
        assert!(open(&system.unwrap(), &operator)["nats"]["limits"].get("disk_storage").is_none());
    }

    #[test]
    fn an_account_that_is_renewed_keeps_its_limits_and_is_newer() {
        let (operator, account) = (key(KeyPairType::Operator, 1), key(KeyPairType::Account, 2).public_key());
        let signer = Signer { key: &operator, now: 7 };
        let first = signer.account("lab", &account, Account::default(), None).unwrap();
        let mut standing = Standing::read(&first).unwrap();
        standing.limits["conn"] = json!(100);
        let signing_keys = vec![SigningKey::Plain("ASIGN".to_owned())];
        let renewed = Account { signing_keys, ..Account::default() };
        let renewed = signer.account("lab", &account, renewed, Some(&standing)).unwrap();
        let claims = open(&renewed, &operator);
        assert_eq!((&claims["iat"], &claims["nats"]["limits"]["conn"]), (&json!(8), &json!(100)));
        assert_eq!(claims["nats"]["signing_keys"], json!(["ASIGN"]));
        for other in ["", "a.b.c", "x"] {
            assert_eq!(Standing::read(other), None, "{other}");
        }
    }

    #[test]
    fn a_scoped_user_brings_no_rights_of_its_own() {
        let signing = key(KeyPairType::Account, 3);
        let jwt = Signer { key: &signing, now: 7 }.scoped_user("lab-vm", "UPUB", "AACC", 9).unwrap();
        let claims = open(&jwt, &signing);
        assert_eq!(claims["exp"], 9);
        assert_eq!(claims["nats"], json!({"type": "user", "version": 2, "issuer_account": "AACC"}));
    }

    #[test]
    fn the_id_is_the_hash_of_the_claims_without_it() {
        let account = key(KeyPairType::Account, 3);
        let first = Signer { key: &account, now: 7 }.full_user("c", "UPUB", None, 9).unwrap();
        assert_eq!(first, Signer { key: &account, now: 7 }.full_user("c", "UPUB", None, 9).unwrap());
        let (first, later) = (
            open(&first, &account),
            open(&Signer { key: &account, now: 8 }.full_user("c", "UPUB", None, 9).unwrap(), &account),
        );
        assert_eq!(first["jti"].as_str().unwrap().len(), 52, "32 bytes in base32 without padding");
        assert_ne!(first["jti"], later["jti"]);
    }
}
