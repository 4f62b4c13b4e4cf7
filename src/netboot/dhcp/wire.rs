//! DHCP packets: what a client or another server sent is read, what we answer is written.
//!
//! The codec is `dhcproto`. Of its two readers the borrowed one is used, option by option: its owned one
//! believes the lengths that a client wrote (decision 0016).

use super::super::mac::Mac;
use super::identity::Identity;
use dhcproto::v4::borrowed;
use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode};
use dhcproto::{Encodable, Encoder};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The longest packet that is read: an Ethernet frame.
pub const MAX_PACKET: usize = 1500;
/// The shortest packet that is sent: RFC 1542 §2.1 lets relays and clients drop shorter ones.
const MIN_PACKET: usize = 300;
/// How the class of a boot ROM begins that asks for files over TFTP (PXE 2.1), and what it is answered with.
const PXE: &str = "PXEClient";
/// The same over HTTP (UEFI 2.10 §24.7).
const HTTP: &str = "HTTPClient";
/// How much of a class identifier is kept, in bytes.
const MAX_CLASS: usize = 64;

/// A packet that is no DHCP for Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends within its fixed part.
    #[error("it has {0} bytes, and DHCP at least 241")]
    Short(usize),
    /// It is longer than an Ethernet frame.
    #[error("it has {0} bytes, more than {MAX_PACKET}")]
    Long(usize),
    /// It is about a network that is not Ethernet.
    #[error("its hardware has type {kind} and addresses of {length} bytes")]
    Hardware {
        /// The type (RFC 1700).
        kind: u8,
        /// The length.
        length: u8,
    },
    /// It is BOOTP without DHCP.
    #[error("it has no message type")]
    NoType,
    /// It says neither request nor reply.
    #[error("its operation is neither request nor reply")]
    Opcode,
}

/// What a packet says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Whether a server sent it.
    pub is_reply: bool,
    /// What it is.
    pub kind: MessageType,
    /// Whose network card it is about.
    pub mac: Mac,
    /// The transaction. The same on every Pi 3: it tells nobody from another.
    pub xid: u32,
    /// The flags as they came.
    pub flags: u16,
    /// The address that the client has.
    pub client_address: Ipv4Addr,
    /// The address that a server gives (in replies).
    pub your_address: Ipv4Addr,
    /// The relay that passed it on.
    pub relay: Ipv4Addr,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 60, printable, cut.
    pub class: Option<String>,
    /// Option 93: the architecture of what is to be booted.
    pub arch: Option<u16>,
    /// Option 97 as it came.
    pub machine: Option<Vec<u8>>,
}

/// What a UEFI of 64-bit ARM asks for, by the numbers of the registry "Processor Architecture Types" (RFC 5970).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UefiAsks {
    /// A file's name (11).
    Tftp,
    /// A URL (19).
    Http,
}

impl Packet {
    /// Whether a boot ROM sent it.
    pub fn is_boot(&self) -> bool {
        self.class.as_deref().is_some_and(|class| class.starts_with(PXE) || class.starts_with(HTTP))
    }

    /// What the UEFI that sent it asks for; none where it is none, or one of another architecture.
    pub fn uefi(&self) -> Option<UefiAsks> {
        let class = self.class.as_deref()?;
        match self.arch? {
            11 if class.starts_with(PXE) => Some(UefiAsks::Tftp),
            19 if class.starts_with(HTTP) => Some(UefiAsks::Http),
            _ => None,
        }
    }

    /// What a Pi says of itself.
    pub fn identity(&self) -> Identity {
        self.machine.as_deref().map_or(Identity::default(), Identity::read)
    }
}

/// Reads a packet.
pub fn decode(bytes: &[u8]) -> Result<Packet, Malformed> {
    if bytes.len() > MAX_PACKET {
        return Err(Malformed::Long(bytes.len()));
    }
    let message = borrowed::Message::new(bytes).map_err(|_| Malformed::Short(bytes.len()))?;
    if message.htype() != HType::Eth || message.hlen() != 6 {
        return Err(Malformed::Hardware { kind: message.htype().into(), length: message.hlen() });
    }
    let is_reply = match message.opcode() {
        Opcode::BootRequest => false,
        Opcode::BootReply => true,
        Opcode::Unknown(_) => return Err(Malformed::Opcode),
    };
    let mac = message.chaddr().try_into().map_err(|_| Malformed::Short(bytes.len()))?;
    let mut kind = None;
    let mut packet = Packet {
        is_reply,
        kind: MessageType::Unknown(0),
        mac: Mac(mac),
        xid: message.xid(),
        flags: message.flags().into(),
        client_address: message.ciaddr(),
        your_address: message.yiaddr(),
        relay: message.giaddr(),
        requested: None,
        server: None,
        class: None,
        arch: None,
        machine: None,
    };
    for option in message.opts() {
        let data = option.data();
        match u8::from(option.code()) {
            50 => packet.requested = packet.requested.or(address(data)),
            53 if data.len() == 1 => kind = kind.or(data.first().map(|kind| MessageType::from(*kind))),
            54 => packet.server = packet.server.or(address(data)),
            60 => packet.class = packet.class.or_else(|| Some(printable(data))),
            // The first of a list is what it is itself.
            93 => {
                packet.arch =
                    packet.arch.or_else(|| data.first_chunk().map(|arch| u16::from_be_bytes(*arch)));
            }
            // 17 bytes are what RFC 4578 §2.3 allows.
            97 if data.len() == 17 => packet.machine = packet.machine.or_else(|| Some(data.to_vec())),
            _ => {}
        }
    }
    packet.kind = kind.ok_or(Malformed::NoType)?;
    Ok(packet)
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

fn printable(data: &[u8]) -> String {
    let data = data.iter().take_while(|byte| **byte != 0).take(MAX_CLASS);
    data.map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' }).collect()
}

/// An address lent to a device, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// For how long.
    pub time: Duration,
    /// The network's mask.
    pub mask: Ipv4Addr,
    /// The way out, if there is one.
    pub router: Option<Ipv4Addr>,
    /// Who resolves names.
    pub name_servers: Vec<Ipv4Addr>,
}

