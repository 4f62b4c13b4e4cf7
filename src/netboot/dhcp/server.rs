//! The sockets of the DHCP responder, and the one task that serves them.

use super::event::DhcpEvent;
use super::responder::{Outgoing, Responder};
use super::wire::MAX_PACKET;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The responder could not begin.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// The socket could not be opened.
    #[error("cannot serve DHCP on port {port} of {interface}")]
    Bind {
        /// The interface.
        interface: String,
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
}

impl DhcpError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<String> {
        let Self::Bind { interface, port, source } = self;
        match source.kind() {
            io::ErrorKind::AddrInUse => Some(format!(
                "another DHCP server has the port: find it with `ss -ulpn sport = :{port}`; libvirt's dnsmasq can be bound to its own bridge"
            )),
            io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 need CAP_NET_BIND_SERVICE; the shipped unit gives it".to_owned())
            }
            io::ErrorKind::AddrNotAvailable => Some(format!(
                "{interface} has no such address: `ip addr add ADDRESS/24 dev {interface}` gives it one"
            )),
            // ENODEV of errno(3).
            _ if source.raw_os_error() == Some(19) => {
                Some(format!("there is no interface {interface}: `ip link` lists them"))
            }
            _ => None,
        }
    }
}

/// How the sockets are set up.
#[derive(Debug, Clone)]
pub struct DhcpOptions {
    /// The interface that the devices are on. No other is heard or served.
    pub interface: String,
    /// The server's port: 67 for real boot ROMs.
    pub server_port: u16,
    /// The clients' port: 68 for real boot ROMs. It is listened to as well, where that can be, for the answers of
    /// other servers.
    pub client_port: u16,
}

impl DhcpOptions {
    /// On `interface`, with the ports of RFC 2131.
    pub fn new(interface: impl Into<String>) -> Self {
        Self { interface: interface.into(), server_port: 67, client_port: 68 }
    }
}

/// A responder with its sockets open.
pub struct DhcpServer {
    /// Hears what is told to all.
    socket: UdpSocket,
    /// Of the server's own address, which need not be the first of its interface: boot ROMs go on to where an answer came from. It
    /// hears what is sent to that address.
    own: UdpSocket,
    /// Hears what other servers tell all clients.
    ear: Option<UdpSocket>,
    options: DhcpOptions,
    responder: Responder,
}

impl DhcpServer {
    /// Opens the sockets. Must be called within a tokio runtime.
    pub fn bind(options: DhcpOptions, responder: Responder) -> Result<Self, DhcpError> {
        let open = |address, port| {
            bind(&options.interface, address, port).map_err(|source| DhcpError::Bind {
                interface: options.interface.clone(),
                port,
                source,
            })
        };
        let socket = open(Ipv4Addr::UNSPECIFIED, options.server_port)?;
        let own = open(responder.server(), options.server_port)?;
        // Bound to the address of all: what is meant for a DHCP client of this host goes on to that alone.
        let ear = open(Ipv4Addr::BROADCAST, options.client_port)
            .inspect_err(|error| {
                tracing::info!(
                    interface = options.interface,
                    port = options.client_port,
                    error = error as &dyn std::error::Error,
                    "answers of other DHCP servers are not heard"
                );
            })
            .ok();
        Ok(Self { socket, own, ear, options, responder })
    }

    /// Serves until `token` is cancelled. What happens goes to `events`; while that is full, events are lost,
    /// and how many is logged.
    pub async fn run(mut self, events: mpsc::Sender<DhcpEvent>, token: CancellationToken) {
        let mut lost = 0_u64;
        let [mut buffer, mut direct, mut heard] = [[0; MAX_PACKET + 1]; 3];
        loop {
            let deadline = self.responder.deadline();
            let due = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let ear = async {
                match &self.ear {
                    Some(ear) => ear.recv_from(&mut heard).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = token.cancelled() => return,
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, _)) => {
                        self.responder.on_packet(buffer.get(..length).unwrap_or_default(), Instant::now());
                    }
                    Err(error) => tracing::debug!(%error, "the socket of the DHCP server"),
                },
                received = self.own.recv_from(&mut direct) => match received {
                    Ok((length, _)) => {
                        self.responder.on_packet(direct.get(..length).unwrap_or_default(), Instant::now());
                    }
                    Err(error) => tracing::debug!(%error, "the socket of the DHCP server's address"),
                },
                received = ear => if let Ok((length, _)) = received {
                    self.responder.on_packet(heard.get(..length).unwrap_or_default(), Instant::now());
                },
                () = due => {}
            }
            for packet in self.responder.due(Instant::now()) {
                self.send(packet).await;
            }
            for event in self.responder.events() {
                match events.try_send(event) {
                    Ok(()) if lost > 0 => {
                        tracing::warn!(lost, "events of the DHCP server were lost: nobody read them in time");
                        lost = 0;
                    }
                    Ok(()) => {}
                    Err(_) => lost += 1,
                }
            }
        }
    }

    async fn send(&self, packet: Outgoing) {
        let Outgoing { to, bytes } = packet;
        let to = to.address(self.options.server_port, self.options.client_port);
        if let Err(error) = self.own.send_to(&bytes, SocketAddr::V4(to)).await {
            tracing::warn!(%error, %to, "an answer of the DHCP server could not be sent");
        }
    }
}

/// Opens a socket that hears `interface` alone, and may send to all on it.
pub(super) fn bind(interface: &str, address: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Others may have the port on other interfaces: libvirt's dnsmasq has.
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(address, port)).into())?;
    UdpSocket::from_std(socket.into())
}
