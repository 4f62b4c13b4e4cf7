//! A copy of a bundle that can be shown to others: addresses, names of people, keys and tickets are hidden.
//!
//! What is hidden becomes as many `x`, so that offsets and lengths still hold and the copy can be replayed. It is
//! a help and no proof: whoever shares the copy looks through it first, and names what else is to be hidden.

use super::error::BundleError;
use super::open::Bundle;
use super::pack::Packer;
use crate::model::bundle::Redacted;
use crate::support::clock;
use regex::bytes::Regex;
use std::path::Path;

/// What is looked for everywhere: its name, and its pattern. Each hides its group `hide`, or all of it.
const RULES: &[(&str, &str)] = &[
    ("private keys", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----"),
    ("NATS seeds", r"\bS[ACNOPUX][A-Z2-7]{56}\b"),
    ("tokens", r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]+)?"),
    ("boot tickets", r"pilab\.ticket=(?P<hide>[^\s\x22]+)"),
    (
        "passwords",
        r"(?i)(?:password|passwd|passphrase|secret|token|api[-_]?key)[\x22']?\s*[:=]\s*[\x22']?(?P<hide>[^\s\x22',}]{3,})",
    ),
    ("SSH keys", r"\b(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+) (?P<hide>AAAA[A-Za-z0-9+/=]{16,})"),
    ("MAC addresses", r"(?i)\b(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b"),
    ("IPv4 addresses", r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b"),
    ("IPv6 addresses", r"(?i)\b(?:[0-9a-f]{1,4}:){3,7}(?::?[0-9a-f]{1,4})+\b|(?i)\bfe80:[0-9a-f:]+"),
    ("e-mail addresses", r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z]{2,}"),
    ("serial numbers", r"(?i)\bserial(?: number)?[\x22']?\s*[:=]\s*[\x22']?(?P<hide>[0-9a-f]{8,16})\b"),
    ("home directories", r"/home/(?P<hide>[A-Za-z0-9._-]+)"),
    ("people", r#""(?:by|holder|user)":\s*"(?P<hide>[^"]+)""#),
];

/// What is to be hidden.
pub struct Redaction {
    rules: Vec<(String, Regex)>,
}

impl Redaction {
    /// The usual, and what `more` matches.
    pub fn new(more: &[String]) -> Result<Self, BundleError> {
        let usual = RULES.iter().map(|(name, pattern)| ((*name).to_owned(), (*pattern).to_owned()));
        let more = more.iter().map(|pattern| ("as asked".to_owned(), pattern.clone()));
        let rules = usual.chain(more).map(|(name, pattern)| match Regex::new(&pattern) {
            Ok(regex) => Ok((name, regex)),
            Err(source) => Err(BundleError::Pattern { pattern, source: Box::new(source) }),
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Hides what is to be hidden; answers how much was found.
    pub fn hide(&self, content: &mut [u8]) -> u64 {
        let mut found = Vec::new();
        for (_, regex) in &self.rules {
            let captures = regex.captures_iter(content);
            found.extend(captures.filter_map(|c| c.name("hide").or_else(|| c.get(0))).map(|m| m.range()));
        }
        for range in &found {
            for byte in content.get_mut(range.clone()).unwrap_or_default() {
                // Lines stay lines, and JSON stays JSON.
                if !matches!(byte, b'\n' | b'\r' | b'"' | b'\\') {
                    *byte = b'x';
                }
            }
        }
        found.len() as u64
    }

    fn names(&self) -> Vec<String> {
        self.rules.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Writes the copy to `to`, marked as such. Answers what was hidden. A file that is damaged is left out, and told as a gap.
pub fn redact(bundle: &Bundle, redaction: &Redaction, to: &Path) -> Result<Redacted, BundleError> {
    let mut packer = Packer::new(to.with_extension("spool"));
    let mut hidden = 0;
    for file in bundle.files() {
        match bundle.read(&file.path, file.size.max(1))? {
            (mut content, None) => {
                hidden += redaction.hide(&mut content);
                packer.begin(&file.path)?;
                packer.write(&content)?;
                packer.end()?;
            }
            (_, Some(error)) => packer.gap(&file.path, format!("damaged where it was copied: {error}")),
        }
    }
    for gap in bundle.contents().gaps {
        packer.gap(&gap.path, gap.cause);
    }
    let redacted = Redacted { at_ms: clock::wall_ms(), rules: redaction.names(), hidden };
    let about = bundle.about().map(|mut about| {
        let mut reason = about.reason.into_bytes();
        redaction.hide(&mut reason);
        about.reason = String::from_utf8_lossy(&reason).into_owned();
        about
    });
    packer.finish(about, Some(redacted.clone()), to)?;
    Ok(redacted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_hidden_and_what_is_evidence_stays() {
        let redaction = Redaction::new(&["corp-[a-z]+".to_owned()]).unwrap();
        let table = [
            ("Linux version 6.1.0-18-arm64", "Linux version 6.1.0-18-arm64"),
            ("[    1.234567] eth0: up", "[    1.234567] eth0: up"),
            ("pilab-init: address 192.168.122.40/24", "pilab-init: address xxxxxxxxxxxxxx/24"),
            ("link/ether 52:54:00:ab:cd:ef", "link/ether xxxxxxxxxxxxxxxxx"),
            ("addr fe80::5054:ff:feab:cdef up", "addr xxxxxxxxxxxxxxxxxxxxxxx up"),
            ("console=ttyS0 pilab.ticket=ab12cd34 quiet", "console=ttyS0 pilab.ticket=xxxxxxxx quiet"),
            ("DB_PASSWORD=hunter2 next", "DB_PASSWORD=xxxxxxx next"),
            (r#"{"by":"ann","port":22}"#, r#"{"by":"xxx","port":22}"#),
            (
                r#"{"boot_ns":1000000000000,"wall_ms":1790000000000}"#,
                r#"{"boot_ns":1000000000000,"wall_ms":1790000000000}"#,
            ),
            ("at corp-zurich now", "at xxxxxxxxxxx now"),
            ("/home/ann/src", "/home/xxx/src"),
        ];
        for (before, after) in table {
            let mut content = before.as_bytes().to_vec();
            redaction.hide(&mut content);
            assert_eq!(String::from_utf8(content).unwrap(), after);
        }
        assert!(matches!(Redaction::new(&["(".to_owned()]), Err(BundleError::Pattern { .. })));
    }
}
