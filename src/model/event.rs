//! Every fact a device's journal holds beside console bytes. One enum; each change of it must stay
//! readable by older and newer readers, so variants are added, never renamed.

use super::boot::{BootAttempt, BootStage};
use super::lease::FencingToken;
use super::netboot::NetbootFact;
use super::power::{PowerReading, PowerState};
use serde::{Deserialize, Serialize};

/// Something that happened to a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Power is about to be switched; fsynced before the switch is touched.
    PowerIntent {
        /// Wanted.
        state: PowerState,
        /// Under which lease.
        token: FencingToken,
    },
    /// Somebody who does not hold the device is about to switch it.
    Forced {
        /// Who.
        by: String,
        /// Why, in their words.
        reason: String,
    },
    /// Power was switched.
    PowerDone {
        /// Wanted.
        state: PowerState,
        /// Read back.
        reading: PowerReading,
    },
    /// Power could not be switched.
    PowerFailed {
        /// Wanted.
        state: PowerState,
        /// Why.
        cause: String,
    },
    /// Power was about to be switched when the coordinator ended, and the switch cannot be read back: nobody
    /// knows whether it was.
    PowerUnsettled {
        /// Wanted.
        state: PowerState,
    },
    /// A boot attempt begins; what follows belongs to it.
    BootOffered {
        /// The attempt.
        attempt: BootAttempt,
        /// The image's manifest hash.
        image: String,
    },
    /// The console showed a boot stage.
    Stage {
        /// The stage.
        stage: BootStage,
        /// The line that showed it, cut to 200 characters.
        line: String,
        /// The absolute console offset at which it was recognised.
        offset: u64,
        /// In which boot of the attempt, from 1: more than one when the device began anew by itself.
        #[serde(default = "first", skip_serializing_if = "is_first")]
        boot: u32,
    },
    /// The device exchanged its boot ticket.
    TicketRedeemed {
        /// From where.
        address: String,
    },
    /// The device was started from saved memory, and told over its channel who it is; no ticket was needed.
    Woken {
        /// Where it says it is.
        address: String,
        /// The memory was saved for this start: later ones take no boot.
        saved: bool,
    },
    /// The device could start from saved memory, and boots instead.
    ColdStart {
        /// Why.
        cause: String,
    },
    /// A ticket was refused: used before, wrong address, expired or unknown.
    TicketRefused {
        /// From where.
        address: String,
        /// Why.
        cause: String,
    },
    /// The lab's netboot servers saw something of it.
    Netboot {
        /// What.
        #[serde(flatten)]
        fact: NetbootFact,
    },
    /// A boot stands still before its kernel.
    BootStalled {
        /// Where.
        at: String,
        /// What to try.
        hint: String,
        /// The device is cut off and booted anew.
        again: bool,
    },
    /// A boot that somebody asked for is waited for no longer.
    BootGivenUp {
        /// Why.
        cause: String,
    },
    /// The console's line is open.
    ConsoleOpened {},
    /// The console's line is gone; bytes may be missing from here to the next `ConsoleOpened`.
    ConsoleGap {
        /// Why.
        cause: String,
        /// The absolute console offset of the hole.
        offset: u64,
    },
    /// Somebody wrote to the console.
    ConsoleWritten {
        /// Under which lease.
        token: FencingToken,
        /// How many bytes.
        bytes: u64,
    },
    /// Somebody sent a BREAK on the console's line.
    ConsoleBreak {
        /// Under which lease.
        token: FencingToken,
    },
    /// A key was let in by SSH, for the holder.
    KeyAdmitted {
        /// Who.
        by: String,
        /// Under which lease.
        token: FencingToken,
    },
    /// Somebody was connected to a port of the device.
    TunnelOpened {
        /// Who.
        by: String,
        /// Under which lease.
        token: FencingToken,
        /// Which port.
        port: u16,
    },
    /// The agent answered for the first time in this attempt.
    AgentAnswered {
        /// Its version.
        version: String,
        /// SHA-256 of its executable, hex.
        sha256: String,
    },
    /// From here on nothing passes between the device and NATS: a scenario wants it so.
    NetworkCut {},
    /// The device and NATS reach each other again.
    NetworkRestored {},
    /// A run used the device.
    RunStarted {
        /// The run.
        run: String,
    },
    /// The run has done what it did with the device: what it is judged by lies before this.
    RunOver {
        /// The run.
        run: String,
    },
    /// The run was judged.
    RunEnded {
        /// The run.
        run: String,
        /// The verdict's name.
        verdict: String,
    },
    /// The lab has made it boot to see how it is.
    Checked {
        /// The check.
        check: String,
        /// What it came to: a verdict's name.
        verdict: String,
        /// Why; empty when it passed.
        cause: String,
    },
    /// Nobody has had it for so long, and it is on: the lab is about to switch it off.
    Idle {
        /// For how many seconds.
        seconds: u64,
    },
    /// The console showed another device, which has just booted: serial cables are crossed.
    CablesCrossed {
        /// The other device.
        shows: String,
    },
}

/// The first of several; what a writer means that names none.
pub(super) fn first() -> u32 {
    1
}

/// Whether it need not be named.
pub(super) fn is_first(number: &u32) -> bool {
    *number == 1
}
