//! Ed25519 key pairs in OpenSSH's formats.

use russh::keys::PrivateKey;
use russh::keys::ssh_key::{self, LineEnding, private::Ed25519Keypair, private::KeypairData};

/// A key pair. `private` is a secret: it has no `Debug`.
#[derive(Clone)]
pub struct KeyPair {
    /// OpenSSH private key format (PROTOCOL.key), not encrypted.
    pub private: String,
    /// One line: `ssh-ed25519 <base64> <comment>`.
    pub public: String,
}

/// Makes a key pair from fresh randomness.
pub fn generate_key(comment: &str) -> Result<KeyPair, ssh_key::Error> {
    let pair = Ed25519Keypair::from_seed(&rand::random());
    let key = PrivateKey::new(KeypairData::Ed25519(pair), comment)?;
    Ok(KeyPair {
        private: key.to_openssh(LineEnding::LF)?.as_str().to_owned(),
        public: key.public_key().to_openssh()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::PublicKey;

    #[test]
    fn both_halves_read_back_and_belong_together() {
        let pair = generate_key("pilab lab-vm-1").unwrap();
        let private = PrivateKey::from_openssh(&pair.private).unwrap();
        let public = PublicKey::from_openssh(&pair.public).unwrap();
        assert_eq!(private.public_key().key_data(), public.key_data());
        assert!(pair.public.starts_with("ssh-ed25519 ") && pair.public.ends_with(" pilab lab-vm-1"));
        assert_ne!(generate_key("x").unwrap().public, generate_key("x").unwrap().public);
    }
}
