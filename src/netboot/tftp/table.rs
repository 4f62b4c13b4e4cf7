//! All transfers of a server: which packet belongs to which, and the bounds that keep one client from harming
//! others. Without I/O.
//!
//! - A client (address and port) has one transfer at a time. A new request from it ends the old one: after a
//!   power cycle a Pi asks from the ports it used before. A request that came twice, before it was answered, is
//!   one request.
//! - A transfer has one of a few sockets, the next in turn, and hears packets on that one alone. A new transfer
//!   of the same client gets another, so nothing that is still on the wire can be taken for its own (RFC 1350
//!   §4: a transfer is known by both ports).
//! - An address has so many transfers at a time; one more ends the one that has rested longest. So a Pi that
//!   was cut off is never in its own way, and one that floods is in nobody else's.
//! - All together are bounded. When all are taken, one that nobody has answered yet goes first (an invented
//!   sender never answers); are there none, the request is refused.
//! - An address asks so often; what is beyond gets no answer, and is told once a second.

use super::super::pace::{Paces, Taken};
use super::content::{BootFiles, Reader};
use super::event::{Abort, FileEvent, FileProgress, Refused};
use super::packet::{self, Packet, Request};
use super::path::BootPath;
use super::transfer::{Act, Blocks, Ending, Patience, Terms, Transfer};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::time::Instant;

/// What a server allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Transfers at a time, of all clients.
    pub transfers: usize,
    /// Transfers at a time of one address.
    pub per_address: usize,
    /// Requests of one address at once, and then each second. A Pi asks for some 40 files, and for many twice.
    pub requests: u32,
    /// The longest block, in bytes.
    pub max_block: u16,
    /// How long a client is waited for.
    pub patience: Patience,
}

/// The longest block that fits an Ethernet frame: 1500 bytes without 20 of IPv4, 8 of UDP and 4 of TFTP.
pub const FRAME_BLOCK: u16 = 1468;

impl Default for Limits {
    /// 256 transfers, 8 and 100 requests a second for each address, and blocks that fit an Ethernet frame.
    fn default() -> Self {
        let (max_block, patience) = (FRAME_BLOCK, Patience::default());
        Self { transfers: 256, per_address: 8, requests: 100, max_block, patience }
    }
}

/// What is to be sent, to whom, from which socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// To whom.
    pub peer: SocketAddr,
    /// The number of the socket.
    pub socket: usize,
    /// What.
    pub what: What,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// This packet.
    Packet(Vec<u8>),
    /// These blocks, whose bytes [`Table::blocks`] has.
    Data(Blocks),
}

/// One transfer and what it needs.
struct Entry {
    transfer: Transfer,
    reader: Reader,
    socket: usize,
    path: Arc<str>,
    asked: Vec<u8>,
    begun: Instant,
    /// When the client was last heard.
    heard: Instant,
    first_byte: bool,
}

/// All transfers.
pub struct Table {
    limits: Limits,
    sockets: usize,
    next_socket: usize,
    transfers: HashMap<SocketAddr, Entry>,
    paces: Paces<IpAddr>,
    events: VecDeque<FileEvent>,
}

impl Table {
    /// No transfer yet; they will be spread over `sockets` sockets.
    pub fn new(limits: Limits, sockets: usize) -> Self {
        Self {
            limits,
            sockets: sockets.max(1),
            next_socket: 0,
            transfers: HashMap::new(),
            paces: Paces::default(),
            events: VecDeque::new(),
        }
    }

