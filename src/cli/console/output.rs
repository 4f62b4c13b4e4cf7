//! What is shown of a console: its bytes, holes named where they are, and when each line came if that is wanted.

use super::terminal::Harmless;
use crate::cli::error::CliError;
use crate::cli::table::printable;
use crate::wire::console::{ChunkKind, ConsoleChunk};
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

/// Standard output.
pub(super) struct Output {
    harmless: Option<Harmless>,
    timestamps: bool,
    new_line: bool,
}

impl Output {
    /// `harmless` takes out what a terminal would answer.
    pub(super) fn new(harmless: bool, timestamps: bool) -> Self {
        Self { harmless: harmless.then(Harmless::default), timestamps, new_line: true }
    }

    /// Shows a chunk. That the reader has left is no error.
    pub(super) fn show(&mut self, chunk: &ConsoleChunk) -> Result<(), CliError> {
        let text = self.render(chunk);
        let mut out = io::stdout().lock();
        match out.write_all(&text).and_then(|()| out.flush()) {
            Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output { source }),
            Err(_) => Err(CliError::Cancelled),
            Ok(()) => Ok(()),
        }
    }

    fn render(&mut self, chunk: &ConsoleChunk) -> Vec<u8> {
        let bytes = match &chunk.what {
            ChunkKind::Bytes(bytes) => bytes,
            ChunkKind::Gap(cause) => {
                let line = format!("\r\n[bytes may be missing here: {}]\r\n", printable(cause));
                self.new_line = true;
                return line.into_bytes();
            }
        };
        let bytes = match &mut self.harmless {
            Some(harmless) => harmless.pass(bytes),
            None => bytes.clone(),
        };
        if !self.timestamps {
            return bytes;
        }
        let at = UNIX_EPOCH + Duration::from_millis(chunk.at.wall_ms);
        let stamp = format!("{} ", humantime::format_rfc3339_millis(at));
        let mut text = Vec::new();
        for byte in bytes {
            if std::mem::replace(&mut self.new_line, byte == b'\n') {
                text.extend(stamp.as_bytes());
            }
            text.push(byte);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::boot::BootAttempt;
    use crate::model::time::Stamp;

    #[test]
    fn each_line_has_its_time_and_each_hole_its_cause() {
        let chunk = |what| {
            let at = Stamp { boot_ns: 0, wall_ms: 1_000 };
            ConsoleChunk { version: 1, attempt: BootAttempt(1), offset: 0, at, what }
        };
        let mut output = Output::new(true, true);
        let mut shown = |what| String::from_utf8(output.render(&chunk(what))).unwrap();
        assert_eq!(
            shown(ChunkKind::Bytes(b"a\x1b[6nb\nc".to_vec())),
            "1970-01-01T00:00:01.000Z ab\n1970-01-01T00:00:01.000Z c"
        );
        assert_eq!(shown(ChunkKind::Bytes(b"d\n".to_vec())), "d\n");
        assert_eq!(
            shown(ChunkKind::Gap("un\u{1b}plugged".to_owned())),
            "\r\n[bytes may be missing here: un\u{fffd}plugged]\r\n"
        );
    }
}
