//! Clean, bounded lines out of noisy bytes, byte by byte.
//!
//! Consoles are noisy: `\r\r\n`, NULs and `0xff` at power-on, escape sequences of a terminal, lines
//! without end.

/// The longest line kept, in bytes; the rest of it is dropped. A Pi's bootloader and a kernel keep
/// below 1024 (LOG_LINE_MAX of printk).
pub(super) const LINE_LIMIT: usize = 2048;
/// The longest escape sequence; a longer one is noise, and text again.
const ESCAPE_LIMIT: usize = 256;

/// Turns noisy bytes into clean lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// A carriage return was seen; whether it ends the line or restarts it, the next byte tells.
    returned: bool,
    escape: Escape,
    escaped: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Begun,
    /// In a control sequence, ECMA-48 §5.4: until a byte 0x40-0x7e.
    Control,
    /// In an operating system command or another string: until BEL, or ESC and a byte.
    String,
    /// After ESC in such a string.
    StringEnd,
}

/// What a byte did to the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing to look at.
    None,
    /// The line grew.
    Grew,
    /// The line is complete; [`Lines::take`] it before the next byte.
    Ended,
    /// The line was complete before this byte, which begins the next: take it, then push the byte
    /// again.
    EndedBefore,
}

impl Lines {
    /// Takes one byte.
    pub(super) fn push(&mut self, byte: u8) -> Change {
        match byte {
            b'\n' => {
                (self.returned, self.escape) = (false, Escape::None);
                return Change::Ended;
            }
            // Line noise, and padding of slow terminals.
            0x00 | 0xff => return Change::None,
            b'\r' => {
                (self.returned, self.escape) = (true, Escape::None);
                return Change::None;
            }
            _ => {}
        }
        if self.returned {
            self.returned = false;
            if !self.line.is_empty() {
                return Change::EndedBefore;
            }
        }
        if self.in_escape(byte) || (byte < 0x20 && byte != b'\t') || byte == 0x7f {
            return Change::None;
        }
        if self.line.len() == LINE_LIMIT {
            return Change::None;
        }
        self.line.push(byte);
        Change::Grew
    }

    /// Whether the byte belongs to an escape sequence.
    fn in_escape(&mut self, byte: u8) -> bool {
        if byte == 0x1b && self.escape != Escape::String {
            (self.escape, self.escaped) = (Escape::Begun, 0);
            return true;
        }
        if self.escape == Escape::None {
            return false;
        }
        self.escaped += 1;
        self.escape = match self.escape {
            _ if self.escaped > ESCAPE_LIMIT => Escape::None,
            Escape::Begun => match byte {
                b'[' => Escape::Control,
                b']' | b'P' | b'X' | b'^' | b'_' => Escape::String,
                // An intermediate byte, as in `ESC ( B`: one more follows.
                0x20..=0x2f => Escape::Begun,
                _ => Escape::None,
            },
            Escape::Control if (0x40..=0x7e).contains(&byte) => Escape::None,
            Escape::String if byte == 0x07 => Escape::None,
            Escape::String if byte == 0x1b => Escape::StringEnd,
            Escape::StringEnd => Escape::None,
            same => same,
        };
        true
    }

    /// The line so far.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    /// The line, and an empty one begins.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.line)
    }
}
