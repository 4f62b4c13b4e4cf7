//! What a DHCP server answers. Without I/O: packets and the time in; packets, when to send them, and events out.
//!
//! **Who is who.** A device is known by its MAC address, as the lab file has it, and has one fixed address. Transaction ids
//! tell nothing (all Pi 3 use the same), and neither do the options of a REQUEST (EEPROMs of early 2020 leave out
//! that they boot), so what is known of a device is kept by its MAC address. A serial number that does not fit is
//! a contradiction. Whoever is not known gets silence.
//!
//! **How often.** A device's packets have a budget, whoever sends them: what is beyond is not answered and not told, so a flood
//! in a device's name fills neither its journal nor the wire, and costs the others nothing.
//!
//! **Full or beside.** In full mode we lend addresses. Beside an existing server we lend none, and tell boot ROMs
//! only where their files are; they merge both answers.
//!
//! **Others.** Another server on the wire is seen by its own answers, where they are broadcast, and by requests that
//! name it. It is named in an event, and nothing else: what names it can be invented.

use super::super::board::{Board, Generation};
use super::super::mac::Mac;
use super::super::pace::{Paces, Taken};
use super::event::{DhcpEvent, DhcpNews};
use super::seldom::Seldom;
use super::wire::{self, Lease, Packet, Reply, Told, UefiAsks};
use crate::model::device::Model;
use crate::model::id::DeviceId;
use dhcproto::v4::MessageType;
use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use tokio::time::Instant;

/// Packets of one device at once, and then each second. A boot ROM sends two, and again after seconds.
const PACKETS: u32 = 20;

/// Whether addresses are lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// We lend them; nobody else should.
    Full {
        /// The network's mask.
        mask: Ipv4Addr,
        /// The way out, if there is one.
        router: Option<Ipv4Addr>,
        /// Who resolves names.
        name_servers: Vec<Ipv4Addr>,
        /// For how long an address is lent.
        time: Duration,
    },
    /// Another server does. When its address is not given, the first that is seen is it.
    Beside {
        /// Its address.
        server: Option<Ipv4Addr>,
    },
}

/// A device as the wiring has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Which.
    pub device: DeviceId,
    /// Its network card.
    pub mac: Mac,
    /// What it is.
    pub board: Board,
    /// The low 32 bits of its serial number, where they are known.
    pub serial: Option<u32>,
    /// Its address; not used beside another server.
    pub address: Ipv4Addr,
}

/// A packet to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to: the relay, the device, or all.
    pub to: Destination,
    /// The packet.
    pub bytes: Vec<u8>,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To all on the wire, at the client's port: a client without an address hears nothing else. RFC 2131 §4.1
    /// would rather have it sent to the card alone, which needs an entry in the kernel's table of neighbours.
    All,
    /// To a client that has an address.
    Client(Ipv4Addr),
    /// To a relay, at the server's port.
    Relay(Ipv4Addr),
}

/// What is remembered of a device.
struct Known {
    client: Client,
    /// Its last DISCOVER came from a boot ROM. So it is believed until one comes that did not.
    boots: bool,
    /// An answer that waits for its time.
    waiting: Option<(Instant, Outgoing, DhcpNews)>,
}

/// The responder.
pub struct Responder {
    server: Ipv4Addr,
    /// Where boot files are over HTTP, a slash at the end.
    http: Option<String>,
    mode: Mode,
    known: HashMap<Mac, Known>,
    paces: Paces<Mac>,
    floods: Seldom<Mac>,
    strangers: Seldom<Mac>,
    servers: Seldom<Ipv4Addr>,
    malformed: Seldom<()>,
    events: VecDeque<DhcpEvent>,
}

impl Responder {
    /// Its address: answers must come from there.
    pub fn server(&self) -> Ipv4Addr {
        self.server
    }

    /// A responder at the address `server`, where TFTP must be served too: the 3B's boot ROM asks nobody else.
    pub fn new(server: Ipv4Addr, mode: Mode, clients: impl IntoIterator<Item = Client>) -> Self {
        let known =
            clients.into_iter().map(|client| (client.mac, Known { client, boots: true, waiting: None }));
        Self {
            server,
            http: None,
            mode,
            known: known.collect(),
            paces: Paces::default(),
            floods: Seldom::default(),
            strangers: Seldom::default(),
            servers: Seldom::default(),
            malformed: Seldom::default(),
            events: VecDeque::new(),
        }
    }

