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
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
        /// What is wrong, naming the key.
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