/// An answer to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply<'a> {
    /// What it is.
    pub kind: MessageType,
    /// What it answers.
    pub to: &'a Packet,
    /// Who answers.
    pub server: Ipv4Addr,
    /// The address it gives; none beside another DHCP server, and in a NAK.
    pub lease: Option<&'a Lease>,
    /// What a boot ROM is told; none for a client that does not boot.
    pub boot: Option<Told<'a>>,
}

/// What a boot ROM is told of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// A Pi: the entry of the boot menu. It knows the names.
    Menu(&'a str),
    /// UEFI: the name of its file over TFTP.
    File(&'a str),
    /// UEFI: the URL of its file.
    Url(&'a str),
}

/// Writes an answer. The order of options is dnsmasq's, which all Pis take.
pub fn encode(reply: &Reply<'_>) -> Vec<u8> {
    let Reply { kind, to, server, lease, boot } = reply;
    let given = lease.map_or(Ipv4Addr::UNSPECIFIED, |lease| lease.address);
    let next =
        if matches!(boot, Some(Told::Menu(_) | Told::File(_))) { *server } else { Ipv4Addr::UNSPECIFIED };
    let renews = if *kind == MessageType::Ack { to.client_address } else { Ipv4Addr::UNSPECIFIED };
    let mut message = Message::new_with_id(to.xid, renews, given, next, to.relay, &to.mac.0);
    message.set_opcode(Opcode::BootReply).set_flags(Flags::new(to.flags));
    let mut options = vec![DhcpOption::MessageType(*kind), DhcpOption::ServerIdentifier(*server)];
    if let Some(lease) = lease {
        let seconds = u32::try_from(lease.time.as_secs()).unwrap_or(u32::MAX);
        options.push(DhcpOption::AddressLeaseTime(seconds));
        // Half and seven eighths: RFC 2131 §4.4.5.
        options.push(DhcpOption::Renewal(seconds / 2));
        options.push(DhcpOption::Rebinding(seconds / 8 * 7));
        options.push(DhcpOption::SubnetMask(lease.mask));
        options.push(DhcpOption::BroadcastAddr(lease.address | !lease.mask));
        options.extend(lease.router.map(|router| DhcpOption::Router(vec![router])));
        if !lease.name_servers.is_empty() {
            options.push(DhcpOption::DomainNameServer(lease.name_servers.clone()));
        }
        if matches!(boot, Some(Told::Menu(_))) {
            // Without a NUL at its end: raspberrypi/firmware 871.
            options.push(DhcpOption::TFTPServerName(server.to_string().into_bytes()));
        }
    }
    if let Some(boot) = boot {
        let class = if matches!(boot, Told::Url(_)) { HTTP } else { PXE };
        options.push(DhcpOption::ClassIdentifier(class.into()));
        options.extend(to.machine.clone().map(DhcpOption::ClientMachineIdentifier));
        match boot {
            Told::Menu(menu) => options.push(DhcpOption::VendorExtensions(boot_menu(menu))),
            Told::File(name) => {
                // No boot servers are looked for: the file named here is the one (PXE 2.1 §2.2, tag 6, bit 3).
                options.push(DhcpOption::VendorExtensions(vec![6, 1, 8, 255]));
                options.push(DhcpOption::BootfileName(name.as_bytes().to_vec()));
            }
            Told::Url(url) => options.push(DhcpOption::BootfileName(url.as_bytes().to_vec())),
        }
    }
    options.push(DhcpOption::End);
    finish(&message, &options)
}

fn finish(message: &Message, options: &[DhcpOption]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MIN_PACKET);
    let mut encoder = Encoder::new(&mut bytes);
    let written = message
        .encode(&mut encoder)
        .and_then(|()| options.iter().try_for_each(|option| option.encode(&mut encoder)));
    // Only a string that does not fit its length can fail, and none here is longer than 80 bytes.
    debug_assert!(written.is_ok(), "{written:?}");
    if bytes.len() < MIN_PACKET {
        bytes.resize(MIN_PACKET, 0);
    }
    bytes
}

/// A question of a client that boots nothing; its answers are to go to all, for it has no address.
pub fn discover(mac: Mac, xid: u32) -> Vec<u8> {
    let nobody = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(xid, nobody, nobody, nobody, nobody, &mac.0);
    message.set_opcode(Opcode::BootRequest).set_flags(Flags::default().set_broadcast());
    let options = [DhcpOption::MessageType(MessageType::Discover), DhcpOption::End];
    finish(&message, &options)
}

/// Option 43 for PXE (PXE 2.1 §2.2): no discovery of boot servers (6), a menu that does not wait (10), and one
/// entry of type 0 (9).
fn boot_menu(entry: &str) -> Vec<u8> {
    let entry = &entry.as_bytes()[..entry.len().min(200)];
    let length = u8::try_from(entry.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![6, 1, 3, 10, 4, 0];
    bytes.extend(b"PXE");
    bytes.extend([9, length + 3, 0, 0, length]);
    bytes.extend(entry);
    bytes.push(255);
    bytes
}
