//! The right to use devices, and the token that fences off whoever lost it.

use super::id::{DeviceId, LeaseId, UserName};
use super::scenario::Need;
use super::time::{Deadline, Moment};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Orders the holders of a device: each actuator remembers the greatest token it has seen and
/// refuses a smaller one, so a holder whose lease has passed can do no harm.
///
/// The epoch grows when the ledger is made anew, the sequence with each grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FencingToken {
    /// Which ledger.
    pub epoch: u64,
    /// Which grant in it.
    pub sequence: u64,
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// Under which lease, and which of its tokens, something is done. A lease that is given on to somebody else stays the same; its
/// token does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseToken {
    /// The lease.
    pub lease: LeaseId,
    /// Its token.
    pub token: FencingToken,
}

/// The greatest token an actuator has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fence {
    floor: Option<FencingToken>,
}

/// An actuator was called with a token smaller than one it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease with fencing token {token} has passed: a holder with token {floor} came after it")]
pub struct Fenced {
    /// The token of the call.
    pub token: FencingToken,
    /// The greatest token seen.
    pub floor: FencingToken,
}

impl Fence {
    /// Lets `token` pass when no greater one has been seen, and remembers it.
    pub fn admit(&mut self, token: FencingToken) -> Result<(), Fenced> {
        match self.floor {
            Some(floor) if token < floor => Err(Fenced { token, floor }),
            _ => {
                self.floor = Some(token);
                Ok(())
            }
        }
    }
}

/// How much a request matters beside others. The order is theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// It can wait: the nightly run, say.
    Low,
    /// What people ask for.
    #[default]
    Normal,
    /// It should not wait.
    High,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        })
    }
}

impl std::str::FromStr for Priority {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "low" => Ok(Self::Low),
            "normal" => Ok(Self::Normal),
            "high" => Ok(Self::High),
            _ => Err(format!("unknown priority {text:?}: use low, normal or high")),
        }
    }
}

/// The longest purpose, in characters: one line of a list.
pub const MAX_PURPOSE_LEN: usize = 200;

/// What a lease is for, in its holder's words: one line, for others to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Purpose(String);

/// A text is no purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a purpose is one line of at most {MAX_PURPOSE_LEN} characters without control characters")]
pub struct PurposeError;

impl Purpose {
    /// Checks `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, PurposeError> {
        let text = text.into();
        let fits = text.chars().count() <= MAX_PURPOSE_LEN && !text.chars().any(char::is_control);
        if fits { Ok(Self(text)) } else { Err(PurposeError) }
    }

    /// The purpose as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Purpose {
    type Error = PurposeError;
    fn try_from(text: String) -> Result<Self, PurposeError> {
        Self::new(text)
    }
}

impl From<Purpose> for String {
    fn from(purpose: Purpose) -> String {
        purpose.0
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Its id, that of the lease as well. A request that comes twice under one id is one request.
    pub id: LeaseId,
    /// Who is to hold it.
    pub holder: UserName,
    /// What for.
    #[serde(default)]
    pub purpose: Purpose,
    /// The devices: all of them or none.
    pub needs: Vec<Need>,
    /// For how long; the lab's default when missing.
    #[serde(default)]
    pub duration: Option<Duration>,
    /// How much it matters.
    #[serde(default)]
    pub priority: Priority,
    /// The lease ends with the holder's process, which lets itself be heard this often.
    #[serde(default)]
    pub hold_by_process: Option<Duration>,
    /// A booking: not before then, in milliseconds since 1970-01-01 UTC. As soon as can be when missing.
    #[serde(default)]
    pub start: Option<u64>,
    /// A device that is named may be in quarantine or maintenance: an admin's to ask for.
    #[serde(default)]
    pub any_health: bool,
}

/// The right to use devices until a deadline. Written once, when it is granted, and anew when it is transferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What was asked for, and who holds it.
    pub request: LeaseRequest,
    /// The devices, one for each need, in the order of the needs.
    pub devices: Vec<DeviceId>,
    /// What the actuators know its holder by.
    pub token: FencingToken,
    /// When it was granted to its first holder.
    pub granted: Moment,
    /// When it ends, unless a renewal says otherwise.
    pub deadline: Deadline,
    /// Who held it before it was given on, the last one last, at most [`MAX_FORMER`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<UserName>,
}

impl Lease {
    /// What its holder acts under.
    pub fn held(&self) -> LeaseToken {
        LeaseToken { lease: self.request.id.clone(), token: self.token }
    }
}

/// How many former holders are remembered, of a lease and of a device: enough that whoever still calls is told who
/// came after.
pub const MAX_FORMER: usize = 8;

/// Who has a device now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// The device.
    pub device: DeviceId,
    /// Its lease.
    pub lease: LeaseId,
    /// The holder.
    pub holder: UserName,
    /// The holder's token.
    pub token: FencingToken,
    /// Until when, in milliseconds since 1970-01-01 UTC.
    pub until_ms: u64,
}

/// Somebody acts under a lease that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the lease has ended{}", .present.as_ref().map(|p| format!(": {} is now {}'s ({})", p.device, p.holder, p.lease)).unwrap_or_default())]
pub struct LeaseLost {
    /// Who came after, on the first of the devices that somebody has.
    pub present: Option<Present>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purpose_is_one_line_of_bounded_length() {
        assert!(Purpose::new("a".repeat(MAX_PURPOSE_LEN)).is_ok());
        for bad in ["a\nb", "\u{1b}[2J", &"a".repeat(MAX_PURPOSE_LEN + 1)] {
            assert!(Purpose::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_request_from_before_a_field_was_added_is_read() {
        let text = r#"{"id":"l1","holder":"ann","needs":[{"role":"dut","model":null,"labels":{}}]}"#;
        let request: LeaseRequest = serde_json::from_str(text).unwrap();
        assert_eq!((request.priority, request.start, request.any_health), (Priority::Normal, None, false));
        assert_eq!(request.needs[0].device, None);
    }

    #[test]
    fn a_smaller_token_never_passes_again() {
        let token = |epoch, sequence| FencingToken { epoch, sequence };
        let mut fence = Fence::default();
        assert_eq!(fence.admit(token(1, 5)), Ok(()));
        assert_eq!(fence.admit(token(1, 5)), Ok(()));
        assert_eq!(fence.admit(token(1, 4)), Err(Fenced { token: token(1, 4), floor: token(1, 5) }));
        assert_eq!(fence.admit(token(2, 0)), Ok(()), "a new epoch outranks any sequence of an old one");
        assert!(fence.admit(token(1, 99)).is_err());
    }
}
