//! HTTP digest access authentication (RFC 7616), as much as switches use: SHA-256 and `qop="auth"`, the one
//! way of Shelly's second generation.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// What a server wants to be answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header. None when it is not a digest of the kind that is spoken here.
    pub fn parse(header: &str) -> Option<Self> {
        let parameters = header.strip_prefix("Digest ").or_else(|| header.strip_prefix("digest "))?;
        let (mut realm, mut nonce, mut opaque, mut algorithm, mut qop) = (None, None, None, None, None);
        for (name, value) in parameters_of(parameters) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "nonce" => nonce = Some(value),
                "opaque" => opaque = Some(value),
                "algorithm" => algorithm = Some(value),
                "qop" => qop = Some(value),
                _ => {}
            }
        }
        let known = algorithm?.eq_ignore_ascii_case("SHA-256") && qop?.split(',').any(|q| q.trim() == "auth");
        known.then_some(Self { realm: realm?, nonce: nonce?, opaque })
    }

    /// The `Authorization` header for the first use of this challenge. `uri` is the request's target, with its
    /// query; `cnonce` any text without quotes that was not used before.
    pub fn answer(&self, user: &str, password: &str, method: &str, uri: &str, cnonce: &str) -> String {
        let Self { realm, nonce, opaque } = self;
        let secret = hash(&[user, realm, password]);
        let request = hash(&[method, uri]);
        let response = hash(&[&secret, nonce, "00000001", cnonce, "auth", &request]);
        let user = user.replace('\\', "\\\\").replace('"', "\\\"");
        let mut header = format!(
            "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             algorithm=SHA-256, qop=auth, nc=00000001, cnonce=\"{cnonce}\", response=\"{response}\""
        );
        if let Some(opaque) = opaque {
            header.push_str(&format!(", opaque=\"{opaque}\""));
        }
        header
    }
}

fn hash(parts: &[&str]) -> String {
    HEXLOWER.encode(&Sha256::digest(parts.join(":")))
}

/// The parameters of a challenge: `name=value` or `name="value"`, joined by commas. What is quoted may hold
/// commas; what cannot be read ends the list.
fn parameters_of(mut text: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    while let Some((name, rest)) = text.trim_start_matches([' ', ',']).split_once('=') {
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => match quoted.split_once('"') {
                Some(split) => split,
                None => break,
            },
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        found.push((name.trim(), value.trim().to_owned()));
        text = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7616 §3.9.1.
    #[test]
    fn the_example_of_the_standard() {
        let header = "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=SHA-256, \
            nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
            opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";
        let challenge = Challenge::parse(header).unwrap();
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let answer = challenge.answer("Mufasa", "Circle of Life", "GET", "/dir/index.html", cnonce);
        let expected = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1";
        assert!(answer.contains(&format!("response=\"{expected}\"")), "{answer}");
        assert!(answer.contains("opaque=\"FQhe/"), "{answer}");
    }

    #[test]
    fn other_challenges_are_not_taken_for_one() {
        let shelly =
            "Digest qop=\"auth\", realm=\"shellyplus1-08b61fcb7f3c\", nonce=\"60dc59c6\", algorithm=SHA-256";
        let challenge = Challenge::parse(shelly).unwrap();
        assert_eq!((challenge.realm.as_str(), challenge.opaque), ("shellyplus1-08b61fcb7f3c", None));
        for other in [
            "",
            "Basic realm=\"x\"",
            "Digest",
            "Digest realm=\"x\", nonce=\"y\", qop=\"auth\"",
            "Digest realm=\"x\", nonce=\"y\", qop=\"auth\", algorithm=MD5",
            "Digest realm=\"x\", nonce=\"y\", qop=\"auth-int\", algorithm=SHA-256",
            "Digest realm=\"x, nonce=y, algorithm=SHA-256, qop=auth",
        ] {
            assert_eq!(Challenge::parse(other), None, "{other}");
        }
    }
}
