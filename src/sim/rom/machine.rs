//! The state machine itself: see the parent's drawing.

use super::act::{Act, Halt, Loaded, LoadedFile, Reset, RomFaults};
use super::config_txt::Config;
use super::dhcp;
use super::files::{self, Missing, Role, Want};
use super::tftp::{Asks, Fetch, Progress};
use super::{Chip, Identity, Network, uart};
use lease::Asking;
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;
use tokio::time::Instant;

/// From power to the first word, and from there to the link. Shortened.
const START: Duration = Duration::from_millis(100);
const LINK: Duration = Duration::from_millis(400);
/// How long one file may take: `TFTP_FILE_TIMEOUT` as the documents would have it set for a lab.
const FILE: Duration = Duration::from_secs(120);
/// The pause after a file that did not come, and how often all is tried again (`NET_BOOT_MAX_RETRIES`).
const PAUSE: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// The first source port of files.
const PORTS_THREE: u16 = 49_152;
const PORTS_LATER: u16 = 40_134;

/// What a device tree begins with (Devicetree Specification 0.4 §5.2).
const TREE: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];

#[derive(Debug)]
enum Phase {
    Start(Instant),
    /// Until the link is up; none when it never is.
    Link(Option<Instant>),
    Dhcp(Box<Asking>),
    Files(Box<Fetching>),
    /// All over at this time.
    Pause(Instant),
    Over,
}

/// Files being fetched.
#[derive(Debug)]
struct Fetching {
    network: Network,
    prefix: String,
    wants: VecDeque<Want>,
    current: Option<(Want, Fetch)>,
    files: Vec<LoadedFile>,
    config: Option<Vec<u8>>,
    /// Whether the firmware, or a 5's settings, have been reached.
    second: bool,
    needless: u32,
}

/// A board's boot loader.
#[derive(Debug)]
pub struct Rom {
    board: Identity,
    faults: RomFaults,
    cause: Reset,
    phase: Phase,
    acts: VecDeque<Act>,
    /// When the switch begins to pass packets on.
    hears_from: Instant,
    heard: u32,
    round: u32,
    port: u16,
    xid: u32,
}

impl Rom {
    /// Power has come, or the board was reset.
    pub fn new(board: Identity, faults: RomFaults, cause: Reset, now: Instant) -> Self {
        let port = if board.chip == Chip::Three { PORTS_THREE } else { PORTS_LATER };
        let xid = if board.chip == Chip::Three { dhcp::XID_THREE } else { board.any_serial() ^ 0x5244_0000 };
        let (acts, phase) = (VecDeque::new(), Phase::Start(now + START));
        Self { board, faults, cause, phase, acts, hears_from: now, heard: 0, round: 0, port, xid }
    }

