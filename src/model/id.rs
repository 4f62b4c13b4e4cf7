//! Names that are parsed once and then trusted.
//!
//! All of them become NATS subject tokens, file names and libvirt domain names, so they hold only
//! `a-z 0-9 -`, start and end with a letter or digit, and are at most 63 bytes (the limit of a DNS
//! label, RFC 1035 §2.3.4). In particular no dot: a dot would split a subject token.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest id in bytes.
pub const MAX_ID_LEN: usize = 63;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} {text:?} is not valid: use 1 to {MAX_ID_LEN} of a-z, 0-9 and '-', starting and ending with a letter or digit"
)]
pub struct IdError {
    /// What the id names, for example `device`.
    pub kind: &'static str,
    /// The text that was refused, cut to 80 characters.
    pub text: String,
}

fn is_id(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= MAX_ID_LEN
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text`.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if is_id(&text) {
                    Ok(Self(text))
                } else {
                    Err(IdError { kind: $kind, text: text.chars().take(80).collect() })
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A lab: one coordinator's devices.
    LabName,
    "lab name"
);
id!(
    /// A device on the wire: `<lab>-<device>`.
    DeviceId,
    "device id"
);
id!(
    /// A named set of containers on one device.
    DeploymentName,
    "deployment name"
);
id!(
    /// A scenario.
    ScenarioName,
    "scenario name"
);
id!(
    /// A run of a scenario.
    RunId,
    "run id"
);
id!(
    /// A lease, from its request to its end.
    LeaseId,
    "lease id"
);
id!(
    /// A person or CI job that talks to a lab.
    UserName,
    "user name"
);
id!(
    /// A container inside a deployment.
    ContainerName,
    "container name"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_a_subject_or_path_could_misread() {
        for bad in ["", "-a", "a-", "a.b", "a/b", "A", "a b", "a*", ">", "..", "é", &"a".repeat(64)] {
            assert!(DeviceId::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "vm-1", "0", &"a".repeat(63)] {
            assert!(DeviceId::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn ids_are_checked_when_read_from_json() {
        let error = serde_json::from_str::<DeviceId>("\"a.b\"").unwrap_err().to_string();
        assert!(error.contains("device id \"a.b\" is not valid"), "{error}");
    }
}
