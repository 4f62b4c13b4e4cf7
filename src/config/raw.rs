//! Reading a file into raw types, with the place of what is wrong.

use super::error::ConfigError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest file that is read: a hand-written TOML of this size is a mistake.
const LIMIT: u64 = 1024 * 1024;

/// What a path has where a value keeps its place (`toml::Spanned`), and nobody wrote.
const SPANNED: &str = ".$__serde_spanned_private_value";

/// A file's text, to find lines in.
pub(super) struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let error = |source| ConfigError::Read { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(error)?.len();
        if size > LIMIT {
            return Err(ConfigError::TooLarge { path: path.to_owned(), size, limit: LIMIT });
        }
        Ok(Self { path: path.to_owned(), text: std::fs::read_to_string(path).map_err(error)? })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The same file with another text, line by line the same.
    pub(super) fn with_text(&self, text: String) -> Self {
        Self { path: self.path.clone(), text }
    }

    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let wrong = |error: &toml::de::Error, key: Option<String>| {
            let (line, column) = self.position(error.span().unwrap_or_default().start);
            let message = in_toml_s_words(error.message());
            ConfigError::Syntax { path: self.path.clone(), line, column, key, message }
        };
        let file = toml::Deserializer::parse(&self.text).map_err(|error| wrong(&error, None))?;
        serde_path_to_error::deserialize(file).map_err(|error| {
            let (key, error) = (error.path().to_string().replace(SPANNED, ""), error.inner());
            // Of what should not be there, the message names the key; the path of the whole file is a dot.
            let told = error.message().starts_with("unknown field") || key == ".";
            wrong(error, (!told).then_some(key))
        })
    }

    /// An error about the value of `key`, which stands at `span`.
    pub(super) fn value(
        &self,
        span: &Range<usize>,
        key: impl Into<String>,
        cause: impl Into<String>,
    ) -> ConfigError {
        let line = self.line(span);
        ConfigError::Value { path: self.path.clone(), line, key: key.into(), cause: cause.into() }
    }

    /// The line, from 1, in which a value begins.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.position(span.start).0
    }

    /// The directory that paths in the file start from.
    pub(super) fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at.min(self.text.len())).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
        (line, column)
    }
}

/// A message of serde's without the names of types that only our source has.
fn in_toml_s_words(message: &str) -> String {
    let Some((wrong, name)) = message.rsplit_once("expected struct ") else { return message.to_owned() };
    let rest = name.split_once(' ').map(|(_, rest)| format!(" {rest}")).unwrap_or_default();
    format!("{wrong}expected a table{rest}")
}

/// A length of time as people write it: `90s`, `2m`, `500ms`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawDuration(pub(super) Duration);

impl<'de> Deserialize<'de> for RawDuration {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map(Self).map_err(|error| {
            serde::de::Error::custom(format!(
                "{text:?} is not a length of time such as \"90s\" or \"2m\": {error}"
            ))
        })
    }
}
