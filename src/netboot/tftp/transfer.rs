//! One transfer: the state of one file on its way to one client. Without I/O and without the file's bytes: it
//! says which blocks are to be sent.
//!
//! ```text
//!   request with options we know          request without
//!            │ send OACK                       │ send DATA 1
//!            ▼                                 │
//!      ┌───────────┐  ACK 0: send the first    │
//!      │  Offered  │──────────── window ───┐   │
//!      └───────────┘                       ▼   ▼
//!        │ time: send again          ┌──────────────┐  ACK in the window: send the next
//!        │ (so often, then Stalled)  │   Sending    │◄─────────────┐
//!        │                           │ acked..sent  │──────────────┘
//!        │                           └──────────────┘  time: send what is not acknowledged again
//!        │                             │     │    │    (so often, then Stalled)
//!        │ ERROR                 ERROR │     │    │    any other ACK: nothing at all
//!        ▼                             ▼     │    ▼ ACK of the last block
//!      Aborted                    Aborted    │   Done
//!                                            ▼
//!                             Done, unconfirmed: all was sent, and the client knows the transfer no more
//! ```
//!
//! **No needless DATA.** An ACK that came twice sends nothing: only time does (RFC 1123 §4.2.3.1, the
//! Sorcerer's Apprentice). A Pi 4 hangs on a block it did not expect. With windows (RFC 7440, which no Pi asks
//! for) an ACK of what was acknowledged before means that the window's first block is lost, and one such ACK
//! sends the window again, once.
//!
//! **Waiting** doubles with each try that stays without an answer (RFC 1123 §4.2.3.2) and has an end.
//!
//! Blocks count from 1 without end; on the wire are the low 16 bits, so that 0 follows 65535. That is what
//! Pis do from EEPROM 2025-09-23 on; older ones stop there (91.7 MiB at 1468 bytes a block).

use super::packet::{self, Asked, UNKNOWN_TRANSFER};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a block that nobody asked to be another size (RFC 1350).
const DEFAULT_BLOCK: u16 = 512;
/// The most bytes of a window, with heads: one send with segmentation offload takes 64 KiB at most.
const MAX_WINDOW_BYTES: u16 = 60_000;
/// The most blocks of a window: the kernel's `UDP_MAX_SEGMENTS` (linux/udp.h).
const MAX_WINDOW: u16 = 64;

/// How long a client is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until the first repetition, when the client has not asked for another time.
    pub first: Duration,
    /// The longest pause between two repetitions; a longer one that the client asked for stands.
    pub longest: Duration,
    /// Repetitions without an answer, then the transfer has stalled.
    pub repetitions: u32,
}

impl Default for Patience {
    /// 1, 2, 4, 8, 8 and 8 seconds: 31 s in all, a little more than a Pi gives one file
    /// (`TFTP_FILE_TIMEOUT`, 30 s).
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(8), repetitions: 5 }
    }
}

/// What server and client have agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of a block.
    pub block_size: u16,
    /// Blocks between two acknowledgements.
    pub window: u16,
    /// Until a packet is sent again, when the client asked for it.
    pub timeout: Option<Duration>,
    /// The packet that says so; none for a client without options that we know.
    pub oack: Option<Vec<u8>>,
}

impl Terms {
    /// Answers what a client asked, for a file of `length` bytes. No block is longer than `max_block`, so
    /// that nothing is fragmented.
    pub fn agree(asked: &Asked, length: u64, max_block: u16) -> Self {
        let block_size = asked.block_size.map_or(DEFAULT_BLOCK, |size| size.min(max_block.max(8)));
        let fits = (MAX_WINDOW_BYTES / block_size.saturating_add(4)).clamp(1, MAX_WINDOW);
        let window = asked.window.map_or(1, |blocks| blocks.min(fits));
        let mut options = Vec::new();
        if asked.length {
            options.push(("tsize", length));
        }
        if asked.block_size.is_some() {
            options.push(("blksize", u64::from(block_size)));
        }
        if let Some(seconds) = asked.timeout {
            options.push(("timeout", u64::from(seconds)));
        }
        if asked.window.is_some() {
            options.push(("windowsize", u64::from(window)));
        }
        Self {
            block_size,
            window,
            timeout: asked.timeout.map(|seconds| Duration::from_secs(seconds.into())),
            oack: (!options.is_empty()).then(|| packet::oack(&options)),
        }
    }
}

/// What a transfer wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Wait,
    /// The OACK is to be sent.
    Oack,
    /// Blocks are to be sent, in order.
    Data(Blocks),
    /// It is over.
    End(Ending),
}

