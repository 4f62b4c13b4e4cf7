//! What is typed: bytes for the device, and the commands that begin with `~` on a new line, as those of ssh(1).

use std::io::Read;
use tokio::sync::mpsc;

/// How many pieces of input may wait for the device.
const WAITING: usize = 16;
/// What is read at once, in bytes.
const PIECE: usize = 1024;

/// Something that was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Press {
    /// For the device.
    Bytes(Vec<u8>),
    /// `~.`
    Leave,
    /// `~p`
    Cycle,
    /// `~b`
    Break,
}

/// The keyboard.
pub(super) struct Keys {
    pieces: Option<mpsc::Receiver<Vec<u8>>>,
    parser: Parser,
    ready: std::collections::VecDeque<Press>,
}

impl Keys {
    /// Reads standard input, in a thread: a read cannot be cancelled, and must not keep the command from ending.
    pub(super) fn listen() -> Self {
        let (sender, pieces) = mpsc::channel(WAITING);
        std::thread::spawn(move || {
            let mut piece = vec![0; PIECE];
            while let Ok(read) = std::io::stdin().read(&mut piece) {
                let bytes = piece.get(..read).unwrap_or_default().to_vec();
                if read == 0 || sender.blocking_send(bytes).is_err() {
                    return;
                }
            }
        });
        Self { pieces: Some(pieces), parser: Parser::default(), ready: std::collections::VecDeque::new() }
    }

    /// Nothing is ever typed.
    pub(super) fn none() -> Self {
        Self { pieces: None, parser: Parser::default(), ready: std::collections::VecDeque::new() }
    }

    /// The next press. Dropping this future loses none.
    pub(super) async fn next(&mut self) -> Press {
        loop {
            if let Some(press) = self.ready.pop_front() {
                return press;
            }
            match &mut self.pieces {
                Some(pieces) => match pieces.recv().await {
                    Some(bytes) => self.ready.extend(self.parser.parse(&bytes)),
                    // Whoever closes standard input has nothing more to write, and may go on reading.
                    None => self.pieces = None,
                },
                None => std::future::pending().await,
            }
        }
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    NewLine,
    Tilde,
    Line,
}

/// Finds the commands. They may come in several pieces.
#[derive(Debug, Default)]
struct Parser {
    at: At,
}

impl Parser {
    fn parse(&mut self, bytes: &[u8]) -> Vec<Press> {
        let (mut presses, mut plain) = (Vec::new(), Vec::new());
        for &byte in bytes {
            match (self.at, byte) {
                (At::NewLine, b'~') => {
                    self.at = At::Tilde;
                    continue;
                }
                (At::Tilde, b'.' | b'p' | b'b') => {
                    self.at = At::NewLine;
                    if !plain.is_empty() {
                        presses.push(Press::Bytes(std::mem::take(&mut plain)));
                    }
                    presses.push(match byte {
                        b'.' => Press::Leave,
                        b'p' => Press::Cycle,
                        _ => Press::Break,
                    });
                    continue;
                }
                (At::Tilde, b'~') => {}
                (At::Tilde, _) => plain.push(b'~'),
                _ => {}
            }
            plain.push(byte);
            self.at = if matches!(byte, b'\r' | b'\n') { At::NewLine } else { At::Line };
        }
        if !plain.is_empty() {
            presses.push(Press::Bytes(plain));
        }
        presses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Press {
        Press::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn commands_are_found_on_new_lines_alone() {
        let table: [(&[&str], Vec<Press>); 8] = [
            (&["ls\r"], vec![bytes("ls\r")]),
            (&["~."], vec![Press::Leave]),
            (&["a~.\r~p"], vec![bytes("a~.\r"), Press::Cycle]),
            (&["~", "."], vec![Press::Leave]),
            (&["~bh"], vec![Press::Break, bytes("h")]),
            (&["~~x"], vec![bytes("~x")]),
            (&["~x"], vec![bytes("~x")]),
            (&["\r", "~", "~", "."], vec![bytes("\r"), bytes("~"), bytes(".")]),
        ];
        for (pieces, expected) in table {
            let mut parser = Parser::default();
            let presses: Vec<_> = pieces.iter().flat_map(|piece| parser.parse(piece.as_bytes())).collect();
            assert_eq!(presses, expected, "{pieces:?}");
        }
    }
}
