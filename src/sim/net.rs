//! The wires of a virtual rack: one network of its own, or none at all.
//!
//! ```text
//!   this host            namespace pilab-rack-TAG               namespaces pilab-rack-TAG-N
//!   plrTAG ───veth─────── br0 ──┬── bN ─────veth──────────────── eth0: the board's card while its loader runs
//!   (the lab's address)         └── tN ──tap── QEMU               the same address, once its kernel runs
//! ```
//!
//! Each board's loader has real ports and the board's own MAC address. All of it goes with the namespaces. Without root
//! there are no wires: loaders and servers meet on the loopback, at ports and addresses below 127.0.0.0/8, and no kernel runs.

use super::rom::Network;
use crate::support::command::{Command, CommandError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

/// Where ip(8) keeps named namespaces.
const NAMESPACES: &str = "/run/netns";
/// What the names of ours begin with.
const PREFIX: &str = "pilab-rack-";
/// Ports of DHCP and TFTP (RFC 2131, RFC 1350).
const REAL: Ports = Ports { server: 67, client: 68, tftp: 69 };

/// The ports that loaders use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Of the DHCP server.
    pub server: u16,
    /// Of DHCP clients.
    pub client: u16,
    /// Of the TFTP server.
    pub tftp: u16,
}

/// The names of a rack's parts on this host.
#[derive(Debug, Clone)]
pub(super) struct Names {
    tag: String,
}

impl Names {
    pub(super) fn new(tag: &str) -> Self {
        Self { tag: tag.to_owned() }
    }

    /// This host's end: at most 15 bytes (`IFNAMSIZ` of linux/if.h).
    pub(super) fn host(&self) -> String {
        format!("plr{}", self.tag)
    }

    pub(super) fn rack(&self) -> String {
        format!("{PREFIX}{}", self.tag)
    }

    pub(super) fn board(&self, number: usize) -> String {
        format!("{PREFIX}{}-{number}", self.tag)
    }

    pub(super) fn tap(number: usize) -> String {
        format!("t{number}")
    }
}

/// The tag in the name of a namespace; none when it is not of a rack.
pub(super) fn tag_of(namespace: &str) -> Option<&str> {
    let rest = namespace.strip_prefix(PREFIX)?;
    Some(rest.split_once('-').map_or(rest, |(tag, _)| tag)).filter(|tag| !tag.is_empty())
}

/// Runs ip(8).
pub(super) async fn ip(arguments: &[&str]) -> Result<Vec<u8>, CommandError> {
    Command::new("ip").args(arguments.iter().copied()).output().await
}

/// Makes the rack's own network; this host has `address` in it.
pub(super) async fn make_rack(names: &Names, address: Ipv4Addr) -> Result<(), CommandError> {
    let (host, rack) = (names.host(), names.rack());
    ip(&["netns", "add", &rack]).await?;
    ip(&["-n", &rack, "link", "add", "br0", "type", "bridge"]).await?;
    ip(&["link", "add", &host, "type", "veth", "peer", "name", "up0", "netns", &rack]).await?;
    for link in ["up0", "br0"] {
        let master: &[&str] = if link == "up0" { &["master", "br0"] } else { &[] };
        ip(&[&["-n", &rack, "link", "set", link], master, &["up"]].concat()).await?;
    }
    ip(&["addr", "add", &format!("{address}/24"), "dev", &host]).await?;
    ip(&["link", "set", &host, "up"]).await?;
    Ok(())
}

/// Makes a board's wire.
pub(super) async fn make_board(names: &Names, number: usize, mac: &str) -> Result<(), CommandError> {
    let (rack, board) = (names.rack(), names.board(number));
    let (wire, tap) = (format!("b{number}"), Names::tap(number));
    ip(&["netns", "add", &board]).await?;
    ip(&["-n", &rack, "link", "add", &wire, "type", "veth", "peer", "name", "eth0", "netns", &board]).await?;
    ip(&["-n", &rack, "link", "set", &wire, "master", "br0", "up"]).await?;
    ip(&["-n", &board, "link", "set", "eth0", "address", mac]).await?;
    ip(&["-n", &rack, "tuntap", "add", "dev", &tap, "mode", "tap"]).await?;
    ip(&["-n", &rack, "link", "set", &tap, "master", "br0", "up"]).await?;
    Ok(())
}

