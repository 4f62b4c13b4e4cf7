//! What a device's agent has to say of its own state directory when something is wrong with it.

use serde::{Deserialize, Serialize};

/// Something is wrong with a file of the agent's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateNote {
    /// The file, below the state directory.
    pub file: String,
    /// What is wrong with it.
    pub problem: StateProblem,
}

/// What is wrong with a file of the agent's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StateProblem {
    /// It was cut short or its bytes have changed; the agent goes on without it.
    Damaged {
        /// How that was noticed.
        cause: String,
        /// What it is called now; none when it could not be renamed.
        kept_as: Option<String>,
    },
    /// A newer agent wrote it; this one goes on without it.
    Newer {
        /// The version it has.
        version: u32,
        /// What it is called now; none when it could not be renamed.
        kept_as: Option<String>,
    },
    /// It could not be written, so what it should hold was not taken: the disk is full, say.
    NotWritten {
        /// Why.
        cause: String,
    },
    /// An earlier start put it aside; it lies there until a person removes it.
    Aside,
}
