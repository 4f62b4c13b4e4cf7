//! The right to use devices, and the token that fences off whoever lost it.

use serde::{Deserialize, Serialize};
use std::fmt;

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

#[cfg(test)]
mod tests {
    use super::*;

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
