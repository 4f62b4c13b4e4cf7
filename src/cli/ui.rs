//! Where words go: data to standard output, everything else to standard error.

use super::args::Global;
use super::error::CliError;
use super::table::printable;
use crate::support::chain::Chain;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How to speak.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// Whether standard error may be coloured.
    pub colour: bool,
    /// Whether lines on standard error may be drawn over: a terminal, and no log lines between.
    pub moving: bool,
}

impl Ui {
    /// By the options, the environment and what standard error is.
    pub fn new(global: Global) -> Self {
        let terminal = io::stderr().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            colour: terminal && !global.no_color && !no_color && !dumb,
            moving: terminal && !global.no_color && !dumb && global.verbose == 0,
        }
    }

    /// Writes data. That its reader has left is no error: it has all it wanted.
    pub fn data(self, text: &str) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output { source }),
            _ => Ok(()),
        }
    }

    /// Writes data as one line of JSON.
    pub fn json(self, value: &impl Serialize) -> Result<(), CliError> {
        let line = serde_json::to_string(value).map_err(|error| CliError::Output { source: error.into() })?;
        self.data(&format!("{line}\n"))
    }

    /// Writes a line to standard error. Nobody can be told that it failed.
    pub fn note(self, line: &str) {
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Says what went wrong, why, and what to try.
    pub fn error(self, error: &CliError) {
        self.note(&format!("{} {}", self.paint("error:", RED), printable(&Chain(error).to_string())));
        if let Some(hint) = error.hint() {
            self.hint(hint);
        }
    }

    /// Says what to try.
    pub fn hint(self, hint: &str) {
        self.note(&format!("{} {}", self.paint("hint:", CYAN), printable(hint)));
    }

    fn paint(self, word: &str, colour: &str) -> String {
        if self.colour { format!("\x1b[1;{colour}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

/// Foreground colours of ECMA-48 SGR.
const RED: &str = "31";
const CYAN: &str = "36";