/// Some blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// The number of the first, from 1.
    pub first: u64,
    /// How many; at most the window.
    pub count: u16,
    /// The offset of their first byte in the file.
    pub offset: u64,
    /// How many bytes they are together; the last may be shorter than the others, or empty.
    pub bytes: usize,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The client has the file.
    Done {
        /// Whether it said so; otherwise all was sent, and it knew the transfer no more when it was asked.
        confirmed: bool,
    },
    /// The client ended it. Pis do that as a habit, to learn whether a file is there.
    Aborted {
        /// RFC 1350's code.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The client does not answer.
    Stalled,
}

/// One transfer.
#[derive(Debug)]
pub struct Transfer {
    length: u64,
    terms: Terms,
    patience: Patience,
    /// The last block that there is.
    last: u64,
    /// The last block that was acknowledged, and the last that was sent; both 0 before the first.
    acked: u64,
    sent: u64,
    /// The window has been sent again for an ACK, or began with such a one.
    resent: bool,
    repetitions: u32,
    pause: Duration,
    deadline: Instant,
}

impl Transfer {
    /// Begins a transfer of `length` bytes, and says what to send first.
    pub fn new(length: u64, terms: Terms, patience: Patience, now: Instant) -> (Self, Act) {
        let pause = terms.timeout.unwrap_or(patience.first);
        let mut transfer = Self {
            length,
            patience,
            last: length / u64::from(terms.block_size) + 1,
            acked: 0,
            sent: 0,
            resent: false,
            repetitions: 0,
            pause,
            deadline: now + pause,
            terms,
        };
        let act = if transfer.terms.oack.is_some() { Act::Oack } else { transfer.next_window(now) };
        (transfer, act)
    }

    /// What was agreed on.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether the client has answered anything yet.
    pub fn is_answered(&self) -> bool {
        self.acked > 0 || (self.terms.oack.is_some() && self.sent > 0)
    }

    /// The length of the file, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that the client is known to have.
    pub fn acknowledged(&self) -> u64 {
        (self.acked * u64::from(self.terms.block_size)).min(self.length)
    }

    /// When [`Self::on_time`] is to be called. It changes with each call.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes an ACK in.
    pub fn on_ack(&mut self, block: u16, now: Instant) -> Act {
        if self.sent == 0 {
            return if block == 0 { self.next_window(now) } else { Act::Wait };
        }
        let ahead = u64::from(block.wrapping_sub(packet::wire_block(self.acked)));
        if ahead == 0 {
            if self.terms.window == 1 || self.resent {
                return Act::Wait;
            }
            self.resent = true;
            return self.unacknowledged();
        }
        if ahead > self.sent - self.acked {
            return Act::Wait;
        }
        self.acked += ahead;
        if self.acked == self.last {
            return Act::End(Ending::Done { confirmed: true });
        }
        let lost = self.acked < self.sent;
        let act = self.next_window(now);
        self.resent = lost;
        act
    }

    /// Takes an ERROR in.
    pub fn on_error(&mut self, code: u16, message: String) -> Act {
        if code == UNKNOWN_TRANSFER && self.sent == self.last {
            return Act::End(Ending::Done { confirmed: false });
        }
        Act::End(Ending::Aborted { code, message })
    }

    /// Does what is due at `now`.
    pub fn on_time(&mut self, now: Instant) -> Act {
        if now < self.deadline {
            return Act::Wait;
        }
        if self.repetitions >= self.patience.repetitions {
            return Act::End(Ending::Stalled);
        }
        self.repetitions += 1;
        self.pause = (self.pause * 2).min(self.patience.longest.max(self.pause));
        self.deadline = now + self.pause;
        self.resent = true;
        if self.sent == 0 { Act::Oack } else { self.unacknowledged() }
    }

    fn next_window(&mut self, now: Instant) -> Act {
        self.sent = (self.acked + u64::from(self.terms.window)).min(self.last);
        self.resent = false;
        self.repetitions = 0;
        self.pause = self.terms.timeout.unwrap_or(self.patience.first);
        self.deadline = now + self.pause;
        self.unacknowledged()
    }

    fn unacknowledged(&self) -> Act {
        let offset = self.acked * u64::from(self.terms.block_size);
        // At most a window, which has at most 64 blocks and 60,000 bytes.
        let count = u16::try_from(self.sent - self.acked).unwrap_or(u16::MAX);
        let most = usize::from(count) * usize::from(self.terms.block_size);
        let left = usize::try_from(self.length - offset).unwrap_or(usize::MAX);
        Act::Data(Blocks { first: self.acked + 1, count, offset, bytes: most.min(left) })
    }
}

#[cfg(test)]
mod tests;
