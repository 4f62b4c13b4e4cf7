//! What is on the lines: whole text lines of 115 bytes, each with the time at which it was written.

use pilab::sim::PtyLine;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// 115200 baud with 8 bits, a start and a stop bit are 11520 bytes a second.
const PIECE: usize = 115;
const EVERY: Duration = Duration::from_millis(10);

/// Nanoseconds of a clock that all processes of this machine share.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// When a line of text was written; none for what is not such a line.
pub(crate) fn written_at(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    text.split_once("at ")?.1.split(' ').next()?.parse().ok()
}

pub(crate) struct Load {
    lines: Vec<PtyLine>,
    written: Vec<u64>,
}

impl Load {
    /// Plugs a line in under each of the names.
    pub(crate) fn plug(names: Vec<PathBuf>) -> Self {
        let written = vec![0; names.len()];
        Self { lines: names.iter().map(|name| PtyLine::plug(name).unwrap()).collect(), written }
    }

    /// Writes for so long. What is typed on a line, if anything, is thrown away.
    pub(crate) async fn run(&mut self, time: Duration) {
        let (until, mut ticks) = (Instant::now() + time, interval(EVERY));
        // A tick that came late is made up for: a UART does not wait.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while Instant::now() < until {
            ticks.tick().await;
            for (line, written) in self.lines.iter_mut().zip(&mut self.written) {
                let mut text = format!("at {} ", now()).into_bytes();
                text.resize(PIECE - 2, b'.');
                text.extend_from_slice(b"\r\n");
                line.write_all(&text).await.unwrap();
                *written += PIECE as u64;
                let mut typed = [0; 64];
                let reading = tokio::time::timeout(Duration::ZERO, line.read(&mut typed));
                drop(reading.await);
            }
        }
    }

    /// How many bytes were written to each line.
    pub(crate) fn written(&self) -> &[u64] {
        &self.written
    }
}