    /// Boot files are there over HTTP too, below this URL, which ends with a slash.
    #[must_use]
    pub fn with_http(self, base: String) -> Self {
        Self { http: Some(base), ..self }
    }

    /// What happened since the last call, oldest first.
    pub fn events(&mut self) -> impl Iterator<Item = DhcpEvent> + '_ {
        self.events.drain(..)
    }

    /// When [`Self::due`] has something to send.
    pub fn deadline(&self) -> Option<Instant> {
        self.known.values().filter_map(|known| known.waiting.as_ref().map(|(at, ..)| *at)).min()
    }

    /// What is to be sent by `now`, oldest first.
    pub fn due(&mut self, now: Instant) -> Vec<Outgoing> {
        let ready = |known: &mut Known| known.waiting.take_if(|(at, ..)| *at <= now);
        let mut ready: Vec<_> =
            self.known.iter_mut().filter_map(|(mac, known)| Some((*mac, ready(known)?))).collect();
        ready.sort_by_key(|(mac, (at, ..))| (*at, *mac));
        let mut packets = Vec::new();
        for (_, (_, packet, news)) in ready {
            self.events.push_back(DhcpEvent { at: now, what: news });
            packets.push(packet);
        }
        packets
    }

    /// Takes a packet in. Whoever sent it is not asked: on this protocol anybody can write any address.
    pub fn on_packet(&mut self, bytes: &[u8], now: Instant) {
        let packet = match wire::decode(bytes) {
            Ok(packet) => packet,
            Err(cause) => {
                if self.malformed.is_due((), now) {
                    self.note(now, DhcpNews::Malformed(cause));
                }
                return;
            }
        };
        if packet.is_reply {
            let gave = Some(packet.your_address).filter(|address| !address.is_unspecified());
            self.see_server(packet.server, packet.mac, gave, now);
            return;
        }
        let Some(known) = self.known.get(&packet.mac) else {
            self.meet_stranger(&packet, now);
            return;
        };
        let identity = packet.identity();
        if let (Some(wired), Some(sent)) = (known.client.serial, identity.serial)
            && !identity.may_be(wired)
        {
            let device = known.client.device.clone();
            if self.strangers.is_due(packet.mac, now) {
                self.note(now, DhcpNews::Contradiction { device, known: wired, sent });
            }
            return;
        }
        match packet.kind {
            MessageType::Discover => self.discover(&packet, now),
            MessageType::Request => self.request(&packet, now),
            MessageType::Decline if self.admits(packet.mac, now) => {
                let Some(known) = self.known.get(&packet.mac) else { return };
                let (device, address) = (known.client.device.clone(), packet.requested);
                self.note(now, DhcpNews::Declined { device, address });
            }
            _ => {}
        }
    }

    /// Whether one more packet in this device's name is in its budget.
    fn admits(&mut self, mac: Mac, now: Instant) -> bool {
        let taken = self.paces.take(mac, PACKETS, now);
        if taken == Taken::FirstNo
            && self.floods.is_due(mac, now)
            && let Some(known) = self.known.get(&mac)
        {
            let device = known.client.device.clone();
            self.note(now, DhcpNews::Flooded { device });
        }
        taken == Taken::Yes
    }

    fn discover(&mut self, packet: &Packet, now: Instant) {
        if !self.admits(packet.mac, now) {
            return;
        }
        let boots = packet.is_boot();
        let Some(known) = self.known.get_mut(&packet.mac) else { return };
        known.boots = boots;
        let is_uefi = known.client.board.generation() == Generation::Uefi;
        let (device, address) = (known.client.device.clone(), known.client.address);
        self.note(now, DhcpNews::Discovered { device: device.clone(), boots });
        let address = match self.mode {
            Mode::Full { .. } => Some(address),
            // To the firmware of another machine there is nothing to tell.
            Mode::Beside { .. } if boots && (packet.uefi().is_some() || !is_uefi) => None,
            Mode::Beside { .. } => return,
        };
        self.answer(packet, MessageType::Offer, DhcpNews::Offered { device, address }, now);
    }

    fn request(&mut self, packet: &Packet, now: Instant) {
        let Some(known) = self.known.get_mut(&packet.mac) else { return };
        // It may say so here as well; that it does not say so means nothing.
        known.boots |= packet.is_boot();
        let (device, address) = (known.client.device.clone(), known.client.address);
        if let Some(server) = packet.server.filter(|server| *server != self.server) {
            self.see_server(Some(server), packet.mac, packet.requested, now);
            return;
        }
        if let Mode::Beside { .. } = self.mode {
            return;
        }
        if !self.admits(packet.mac, now) {
            return;
        }
        let has = Some(packet.client_address).filter(|address| !address.is_unspecified());
        let asked = packet.requested.or(has);
        if asked == Some(address) {
            self.answer(packet, MessageType::Ack, DhcpNews::Acknowledged { device, address }, now);
        } else {
            self.answer(packet, MessageType::Nak, DhcpNews::Denied { device, asked }, now);
        }
    }

    /// Puts an answer where it waits for its time. What waited there is out of date, but its time stands: who asks
    /// again and again is answered all the same.
    fn answer(&mut self, packet: &Packet, kind: MessageType, news: DhcpNews, now: Instant) {
        let Some(known) = self.known.get_mut(&packet.mac) else { return };
        let quirks = known.client.board.quirks();
        let lease = match &self.mode {
            Mode::Full { mask, router, name_servers, time } if kind != MessageType::Nak => Some(Lease {
                address: known.client.address,
                time: *time,
                mask: *mask,
                router: *router,
                name_servers: name_servers.clone(),
            }),
            _ => None,
        };
        let boots = known.boots && kind != MessageType::Nak;
        let name = format!("{}/{}", known.client.mac.hyphenated(), Model::UefiArm64.kernel_file());
        let url = self.http.as_ref().map(|base| format!("{base}{name}"));
        let boot = match (known.client.board.generation(), packet.uefi()) {
            (Generation::Uefi, Some(UefiAsks::Tftp)) => Some(Told::File(&name)),
            (Generation::Uefi, Some(UefiAsks::Http)) => url.as_deref().map(Told::Url),
            // A system, or the firmware of another machine.
            (Generation::Uefi, None) => None,
            (Generation::Three | Generation::Four | Generation::Five, _) => Some(Told::Menu(quirks.menu)),
        };
        let reply = Reply {
            kind,
            to: packet,
            server: self.server,
            lease: lease.as_ref(),
            boot: boot.filter(|_| boots),
        };
        let bytes = wire::encode(&reply);
        let to = if !packet.relay.is_unspecified() {
            Destination::Relay(packet.relay)
        } else if kind == MessageType::Ack && !packet.client_address.is_unspecified() {
            Destination::Client(packet.client_address)
        } else {
            Destination::All
        };
        let delay = if boots { quirks.reply_delay } else { Duration::ZERO };
        let before = known.waiting.as_ref().map(|(at, ..)| *at);
        let at = before.map_or(now + delay, |before| before.min(now + delay));
        known.waiting = Some((at, Outgoing { to, bytes }, news));
    }

    /// Another server was seen or named.
    fn see_server(&mut self, server: Option<Ipv4Addr>, mac: Mac, gave: Option<Ipv4Addr>, now: Instant) {
        let Some(server) = server.filter(|server| *server != self.server) else { return };
        let expected = match &mut self.mode {
            Mode::Full { .. } => false,
            Mode::Beside { server: expected } => *expected.get_or_insert(server) == server,
        };
        if self.servers.is_due(server, now) {
            self.note(now, DhcpNews::OtherServer { server, expected, mac, gave });
        }
    }

    fn meet_stranger(&mut self, packet: &Packet, now: Instant) {
        if !self.strangers.is_due(packet.mac, now) {
            return;
        }
        let identity = packet.identity();
        let same = |known: &&Known| {
            identity.serial.is_some() && known.client.serial.is_some_and(|serial| identity.may_be(serial))
        };
        let looks_like = self.known.values().find(same).map(|known| known.client.device.clone());
        let (mac, class, serial) = (packet.mac, packet.class.clone(), identity.serial);
        self.note(now, DhcpNews::Stranger { mac, class, serial, looks_like });
    }

    fn note(&mut self, at: Instant, what: DhcpNews) {
        self.events.push_back(DhcpEvent { at, what });
    }
}

impl Destination {
    /// The socket address, for a server that listens on `server` and clients that listen on `client`.
    pub fn address(self, server: u16, client: u16) -> SocketAddrV4 {
        match self {
            Self::All => SocketAddrV4::new(Ipv4Addr::BROADCAST, client),
            Self::Client(address) => SocketAddrV4::new(address, client),
            Self::Relay(address) => SocketAddrV4::new(address, server),
        }
    }
}

#[cfg(test)]
mod tests;
