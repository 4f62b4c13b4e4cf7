//! An SSH public key as it stands in an `authorized_keys` file, and nothing more than a key.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The most characters of a key: RSA with 8192 bits has some 1400 in base64.
const MAX_LEN: usize = 2048;
/// The kinds of key that OpenSSH knows (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Kind and base64, without the comment. It never holds options: one line of options more would let whoever offers
/// the key say what else the device's sshd is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SshPublicKey(String);

/// Why a text is no such key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not one SSH public key in OpenSSH's format: {0}")]
pub struct SshKeyError(&'static str);

impl SshPublicKey {
    /// Reads the one line of a `.pub` file.
    pub fn new(text: &str) -> Result<Self, SshKeyError> {
        let text = text.trim();
        if text.len() > MAX_LEN {
            return Err(SshKeyError("it is too long"));
        }
        if text.chars().any(char::is_control) {
            return Err(SshKeyError("it has more than one line"));
        }
        let mut words = text.split(' ');
        let kind = words.next().filter(|kind| KINDS.contains(kind));
        let kind = kind.ok_or(SshKeyError("it does not begin with a kind of key, as ssh-ed25519"))?;
        let base64 = |word: &&str| {
            let body = word.trim_end_matches('=');
            !body.is_empty() && body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        };
        let key = words.next().filter(base64).ok_or(SshKeyError("after its kind there is no base64"))?;
        Ok(Self(format!("{kind} {key}")))
    }

    /// A line of an `authorized_keys` file, without its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SshPublicKey {
    type Error = SshKeyError;
    fn try_from(text: String) -> Result<Self, SshKeyError> {
        Self::new(&text)
    }
}

impl From<SshPublicKey> for String {
    fn from(key: SshPublicKey) -> Self {
        key.0
    }
}

impl fmt::Display for SshPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_without_its_comment() {
        let key = SshPublicKey::new("ssh-ed25519 AAAAC3Nz+/a= ann@host (laptop)\n").unwrap();
        assert_eq!(key.as_str(), "ssh-ed25519 AAAAC3Nz+/a=");
        assert_eq!(serde_json::from_value::<SshPublicKey>(key.as_str().into()).unwrap(), key);
    }

    #[test]
    fn what_is_more_or_less_than_a_key_is_refused() {
        for text in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ",
            "ssh-ed25519 ===",
            "ssh-dss AAAA",
            "command=\"id\" ssh-ed25519 AAAA",
            "ssh-ed25519 AAAA\ncommand=\"id\" ssh-ed25519 AAAA",
            "ssh-ed25519 $(id)",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            &format!("ssh-rsa {}", "A".repeat(MAX_LEN)),
        ] {
            assert!(SshPublicKey::new(text).is_err(), "{text}");
            assert!(serde_json::from_value::<SshPublicKey>(text.into()).is_err(), "{text}");
        }
    }
}
