//! The frames of `GET /containers/<id>/logs` and of what a command in a container writes.
//!
//! Each frame begins with a byte for the stream, three zeros and its length, big-endian. What does not fit
//! that form is taken as it is (a container with a terminal has no frames).

use std::collections::VecDeque;

/// Takes frames apart, in pieces cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: Vec<u8>,
    stream: u8,
    left: usize,
    plain: bool,
}

impl Frames {
    /// Hands on what is in a piece: the stream (1 or 2), bytes, and whether they end their frame.
    pub(super) fn push(&mut self, mut piece: &[u8], mut take: impl FnMut(u8, &[u8], bool)) {
        while !piece.is_empty() {
            if self.plain {
                return take(1, piece, true);
            }
            if self.left > 0 {
                let (inside, rest) = piece.split_at(self.left.min(piece.len()));
                self.left -= inside.len();
                take(self.stream, inside, self.left == 0);
                piece = rest;
                continue;
            }
            let (more, rest) = piece.split_at((8 - self.header.len()).min(piece.len()));
            self.header.extend_from_slice(more);
            piece = rest;
            match self.header.as_slice() {
                [stream @ 0..=2, 0, 0, 0, a, b, c, d] => {
                    self.stream = *stream;
                    self.left = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
                    self.header.clear();
                }
                [0..=2] | [0..=2, 0] | [0..=2, 0, 0] | [0..=2, 0, 0, 0, ..] => {}
                _ => {
                    self.plain = true;
                    take(1, &std::mem::take(&mut self.header), false);
                }
            }
        }
    }
}

/// The last bytes of a text of any length.
#[derive(Debug)]
pub(super) struct Tail {
    kept: VecDeque<u8>,
    most: usize,
}

impl Tail {
    /// Keeps at most `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { kept: VecDeque::new(), most }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let bytes = bytes.get(bytes.len().saturating_sub(self.most)..).unwrap_or_default();
        let over = (self.kept.len() + bytes.len()).saturating_sub(self.most);
        self.kept.drain(..over);
        self.kept.extend(bytes);
    }

    /// The text, at most `lines` lines of it. A character that was cut is left out; bytes that are no text
    /// become U+FFFD as long as there is room for them.
    pub(super) fn text(self, lines: usize) -> String {
        let bytes: Vec<u8> = self.kept.into();
        let begin = bytes.iter().take(3).take_while(|byte| (0x80..0xC0).contains(*byte)).count();
        let begin = if bytes.len() == self.most { begin } else { 0 };
        let text = String::from_utf8_lossy(bytes.get(begin..).unwrap_or_default()).into_owned();
        let mut from = text.len().saturating_sub(self.most);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        let text = text.get(from..).unwrap_or_default();
        let ends = text.trim_end_matches('\n').rmatch_indices('\n').nth(lines.saturating_sub(1));
        text.get(ends.map_or(0, |(at, _)| at + 1)..).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(pieces: &[&[u8]], most: usize, lines: usize) -> String {
        let (mut frames, mut tail) = (Frames::default(), Tail::new(most));
        for piece in pieces {
            frames.push(piece, |_, bytes, _| tail.push(bytes));
        }
        tail.text(lines)
    }

    #[test]
    fn frames_are_joined_however_they_are_cut() {
        let frames = b"\x01\0\0\0\0\0\0\x03ab\n\x02\0\0\0\0\0\0\x02c\n";
        for at in 0..frames.len() {
            let (first, second) = frames.split_at(at);
            assert_eq!(text(&[first, second], 100, 9), "ab\nc\n", "{at}");
        }
        assert_eq!(text(&[b"pl", b"ain"], 100, 9), "plain");
    }

    #[test]
    fn a_tail_is_the_last_lines_cut_between_characters() {
        assert_eq!(text(&[b"a\nb\nc\n"], 100, 2), "b\nc\n");
        assert_eq!(text(&[b"a\nb\nc"], 100, 1), "c");
        assert_eq!(text(&["ä€x".as_bytes()], 3, 9), "x");
        assert_eq!(text(&["ä€x".as_bytes()], 4, 9), "€x");
    }

    proptest! {
        #[test]
        fn any_log_is_text_within_bounds(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            framed in proptest::collection::vec(0..4u8, 0..64),
        ) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).chain([framed.as_slice()]).collect();
            let text = text(&pieces, 16, 3);
            prop_assert!(text.len() <= 16 && text.lines().count() <= 3, "{text:?}");
        }
    }
}
