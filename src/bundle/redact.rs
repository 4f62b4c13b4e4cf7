//! A copy of a bundle that can be shown to others: addresses, names of people, keys and tickets are hidden.
//!
//! What is hidden becomes as many `x`, so that offsets and lengths still hold and the copy can be replayed. JSON is looked
//! through as it reads (`redact::json`). It is a help and no proof: whoever shares the copy looks through it first, and
//! names what else is to be hidden.

mod json;

use super::MAX_HELD;
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
        let (marked, found) = self.mark(content, |_| true);
        for (byte, _) in content.iter_mut().zip(marked).filter(|(_, marked)| *marked) {
            // Lines stay lines, and quotes stay in pairs.
            if !matches!(byte, b'\n' | b'\r' | b'"' | b'\\') {
                *byte = b'x';
            }
        }
        found
    }

    /// The same of JSON, of one value or one a line: it stays JSON, of the same length and shape.
    pub fn hide_json(&self, content: &mut [u8]) -> u64 {
        // No string of JSON goes over a line's end.
        content.split_mut(|byte| *byte == b'\n').map(|line| self.hide_line(line)).sum()
    }

    fn hide_line(&self, line: &mut [u8]) -> u64 {
        let (text, open) = json::read(line);
        let (marked, found) = self.mark(&text, |at| open.get(at).copied().unwrap_or_default());
        if found > 0 {
            json::hide(line, &marked);
        }
        found
    }

    /// A line of words.
    fn hide_words(&self, words: String) -> String {
        let mut bytes = words.into_bytes();
        self.hide(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Which of the bytes are to be hidden, of those that may be, and in how many places that is.
    fn mark(&self, text: &[u8], may: impl Fn(usize) -> bool) -> (Vec<bool>, u64) {
        let (mut marked, mut found) = (vec![false; text.len()], 0);
        for (_, regex) in &self.rules {
            let captures = regex.captures_iter(text);
            for range in captures.filter_map(|c| c.name("hide").or_else(|| c.get(0))).map(|m| m.range()) {
                let here =
                    range.filter(|at| may(*at)).filter_map(|at| marked.get_mut(at).map(|mark| *mark = true));
                found += u64::from(here.count() > 0);
            }
        }
        (marked, found)
    }

    fn names(&self) -> Vec<String> {
        self.rules.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Writes the copy to `to`, marked as such. Answers what was hidden. A file that is damaged, or too large to be looked
/// through, is left out, and told as a gap.
pub fn redact(bundle: &Bundle, redaction: &Redaction, to: &Path) -> Result<Redacted, BundleError> {
    redact_up_to(bundle, redaction, to, MAX_HELD)
}

/// A file is looked through as a whole, for a key may begin and end anywhere in it: larger ones than `most` are left out.
pub(super) fn redact_up_to(
    bundle: &Bundle,
    redaction: &Redaction,
    to: &Path,
    most: u64,
) -> Result<Redacted, BundleError> {
    let mut packer = Packer::new(to.with_extension("spool"));
    let mut hidden = 0;
    for file in bundle.files() {
        if file.size > most {
            let cause = format!("it has {} bytes, and only files of up to {most} are redacted", file.size);
            packer.gap(&file.path, cause);
            continue;
        }
        match bundle.read(&file.path, most)? {
            (mut content, None) => {
                let is_json = file.path.ends_with(".json") || file.path.ends_with(".jsonl");
                hidden +=
                    if is_json { redaction.hide_json(&mut content) } else { redaction.hide(&mut content) };
                packer.begin(&file.path)?;
                packer.write(&content)?;
                packer.end()?;
            }
            (_, Some(error)) => {
                let cause = format!("damaged where it was copied: {error}");
                packer.gap(&file.path, redaction.hide_words(cause));
            }
        }
    }
    for gap in bundle.contents().gaps {
        packer.gap(&gap.path, redaction.hide_words(gap.cause));
    }
    let redacted = Redacted { at_ms: clock::wall_ms(), rules: redaction.names(), hidden };
    let about = bundle.about().map(|mut about| {
        about.reason = redaction.hide_words(about.reason);
        about
    });
    packer.finish(about, Some(redacted.clone()), to)?;
    Ok(redacted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn json_is_looked_through_as_it_reads_and_stays_json() {
        let redaction = Redaction::new(&[]).unwrap();
        let table = [
            (r#"{"m":"db: password=hunter2\nready"}"#, r#"{"m":"db: password=xxxxxxx\nready"}"#),
            (r#"{"m":"password=\"hunter2\" ok"}"#, r#"{"m":"password=\"xxxxxxx\" ok"}"#),
            (r#"{"m":"password=h\u00e4nter\t"}"#, r#"{"m":"password=x\u0078xxxx\t"}"#),
            (r#"{"m":"up\n10.0.0.17 and\u000a10.0.0.18"}"#, r#"{"m":"up\nxxxxxxxxx and\u000axxxxxxxxx"}"#),
            (r#"{"m":"{\"by\":\"ann\"}","by":"ann"}"#, r#"{"m":"{\"by\":\"xxx\"}","by":"xxx"}"#),
            (
                r#"{"m":"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nup"}"#,
                r#"{"m":"xxxxxxxxxxxxxxxxxxxxxxxxxxx\nxxxx\nxxxxxxxxxxxxxxxxxxxxxxxxx\nup"}"#,
            ),
            // A fencing token is a number, and no secret.
            (r#"{"token":1234,"secret":true}"#, r#"{"token":1234,"secret":true}"#),
        ];
        for (before, after) in table {
            let mut content = before.as_bytes().to_vec();
            redaction.hide_json(&mut content);
            assert_eq!(String::from_utf8(content).unwrap(), after);
        }
    }

    /// The shape of a value: all but what its strings say.
    fn shape(value: &serde_json::Value) -> serde_json::Value {
        use serde_json::Value::{Array, Object, String};
        match value {
            String(_) => String(std::string::String::new()),
            Array(all) => Array(all.iter().map(shape).collect()),
            Object(all) => Array(all.values().map(shape).collect()),
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn every_line_of_json_stays_one_of_the_same_length_and_shape(
            texts in prop::collection::vec(
                prop::collection::vec(
                    prop::sample::select(vec![
                        "password=", "\"token\": ", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----",
                        "10.0.0.1", "52:54:00:ab:cd:ef", "ann@example.org", "\n", "\"", "\\", "\u{1}", "ä", "😀", " ", "{", "u00e4",
                    ]),
                    0..8,
                ),
                1..5,
            ),
            number in any::<u32>(),
            ascii in any::<bool>(),
        ) {
            // Patterns that do not stop at a character's end, and one that matches everything.
            let more = [r"(?-u)[\x80-\xff]".to_owned(), r"(?s)p.*".to_owned()];
            let texts: Vec<String> = texts.iter().map(|parts| parts.concat()).collect();
            let value = serde_json::json!({ "password": number, "by": texts, "m": { "token": null } });
            let mut before = serde_json::to_string(&value).unwrap();
            if ascii {
                before = before.chars().map(|c| match c {
                    c if c.is_ascii() => c.to_string(),
                    c => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
                }).collect();
            }
            let mut content = format!("{before}\n{before}").into_bytes();
            Redaction::new(&more).unwrap().hide_json(&mut content);
            prop_assert_eq!(content.len(), 2 * before.len() + 1);
            for line in content.split(|byte| *byte == b'\n') {
                let after: serde_json::Value = serde_json::from_slice(line).unwrap();
                prop_assert_eq!(shape(&after), shape(&value));
            }
        }
    }
}
