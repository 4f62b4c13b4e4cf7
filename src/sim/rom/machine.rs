//! The state machine itself: see the parent's drawing.

use super::config_txt::Config;
use super::dhcp::{self, Answer, Kind};
use super::files::{self, Missing, Role, Want};
use super::tftp::{Asks, Fetch, Progress};
use super::{Chip, Identity, Network, uart};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use tokio::time::Instant;

/// From power to the first word, and from there to the link. Shortened.
const START: Duration = Duration::from_millis(100);
const LINK: Duration = Duration::from_millis(400);
/// How long a 4 or 5 waits for an answer to DISCOVER (`DHCP_REQ_TIMEOUT`), and in all (`DHCP_TIMEOUT`).
const DHCP_REQUEST: Duration = Duration::from_secs(4);
const DHCP_IN_ALL: Duration = Duration::from_secs(45);
/// A 3B asks five times, five seconds apart, and is dead then until its power is cut.
const DHCP_THREE: (Duration, u32) = (Duration::from_secs(5), 5);
/// An offer that comes sooner is missed by a 3B's ROM: the server must wait (raspberrypi/firmware 859, 862, 934).
const TOO_SOON: Duration = Duration::from_millis(1000);
/// Within this a second server's answer is waited for (raspberrypi/rpi-eeprom 376).
const MERGE: Duration = Duration::from_millis(500);
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

/// Why the board begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Its power came.
    Power,
    /// A watchdog, or its own system, restarted it.
    Warm,
}

/// What is wrong with a board or its surroundings, as far as its loader is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RomFaults {
    /// The link never comes.
    pub no_link: bool,
    /// The link is up, and the switch passes nothing on for this long (spanning tree).
    pub deaf_for: Duration,
    /// Each so-manieth packet that is sent to it is lost; 0 for none.
    pub loses: u32,
    /// It hangs when it comes to this file: it asks for it, and answers no more.
    pub stalls_at: Option<String>,
    /// This file's bytes are not those that were sent.
    pub corrupts: Option<String>,
}

/// A file that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedFile {
    /// Its name below the prefix.
    pub name: String,
    /// What for.
    pub role: Role,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// All that was loaded, in that order, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The board's address.
    pub network: Network,
    /// Its files.
    pub files: Vec<LoadedFile>,
    /// Blocks that came twice without need: on a Pi 4 each may be its end.
    pub needless: u32,
}

impl Loaded {
    /// The file that is this.
    pub fn file(&self, role: Role) -> Option<&LoadedFile> {
        self.files.iter().rev().find(|file| file.role == role)
    }
}