    /// What is to be done since the last call, in order.
    pub fn acts(&mut self) -> impl Iterator<Item = Act> + '_ {
        self.acts.drain(..)
    }

    /// When [`Self::on_time`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Start(at) | Phase::Pause(at) => Some(*at),
            Phase::Link(at) => *at,
            Phase::Dhcp(asking) => Some(asking.deadline(self.board.chip)),
            Phase::Files(fetching) => fetching.current.as_ref().map(|(_, fetch)| fetch.deadline()),
            Phase::Over => None,
        }
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Instant) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        match &mut self.phase {
            Phase::Start(_) => {
                let cause = if self.cause == Reset::Power { 0x1000 } else { 0x20 };
                self.say(uart::start(&self.board, cause));
                self.begin_round(now);
            }
            Phase::Pause(_) => self.begin_round(now),
            Phase::Link(_) => {
                self.say(uart::link(&self.board));
                self.hears_from = now + self.faults.deaf_for;
                self.ask(now);
            }
            Phase::Dhcp(_) => self.dhcp_time(now),
            Phase::Files(fetching) => {
                let Some((_, fetch)) = &mut fetching.current else { return };
                let (packet, progress) = fetch.on_time(now);
                self.transfer(packet, progress, now);
            }
            Phase::Over => {}
        }
    }

    fn begin_round(&mut self, now: Instant) {
        self.say(uart::network(&self.board));
        self.phase = Phase::Link((!self.faults.no_link).then_some(now + LINK));
    }

    /// The network did not do what it should: again, or dead.
    fn failed(&mut self, now: Instant) {
        if self.board.chip == Chip::Three {
            self.halt(Halt::NoNetwork);
            return;
        }
        self.round += 1;
        if self.round > RETRIES {
            self.say(uart::fatal(&self.board, "Failed to boot from network"));
            self.halt(Halt::NoNetwork);
            return;
        }
        self.say(uart::again(&self.board, self.round, RETRIES));
        self.phase = Phase::Pause(now + PAUSE);
    }

    fn halt(&mut self, why: Halt) {
        self.phase = Phase::Over;
        self.acts.push_back(Act::Halt(why));
    }

    /// Whether the network loses this packet.
    fn loses(&mut self, now: Instant) -> bool {
        self.heard = self.heard.wrapping_add(1);
        let lost = self.faults.loses > 0 && self.heard.is_multiple_of(self.faults.loses);
        lost || now < self.hears_from
    }

    fn fetch_all(&mut self, network: Network, prefix: String, now: Instant) {
        let wants = files::first(self.board.chip).into();
        self.phase = Phase::Files(Box::new(Fetching {
            network,
            prefix,
            wants,
            current: None,
            files: Vec::new(),
            config: None,
            second: false,
            needless: 0,
        }));
        self.next_file(now);
    }

    fn next_file(&mut self, now: Instant) {
        let Phase::Files(fetching) = &mut self.phase else { return };
        let Some(want) = fetching.wants.pop_front() else {
            self.all_there(now);
            return;
        };
        let path = if want.at_root { want.name.clone() } else { format!("{}{}", fetching.prefix, want.name) };
        let server = fetching.network.tftp;
        let (fetch, packet) = Fetch::begin(server, &path, want.probe, want.asks, FILE, now);
        fetching.current = Some((want, fetch));
        self.say(uart::ask(&self.board, server, &path));
        self.acts.push_back(Act::Open(self.port));
        self.port = self.port.checked_add(1).unwrap_or(PORTS_LATER);
        self.acts.push_back(Act::Send(packet, server, None));
    }

    /// A packet has come to the port of the current file.
    pub fn on_tftp(&mut self, from: SocketAddrV4, bytes: &[u8], now: Instant) {
        if self.loses(now) {
            return;
        }
        let Phase::Files(fetching) = &mut self.phase else { return };
        let Some((want, fetch)) = &mut fetching.current else { return };
        if self.faults.stalls_at.as_ref() == Some(&want.name) && !bytes.starts_with(&[0, 5]) {
            // The server's first answer is the last that it hears.
            let name = want.name.clone();
            self.halt(Halt::Stalled(name));
            return;
        }
        let (packet, progress) = fetch.on_packet(from, bytes, now);
        self.transfer(packet, progress, now);
    }

    fn transfer(&mut self, packet: Option<Vec<u8>>, progress: Progress, now: Instant) {
        let Phase::Files(fetching) = &mut self.phase else { return };
        let Some((_, fetch)) = &fetching.current else { return };
        if let Some(packet) = packet {
            self.acts.push_back(Act::Send(
                packet,
                fetching.network.tftp,
                fetch.peer().map(|peer| peer.port()),
            ));
        }
        if progress == Progress::Going {
            return;
        }
        let Some((want, fetch)) = fetching.current.take() else { return };
        fetching.needless += fetch.needless();
        match progress {
            Progress::Going | Progress::Exists => {}
            Progress::Have(mut bytes) => {
                self.acts.push_back(Act::Say(uart::have(&self.board, &want.name, bytes.len())));
                if self.faults.corrupts.as_ref() == Some(&want.name) {
                    // Now and then a bit, as a bad cable past its checksum, or bad memory, would have it.
                    bytes.iter_mut().step_by(1021).for_each(|byte| *byte ^= 0x10);
                }
                // Without agreed options the firmware of a 4 takes no settings (raspberrypi/firmware 1012).
                let ignored = want.role == Role::Config && want.asks != Asks::Plainly && !fetch.agreed();
                if want.role == Role::Config && !ignored {
                    fetching.config = Some(bytes.clone());
                }
                fetching.files.push(LoadedFile { name: want.name, role: want.role, bytes });
            }
            Progress::Refused(words) => {
                self.acts.push_back(Act::Say(uart::refused(&self.board, &words)));
                if !self.without(want) {
                    return;
                }
            }
            Progress::TimedOut | Progress::Broken(_) => {
                self.failed(now);
                return;
            }
        }
        self.next_file(now);
    }

    /// A file is not there: whether it goes on.
    fn without(&mut self, want: Want) -> bool {
        let Phase::Files(fetching) = &mut self.phase else { return false };
        match want.missing {
            Missing::Fine => true,
            Missing::TryRoot(_) if !fetching.prefix.is_empty() => {
                // Once more from the beginning, without a prefix: whatever lies at the root would be booted.
                fetching.prefix.clear();
                fetching.files.clear();
                fetching.wants = files::first(self.board.chip).into();
                true
            }
            Missing::TryRoot(words) | Missing::Fatal(words) => {
                self.say(uart::fatal(&self.board, words));
                self.halt(Halt::NotBootable(words));
                false
            }
        }
    }

    /// All of one half has come.
    fn all_there(&mut self, now: Instant) {
        let chip = self.board.chip;
        let Phase::Files(fetching) = &mut self.phase else { return };
        let config = Config::read(chip, fetching.config.as_deref().unwrap_or_default());
        if !fetching.second {
            fetching.second = true;
            fetching.wants = files::second(chip, &config).into();
            self.say(uart::firmware(&self.board, config.firmware_speaks));
            self.next_file(now);
            return;
        }
        let loaded = Loaded {
            network: fetching.network,
            files: std::mem::take(&mut fetching.files),
            needless: fetching.needless,
        };
        // A device tree that is none stops a board as one that is not there.
        if loaded.file(Role::DeviceTree).is_some_and(|tree| !tree.bytes.starts_with(&TREE)) {
            self.say(uart::fatal(&self.board, files::NO_KERNEL));
            self.halt(Halt::NotBootable(files::NO_KERNEL));
            return;
        }
        let kernel = loaded.file(Role::Kernel);
        let (name, length) = kernel.map_or(("", 0), |kernel| (kernel.name.as_str(), kernel.bytes.len()));
        let words = uart::handover(&self.board, config.firmware_speaks, name, length);
        self.say(words);
        self.phase = Phase::Over;
        self.acts.push_back(Act::Start(Box::new(loaded)));
    }

    fn say(&mut self, words: impl Into<String>) {
        let words = words.into();
        if !words.is_empty() {
            self.acts.push_back(Act::Say(words));
        }
    }
}

mod lease;
#[cfg(test)]
mod tests;