/// A board's network card, as its loader uses it.
#[derive(Debug)]
pub(super) enum Card {
    /// In a namespace.
    Wired {
        /// Its name.
        namespace: String,
        opener: Opener,
    },
    /// On the loopback.
    Loopback(Ports),
}

impl Card {
    pub(super) fn wired(namespace: String) -> io::Result<Self> {
        let opener = Opener::start(&namespace)?;
        Ok(Self::Wired { namespace, opener })
    }

    fn ports(&self) -> Ports {
        match self {
            Self::Wired { .. } => REAL,
            Self::Loopback(ports) => *ports,
        }
    }

    /// The link comes.
    pub(super) async fn up(&self) -> Result<(), CommandError> {
        if let Self::Wired { namespace, .. } = self {
            ip(&["-n", namespace, "link", "set", "eth0", "up"]).await?;
        }
        Ok(())
    }

    /// The link goes, and with it the address: nobody answers for it here any more.
    pub(super) async fn down(&self) -> Result<(), CommandError> {
        if let Self::Wired { namespace, .. } = self {
            ip(&["-n", namespace, "addr", "flush", "dev", "eth0"]).await?;
            ip(&["-n", namespace, "link", "set", "eth0", "down"]).await?;
        }
        Ok(())
    }

    /// Takes an address.
    pub(super) async fn take(&self, network: &Network) -> Result<(), CommandError> {
        if let Self::Wired { namespace, .. } = self {
            let bits = u32::from(network.mask).leading_ones();
            let address = format!("{}/{bits}", network.address);
            ip(&["-n", namespace, "addr", "replace", &address, "dev", "eth0"]).await?;
        }
        Ok(())
    }

    /// The socket of the DHCP client.
    pub(super) async fn dhcp(&self) -> io::Result<UdpSocket> {
        self.open(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.ports().client)).await
    }

    /// A socket for one file.
    pub(super) async fn tftp(&self, address: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
        self.open(SocketAddrV4::new(address, port)).await
    }

    /// Where DHCP servers are asked.
    pub(super) fn dhcp_servers(&self) -> SocketAddrV4 {
        match self {
            Self::Wired { .. } => SocketAddrV4::new(Ipv4Addr::BROADCAST, REAL.server),
            Self::Loopback(ports) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, ports.server),
        }
    }

    /// The TFTP server's port for requests.
    pub(super) fn tftp_port(&self) -> u16 {
        self.ports().tftp
    }

    async fn open(&self, address: SocketAddrV4) -> io::Result<UdpSocket> {
        match self {
            Self::Wired { opener, .. } => UdpSocket::from_std(opener.open(address).await?),
            Self::Loopback(_) => UdpSocket::from_std(bind(address, "lo")?),
        }
    }
}

fn bind(address: SocketAddrV4, interface: &str) -> io::Result<std::net::UdpSocket> {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

type Opened = oneshot::Sender<io::Result<std::net::UdpSocket>>;

/// A thread in a network namespace, which opens sockets there. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Opener {
    requests: mpsc::Sender<(SocketAddrV4, Opened)>,
}

impl Opener {
    fn start(namespace: &str) -> io::Result<Self> {
        let namespace = File::open(format!("{NAMESPACES}/{namespace}"))?;
        let (requests, mut inbox) = mpsc::channel::<(SocketAddrV4, Opened)>(1);
        let work = move || {
            // This thread alone: the others stay where they are.
            let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            while let Some((address, answer)) = inbox.blocking_recv() {
                let opened = moved.map_err(io::Error::from).and_then(|()| bind(address, "eth0"));
                let _ = answer.send(opened);
            }
        };
        std::thread::Builder::new().name("rack-card".to_owned()).spawn(work)?;
        Ok(Self { requests })
    }

    async fn open(&self, address: SocketAddrV4) -> io::Result<std::net::UdpSocket> {
        let gone = || io::Error::other("the thread of a simulated network card is gone");
        let (answer, opened) = oneshot::channel();
        self.requests.send((address, answer)).await.map_err(|_| gone())?;
        opened.await.map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_tells_its_rack() {
        let names = Names::new("00c0ffee");
        assert_eq!(names.host().len(), 11);
        for name in [names.rack(), names.board(0), names.board(12)] {
            assert_eq!(tag_of(&name), Some("00c0ffee"));
        }
        for other in ["pilab-test-1", "pilab-rack-", "pilab-rack", "x"] {
            assert_eq!(tag_of(other), None);
        }
    }
}