/// Why a board does nothing any more until its power is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Halt {
    /// It has given up on the network.
    NoNetwork,
    /// What it loaded cannot be started.
    NotBootable(&'static str),
    /// It hangs, for that is its fault.
    Stalled(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Say this on the console.
    Say(String),
    /// Send this to the DHCP servers, from one's own address if there is one.
    Ask(Vec<u8>),
    /// Have this address from now on.
    Address(Network),
    /// Open this port for the file that is asked for now; that of the file before is closed.
    Open(u16),
    /// Send this from there; to the server's port for requests, where no other is given.
    Send(Vec<u8>, Ipv4Addr, Option<u16>),
    /// Start what was loaded.
    Start(Box<Loaded>),
    /// Nothing more.
    Halt(Halt),
}

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

/// A dialogue with DHCP servers.
#[derive(Debug)]
struct Asking {
    xid: u32,
    /// When the last packet was sent.
    sent: Instant,
    tries: u32,
    give_up: Instant,
    /// The offer that gives an address, and what told where the files are.
    offer: Option<Answer>,
    boot: Option<Answer>,
    /// When no second answer is waited for any more.
    settled: Option<Instant>,
    requested: bool,
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

    fn ask(&mut self, now: Instant) {
        self.xid = if self.board.chip == Chip::Three { self.xid } else { self.xid.wrapping_add(1) };
        let give_up = match self.board.chip {
            Chip::Three => now + DHCP_THREE.0 * DHCP_THREE.1,
            _ => now + DHCP_IN_ALL,
        };
        let xid = self.xid;
        let (offer, boot, settled) = (None, None, None);
        self.phase = Phase::Dhcp(Box::new(Asking {
            xid,
            sent: now,
            tries: 1,
            give_up,
            offer,
            boot,
            settled,
            requested: false,
        }));
        self.send_ask(dhcp::discover(&self.board, xid), now);
    }

    /// Sends it, unless the switch swallows it.
    fn send_ask(&mut self, packet: Vec<u8>, now: Instant) {
        if now >= self.hears_from {
            self.acts.push_back(Act::Ask(packet));
        }
    }

    fn dhcp_time(&mut self, now: Instant) {
        let Phase::Dhcp(asking) = &mut self.phase else { return };
        if asking.settled.is_some_and(|at| now >= at) && !asking.requested {
            self.settle(now);
            return;
        }
        if now >= asking.give_up {
            self.failed(now);
            return;
        }
        asking.tries += 1;
        asking.sent = now;
        (asking.offer, asking.boot, asking.settled, asking.requested) = (None, None, None, false);
        let packet = dhcp::discover(&self.board, asking.xid);
        self.send_ask(packet, now);
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

    /// A packet has come to the DHCP client's port.
    pub fn on_dhcp(&mut self, bytes: &[u8], now: Instant) {
        let Phase::Dhcp(asking) = &self.phase else { return };
        let Some(answer) = dhcp::read(&self.board, asking.xid, bytes) else { return };
        if self.loses(now) {
            return;
        }
        let Phase::Dhcp(asking) = &mut self.phase else { return };
        match answer.kind {
            Kind::Offer if !asking.requested => {
                if self.board.chip == Chip::Three && now < asking.sent + TOO_SOON {
                    return;
                }
                let server = answer.server;
                if answer.is_for_us {
                    asking.boot = Some(answer.clone());
                }
                if answer.address.is_some() && (asking.offer.is_none() || answer.is_for_us) {
                    asking.offer = Some(answer);
                }
                let whole = asking.boot.as_ref().is_some_and(|boot| boot.address.is_some());
                asking.settled = Some(if whole { now } else { now + MERGE });
                self.say(uart::heard(&self.board, server, "OFFER (2) expect OFFER"));
                if whole {
                    self.settle(now);
                }
            }
            Kind::Ack if asking.requested => {
                let (Some(offer), Some(boot)) = (asking.offer.take(), asking.boot.take()) else { return };
                self.say(uart::heard(&self.board, answer.server, "ACK (5) expect ACK"));
                self.lease(&Answer { address: answer.address.or(offer.address), ..offer }, &boot, now);
            }
            Kind::Nak => {
                self.say(uart::heard(&self.board, answer.server, "NACK (6) expect ACK"));
                self.failed(now);
            }
            _ => {}
        }
    }

    /// What has been offered by now is all there is.
    fn settle(&mut self, now: Instant) {
        let Phase::Dhcp(asking) = &mut self.phase else { return };
        let (Some(offer), Some(boot)) = (asking.offer.clone(), asking.boot.clone()) else {
            // Nobody knows where the files are, or nobody gives an address: heard, and not believed.
            asking.settled = None;
            return;
        };
        if self.board.chip == Chip::Three {
            self.lease(&offer, &boot, now);
            return;
        }
        asking.requested = true;
        asking.sent = now;
        let (xid, address) = (asking.xid, offer.address.unwrap_or(Ipv4Addr::UNSPECIFIED));
        self.send_ask(dhcp::request(&self.board, xid, offer.server, address), now);
    }

    fn lease(&mut self, offer: &Answer, boot: &Answer, now: Instant) {
        let (Some(address), Some(tftp)) = (offer.address, boot.tftp) else { return };
        let mask = offer.mask.unwrap_or(Ipv4Addr::new(255, 255, 255, 0));
        let network = Network { address, mask, router: offer.router, tftp };
        self.say(uart::address(&self.board, &network));
        self.acts.push_back(Act::Address(network));
        self.fetch_all(network, self.board.prefix(), now);
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

impl Asking {
    fn deadline(&self, chip: Chip) -> Instant {
        let again = if chip == Chip::Three { DHCP_THREE.0 } else { DHCP_REQUEST };
        let at = (self.sent + again).min(self.give_up);
        match self.settled {
            Some(settled) if !self.requested => at.min(settled),
            _ => at,
        }
    }
}

#[cfg(test)]
mod tests;
