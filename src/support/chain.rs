//! Prints an error with its sources on one line, each once.

use std::error::Error;
use std::fmt;

/// Shows an error and all its sources, joined by `: `. Errors here never repeat their source in their
/// own text, so nothing is said twice.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
