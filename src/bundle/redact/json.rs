//! JSON as it reads, beside JSON as it is written: a pattern has to see the text, not its escapes (in `\\n10.0.0.1` no
//! address begins at the 1), and what is changed has to leave the escapes whole. No parser: what is no JSON comes through
//! as well as it can.

use std::ops::Range;

/// What stands at a place of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// No part of a string: braces, numbers, the quotes themselves.
    Structure,
    /// A character of a string.
    Plain,
    /// One that is escaped by a letter, such as `\\n`.
    Escape,
    /// One that is escaped by its number, in pairs beyond U+FFFF.
    Number,
}

/// The most bytes of a character.
type Char = [u8; 4];

/// What a line says, and which bytes of that are in its strings: these may be hidden.
pub(super) fn read(line: &[u8]) -> (Vec<u8>, Vec<bool>) {
    let (mut text, mut open) = (Vec::with_capacity(line.len()), Vec::with_capacity(line.len()));
    let mut signs = Signs::default();
    while let Some((sign, _, char, length)) = signs.next(line) {
        text.extend(char.iter().take(length));
        open.resize(text.len(), sign != Sign::Structure);
    }
    (text, open)
}

/// Hides what is marked of [`read`]'s text. Control characters, quotes and backslashes stay, as they do anywhere.
pub(super) fn hide(line: &mut [u8], marked: &[bool]) {
    let (mut signs, mut at) = (Signs::default(), 0);
    while let Some((sign, range, char, length)) = signs.next(line) {
        let hidden = marked.get(at..at + length).is_some_and(|marks| marks.contains(&true));
        at += length;
        let Some(written) = line.get_mut(range).filter(|_| hidden) else { continue };
        match sign {
            Sign::Plain => written.fill(b'x'),
            Sign::Number if !char[0].is_ascii_control() => {
                written.chunks_exact_mut(6).for_each(|escape| escape.copy_from_slice(b"\\u0078"));
            }
            Sign::Structure | Sign::Escape | Sign::Number => {}
        }
    }
}

/// Goes through a line.
#[derive(Default)]
struct Signs {
    at: usize,
    in_string: bool,
}

impl Signs {
    /// The next sign, where it is written, and the character that it reads as, with its length.
    fn next(&mut self, line: &[u8]) -> Option<(Sign, Range<usize>, Char, usize)> {
        let rest = line.get(self.at..)?;
        let first = *rest.first()?;
        let (sign, written, char, length) = match (self.in_string, first) {
            (_, b'"') => {
                self.in_string = !self.in_string;
                (Sign::Structure, 1, [first, 0, 0, 0], 1)
            }
            (false, _) => (Sign::Structure, 1, [first, 0, 0, 0], 1),
            (true, b'\\') => escaped(rest),
            (true, _) => plain(rest),
        };
        let range = self.at..self.at + written;
        self.at = range.end;
        Some((sign, range, char, length))
    }
}

/// A character with what belongs to it: half of one is no text any more.
fn plain(rest: &[u8]) -> (Sign, usize, Char, usize) {
    let more = rest.iter().skip(1).take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
    let mut char = Char::default();
    char.iter_mut().zip(rest.iter().take(1 + more)).for_each(|(to, from)| *to = *from);
    (Sign::Plain, 1 + more, char, 1 + more)
}

fn escaped(rest: &[u8]) -> (Sign, usize, Char, usize) {
    let letter = match rest.get(1) {
        Some(b'u') => {
            if let Some((char, written)) = number(rest) {
                let mut bytes = Char::default();
                let length = char.encode_utf8(&mut bytes).len();
                return (Sign::Number, written, bytes, length);
            }
            b'u'
        }
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'b') => 8,
        Some(b'f') => 12,
        Some(other) => *other,
        // A line that is cut short.
        None => return (Sign::Escape, 1, [b'\\', 0, 0, 0], 1),
    };
    (Sign::Escape, 2, [letter, 0, 0, 0], 1)
}

/// The character of `\\uXXXX`, and how long that is; none when it is none.
fn number(rest: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let escape = rest.get(at..at + 6)?;
        let digits = escape.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let first = unit(0)?;
    let pair = [first, unit(6).unwrap_or_default()];
    let char = char::decode_utf16(pair).next()?.unwrap_or(char::REPLACEMENT_CHARACTER);
    Some((char, 6 * char.len_utf16()))
}