    /// What happened since the last call, oldest first.
    pub fn events(&mut self) -> impl Iterator<Item = FileEvent> + '_ {
        self.events.drain(..)
    }

    /// How many transfers there are.
    pub fn len(&self) -> usize {
        self.transfers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.transfers.is_empty()
    }

    /// When [`Self::on_time`] is to be called; none when there is no transfer.
    pub fn deadline(&self) -> Option<Instant> {
        self.transfers.values().map(|entry| entry.transfer.deadline()).min()
    }

    /// When [`Self::on_time`] is to be called for the transfer of `peer`.
    pub fn deadline_of(&self, peer: SocketAddr) -> Option<Instant> {
        self.transfers.get(&peer).map(|entry| entry.transfer.deadline())
    }

    /// The bytes of blocks that [`What::Data`] named, and the size of one.
    pub fn blocks(&mut self, peer: SocketAddr, blocks: &Blocks) -> Option<std::io::Result<(&[u8], u16)>> {
        let entry = self.transfers.get_mut(&peer)?;
        let size = entry.transfer.terms().block_size;
        Some(entry.reader.slice(blocks.offset, blocks.bytes).map(|bytes| (bytes, size)))
    }

    /// Takes a packet in that came to the port where requests are made.
    pub fn on_request(
        &mut self,
        peer: SocketAddr,
        bytes: &[u8],
        files: &dyn BootFiles,
        now: Instant,
    ) -> Option<Output> {
        if peer.port() == 0 {
            return None;
        }
        match self.paces.take(peer.ip(), self.limits.requests, now) {
            Taken::Yes => {}
            Taken::No => return None,
            Taken::FirstNo => {
                self.note(now, peer, "".into(), FileProgress::Refused(Refused::TooFast));
                return None;
            }
        }
        let name = |bytes: &[u8]| packet::printable(bytes.get(2..).unwrap_or_default()).into();
        match packet::decode(bytes) {
            Ok(Packet::Read(request)) => self.read(peer, bytes, &request, files, now),
            Ok(Packet::Write) => self.refuse(now, peer, name(bytes), Refused::Write),
            Err(cause) if matches!(bytes, [0, 1 | 2, ..]) => {
                self.refuse(now, peer, name(bytes), Refused::Malformed(cause))
            }
            Err(cause) => {
                self.note(now, peer, "".into(), FileProgress::Refused(Refused::Malformed(cause)));
                None
            }
            // A stray one of a transfer that never was here. An answer could begin a quarrel.
            Ok(Packet::Ack(_) | Packet::Error { .. } | Packet::Other) => None,
        }
    }

    /// Takes a packet in that came to one of the sockets of transfers.
    pub fn on_packet(
        &mut self,
        peer: SocketAddr,
        socket: usize,
        bytes: &[u8],
        now: Instant,
    ) -> Option<Output> {
        let entry = self.transfers.get_mut(&peer).filter(|entry| entry.socket == socket)?;
        let act = match packet::decode(bytes) {
            Ok(Packet::Ack(block)) => entry.transfer.on_ack(block, now),
            Ok(Packet::Error { code, message }) => entry.transfer.on_error(code, message),
            Ok(Packet::Read(_) | Packet::Write | Packet::Other) | Err(_) => return None,
        };
        entry.heard = now;
        self.follow(peer, act, now)
    }

    /// Does what is due at `now`; what is to be sent.
    pub fn on_time(&mut self, now: Instant) -> Vec<Output> {
        let due = self.transfers.iter().filter(|(_, entry)| entry.transfer.deadline() <= now);
        let mut due: Vec<SocketAddr> = due.map(|(peer, _)| *peer).collect();
        due.sort_unstable();
        let mut outputs = Vec::new();
        for peer in due {
            let Some(entry) = self.transfers.get_mut(&peer) else { continue };
            let act = entry.transfer.on_time(now);
            outputs.extend(self.follow(peer, act, now));
        }
        outputs
    }

    /// Ends a transfer whose file cannot be read; what to tell the client.
    pub fn unreadable(&mut self, peer: SocketAddr, cause: &std::io::Error, now: Instant) -> Vec<u8> {
        self.end(peer, Abort::Unreadable(cause.to_string()), now);
        packet::error(packet::UNDEFINED, "The file cannot be read")
    }

    /// Ends all transfers.
    pub fn close(&mut self, now: Instant) {
        let mut peers: Vec<SocketAddr> = self.transfers.keys().copied().collect();
        peers.sort_unstable();
        for peer in peers {
            self.end(peer, Abort::Closed, now);
        }
    }

    fn read(
        &mut self,
        peer: SocketAddr,
        bytes: &[u8],
        request: &Request<'_>,
        files: &dyn BootFiles,
        now: Instant,
    ) -> Option<Output> {
        let mut old_socket = None;
        if let Some(old) = self.transfers.get(&peer) {
            let fresh = now < old.begun + self.limits.patience.first;
            if fresh && !old.transfer.is_answered() && old.asked == bytes {
                return None;
            }
            old_socket = Some(old.socket);
            self.end(peer, Abort::Replaced, now);
        }
        if !request.octet {
            return self.refuse(now, peer, packet::printable(request.name).into(), Refused::Mode);
        }
        let path = match BootPath::parse(request.name) {
            Ok(path) => path,
            Err(cause) => {
                return self.refuse(now, peer, packet::printable(request.name).into(), Refused::Path(cause));
            }
        };
        let name: Arc<str> = path.as_str().into();
        if !self.make_room(peer.ip(), now) {
            return self.refuse(now, peer, name, Refused::Full);
        }
        let content = match files.open(peer, &path) {
            Ok(content) => content,
            Err(cause) => return self.refuse(now, peer, name, Refused::File(cause)),
        };
        let length = content.length();
        let terms = Terms::agree(&request.asked, length, self.limits.max_block);
        let (block_size, window) = (terms.block_size, terms.window);
        self.note(now, peer, Arc::clone(&name), FileProgress::Requested { length, block_size, window });
        let (transfer, act) = Transfer::new(length, terms, self.limits.patience, now);
        let entry = Entry {
            transfer,
            reader: Reader::new(content),
            socket: self.turn(old_socket),
            path: name,
            asked: bytes.to_vec(),
            begun: now,
            heard: now,
            first_byte: false,
        };
        self.transfers.insert(peer, entry);
        self.follow(peer, act, now)
    }

    /// Does what a transfer wants: an output, or its end.
    fn follow(&mut self, peer: SocketAddr, act: Act, now: Instant) -> Option<Output> {
        let entry = self.transfers.get_mut(&peer)?;
        let socket = entry.socket;
        let what = match act {
            Act::Wait => return None,
            Act::Oack => What::Packet(entry.transfer.terms().oack.clone().unwrap_or_default()),
            Act::Data(blocks) => {
                if !entry.first_byte {
                    entry.first_byte = true;
                    let path = Arc::clone(&entry.path);
                    self.note(now, peer, path, FileProgress::FirstByte);
                }
                What::Data(blocks)
            }
            Act::End(Ending::Done { confirmed }) => {
                let entry = self.transfers.remove(&peer)?;
                let (bytes, took) = (entry.transfer.length(), now - entry.begun);
                self.note(now, peer, entry.path, FileProgress::Done { bytes, took, confirmed });
                return None;
            }
            Act::End(Ending::Aborted { code, message }) => {
                self.end(peer, Abort::Client { code, message }, now);
                return None;
            }
            Act::End(Ending::Stalled) => {
                self.end(peer, Abort::Stalled, now);
                return None;
            }
        };
        Some(Output { peer, socket, what })
    }

    fn end(&mut self, peer: SocketAddr, cause: Abort, now: Instant) {
        if let Some(entry) = self.transfers.remove(&peer) {
            let (bytes, took) = (entry.transfer.acknowledged(), now - entry.begun);
            self.note(now, peer, entry.path, FileProgress::Aborted { bytes, took, cause });
        }
    }

    fn refuse(&mut self, now: Instant, peer: SocketAddr, path: Arc<str>, why: Refused) -> Option<Output> {
        let (code, message) = match &why {
            Refused::File(_) | Refused::Path(_) => (packet::NOT_FOUND, "File not found"),
            Refused::Write => (packet::ACCESS_VIOLATION, "Nothing can be written here"),
            Refused::Mode => (packet::ILLEGAL, "Only octet mode is served"),
            Refused::Malformed(_) => (packet::ILLEGAL, "Malformed request"),
            Refused::Full | Refused::TooFast => (packet::UNDEFINED, "Too many transfers"),
        };
        self.note(now, peer, path, FileProgress::Refused(why));
        let socket = self.turn(None);
        Some(Output { peer, socket, what: What::Packet(packet::error(code, message)) })
    }

    fn note(&mut self, at: Instant, peer: SocketAddr, path: Arc<str>, what: FileProgress) {
        self.events.push_back(FileEvent { at, peer, path, what });
    }

    /// The next socket in turn that is not `not`.
    fn turn(&mut self, not: Option<usize>) -> usize {
        if not == Some(self.next_socket) {
            self.next_socket = (self.next_socket + 1) % self.sockets;
        }
        let socket = self.next_socket;
        self.next_socket = (self.next_socket + 1) % self.sockets;
        socket
    }

    /// Makes room for one more transfer of `address`; false when there is none.
    fn make_room(&mut self, address: IpAddr, now: Instant) -> bool {
        let own = self.transfers.iter().filter(|(peer, _)| peer.ip() == address);
        if own.clone().count() >= self.limits.per_address {
            let oldest = own.min_by_key(|(peer, entry)| (entry.heard, **peer)).map(|(peer, _)| *peer);
            if let Some(peer) = oldest {
                self.end(peer, Abort::Replaced, now);
            }
        }
        if self.transfers.len() < self.limits.transfers {
            return true;
        }
        let unanswered = self.transfers.iter().filter(|(_, entry)| !entry.transfer.is_answered());
        let Some(peer) = unanswered.min_by_key(|(peer, entry)| (entry.heard, **peer)).map(|(peer, _)| *peer)
        else {
            return false;
        };
        self.end(peer, Abort::Replaced, now);
        true
    }
}

#[cfg(test)]
mod tests;
