//! The terminal of whoever sits at a console: raw while it lasts, and never made to type by what a device prints.

use crate::cli::error::CliError;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io;

/// Standard input as it comes, key by key (termios(3), `cfmakeraw`), until this is dropped.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    pub(super) fn enter() -> Result<Self, CliError> {
        let failed =
            |e: rustix::io::Errno| CliError::local("read keys from the terminal", io::Error::from(e));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.before) {
            tracing::warn!(%error, "the terminal stays raw: stty sane puts it right");
        }
    }
}

/// The longest control sequence that is passed on, in bytes.
const MAX_SEQUENCE: usize = 64;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Escape,
    /// A control sequence (ECMA-48 §5.4).
    Sequence,
    /// A control string (ECMA-48 §5.6): window titles, colours, device control. Dropped whole.
    String,
    StringEscape,
}

/// Takes out what a terminal would answer as if it were typed: status and attribute reports, the answerback, queries
/// in control strings. Their answers would go to the device as input.
#[derive(Debug, Default)]
pub(super) struct Harmless {
    state: State,
    sequence: Vec<u8>,
}

impl Harmless {
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut passed = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.step(byte, &mut passed);
        }
        passed
    }

    fn step(&mut self, byte: u8, passed: &mut Vec<u8>) {
        self.state = match (self.state, byte) {
            (State::Text, 0x1b) => State::Escape,
            // ENQ: the answerback.
            (State::Text, 0x05) => State::Text,
            (State::Text, _) => {
                passed.push(byte);
                State::Text
            }
            (State::Escape, b'[') => {
                self.sequence.clear();
                State::Sequence
            }
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
            // DECID, and an escape that begins anew.
            (State::Escape, b'Z') => State::Text,
            (State::Escape, 0x1b) => State::Escape,
            (State::Escape, _) => {
                passed.extend([0x1b, byte]);
                State::Text
            }
            (State::Sequence, 0x40..=0x7e) => {
                if !asks(&self.sequence, byte) {
                    passed.extend([0x1b, b'[']);
                    passed.append(&mut self.sequence);
                    passed.push(byte);
                }
                State::Text
            }
            (State::Sequence, 0x20..=0x3f) if self.sequence.len() < MAX_SEQUENCE => {
                self.sequence.push(byte);
                State::Sequence
            }
            // No sequence at all: what is no part of one is text again.
            (State::Sequence, _) => {
                self.state = State::Text;
                return self.step(byte, passed);
            }
            (State::String, 0x07) => State::Text,
            (State::String, 0x1b) => State::StringEscape,
            // A board that is powered off leaves a string without its end: no line is longer than one.
            (State::String, b'\n') => State::Text,
            (State::String, _) => State::String,
            (State::StringEscape, b'\\') => State::Text,
            (State::StringEscape, _) => {
                self.state = State::Escape;
                return self.step(byte, passed);
            }
        };
    }
}

/// Whether a control sequence makes a terminal answer: DSR, DA, DECREQTPARM, window reports, DECRQM, the keyboard
/// protocol's query (xterm's ctlseqs, VT510 manual).
fn asks(parameters: &[u8], last: u8) -> bool {
    match last {
        b'n' | b'c' | b'x' | b't' | b'q' => true,
        b'p' => parameters.contains(&b'$'),
        b'u' => parameters.starts_with(b"?"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_would_answer_is_taken_out() {
        let table: [(&[u8], &[u8]); 9] = [
            (b"a\x1b[6nb", b"ab"),
            (b"\x1b[c\x1b[>0c\x1bZ\x05x", b"x"),
            (b"\x1b[1;31mred\x1b[0m", b"\x1b[1;31mred\x1b[0m"),
            (b"\x1b]0;title\x07x\x1bP$qm\x1b\\y", b"xy"),
            (b"\x1b[?2026$p\x1b[2J", b"\x1b[2J"),
            (b"\x1b]11;?\nnext", b"next"),
            (b"\x1b[12\nx", b"\nx"),
            (b"\xff\xff\x00ok", b"\xff\xff\x00ok"),
            (b"\x1b\x1b[6n.", b"."),
        ];
        for (bytes, expected) in table {
            assert_eq!(Harmless::default().pass(bytes), expected, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_bytes_are_chunked(
            bytes in prop::collection::vec(prop_oneof![Just(0x1b_u8), Just(b'['), Just(b'n'), any::<u8>()], 0..60),
            cut in 0_usize..60,
        ) {
            let whole = Harmless::default().pass(&bytes);
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut filter = Harmless::default();
            let mut parts = filter.pass(first);
            parts.extend(filter.pass(second));
            prop_assert_eq!(whole, parts);
        }
    }
}
