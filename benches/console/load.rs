//! What is on the lines: text lines of 115 bytes, each with the time at which its end was written.

use pilab::sim::PtyLine;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// 115200 baud with 8 bits, a start and a stop bit are 11520 bytes a second.
const PIECE: usize = 115;
const EVERY: Duration = Duration::from_millis(10);
/// In how many parts a line of text comes, the last with its end.
const PARTS: u32 = 10;
const END: usize = 25;

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

/// How a line's bytes come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grain {
    /// Each line of text at once, as a USB adapter gives what it has gathered.
    Whole,
    /// A few bytes each millisecond, as from the FIFO of a host's own UART.
    Fine,
}

pub(crate) struct Load {
    grain: Grain,
    lines: Vec<PtyLine>,
    written: Vec<u64>,
}

impl Load {
    /// Plugs a line in under each of the names.
    pub(crate) fn plug(names: Vec<PathBuf>, grain: Grain) -> Self {
        let written = vec![0; names.len()];
        Self { grain, lines: names.iter().map(|name| PtyLine::plug(name).unwrap()).collect(), written }
    }

    /// Writes for so long. What is typed on a line, if anything, is thrown away.
    pub(crate) async fn run(&mut self, time: Duration) {
        let parts = if self.grain == Grain::Fine { PARTS } else { 1 };
        let (until, mut ticks) = (Instant::now() + time, interval(EVERY / parts));
        // A tick that came late is made up for: a UART does not wait.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while Instant::now() < until {
            for part in 1..=parts {
                ticks.tick().await;
                for (line, written) in self.lines.iter_mut().zip(&mut self.written) {
                    let text = if part < parts {
                        vec![b'.'; (PIECE - END) / (PARTS as usize - 1)]
                    } else {
                        let mut text = format!("at {} ", now()).into_bytes();
                        text.resize(if parts == 1 { PIECE } else { END } - 2, b'.');
                        text.extend_from_slice(b"\r\n");
                        text
                    };
                    line.write_all(&text).await.unwrap();
                    *written += text.len() as u64;
                    if part == parts {
                        let mut typed = [0; 64];
                        let reading = tokio::time::timeout(Duration::ZERO, line.read(&mut typed));
                        drop(reading.await);
                    }
                }
            }
        }
    }

    /// How many bytes were written to each line.
    pub(crate) fn written(&self) -> &[u64] {
        &self.written
    }
}
