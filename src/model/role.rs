//! What a person or CI job may do in a lab.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A role; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks: devices, queue, consoles, runs and their evidence.
    Viewer,
    /// Reserves devices and uses those it holds; starts runs, and stops its own.
    User,
    /// Acts for others: their leases, their runs, their logins.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::User => "user",
            Self::Admin => "admin",
        })
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "user" => Ok(Self::User),
            "admin" => Ok(Self::Admin),
            _ => Err(format!("unknown role {text:?}: use viewer, user or admin")),
        }
    }
}
