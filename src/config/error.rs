//! What can be wrong with a file a person wrote.

use std::path::PathBuf;

/// A lab or scenario file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds a secret, and others than its owner may read it.
    #[error("{}: others than its owner may read it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than any honest file of its kind.
    #[error("{}: {size} bytes; at most {limit} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// It is not TOML, has an unknown key, or a value of the wrong type.
    #[error("{}:{line}:{column}: {}{message}", path.display(), key.iter().map(|key| format!("{key}: ")).collect::<String>())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
        /// The key whose value is wrong, for example `steps[2].ping`. None where the message names it, or there is none.
        key: Option<String>,
        /// What is wrong.
        message: String,
    },
    /// A value has the right type and makes no sense.
    #[error("{}:{line}: {key}: {cause}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key, for example `steps[2].deploy.on`.
        key: String,
        /// What is wrong with it.
        cause: String,
    },
    /// No file of that name.
    #[error("there is no scenario {name:?}: looked for {}", looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" and "))]
    NoSuchScenario {
        /// The name as given.
        name: String,
        /// The paths tried.
        looked: Vec<PathBuf>,
    },
}

impl ConfigError {
    /// Where the mistake stands, from 1, when it has a place.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Syntax { line, .. } | Self::Value { line, .. } => Some(*line),
            _ => None,
        }
    }

    /// The key that is wrong, when it is one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Value { key, .. } | Self::Syntax { key: Some(key), .. } => Some(key),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read { .. } => Some("give the path of a file that you may read"),
            Self::Exposed { .. } => Some("chmod 600 the file"),
            Self::TooLarge { .. } => Some("it is no file of pilab, or should be several"),
            Self::NoSuchScenario { .. } => {
                Some("give the name of a file in lab/scenarios without .toml, or a path to a file")
            }
            Self::Syntax { message, .. } if message.starts_with("unknown field") => {
                Some("correct the word to one of those, or leave it out")
            }
            Self::Syntax { message, .. } if message.starts_with("missing field") => Some("add it"),
            Self::Syntax { .. } => {
                Some("pilab's files are TOML (toml.io); docs/scenarios.md lists what may stand in them")
            }
            Self::Value { key, .. } => Some(fix(key)),
        }
    }
}

/// What to do about a value, by its key.
fn fix(key: &str) -> &'static str {
    match key.rsplit('.').next().unwrap_or(key) {
        "timeout" | "boot_timeout" => "give a time from 1 ms to 12 h, such as \"30s\"",
        "hold" => "give the step more time, or hold for less",
        "on" => "name one of the [needs], or add it there",
        "pattern" | "matches" | "message" | "init_containers" => {
            "write a regular expression; characters such as ( [ . + are meant as themselves with a \\ before them"
        }
        "signal" => "write its name in capitals without SIG",
        "start" | "window" | "deadline" => {
            "write a time of day such as \"22:30\" (UTC), and lengths such as \"8h\""
        }
        _ => {
            "docs/scenarios.md, docs/nightly.md and the comments in lab/laptop.toml say what may stand there"
        }
    }
}
