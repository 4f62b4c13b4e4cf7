//! Who lends addresses on a wire: asked as a client that nobody knows, which takes nothing of what it is offered.

use super::super::mac::Mac;
use super::server::{DhcpError, DhcpOptions, bind};
use super::wire::{MAX_PACKET, decode, discover};
use dhcproto::v4::MessageType;
use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a server may take: dnsmasq looks for three seconds whether anybody has the address.
const WAIT: Duration = Duration::from_secs(5);
/// How long others may take after the first.
const MORE: Duration = Duration::from_millis(500);

/// The servers that offer a stranger an address. A responder of ours does not: it knows whom it serves.
pub async fn servers(options: &DhcpOptions) -> Result<BTreeSet<Ipv4Addr>, DhcpError> {
    let failed = |source: io::Error| DhcpError::Bind {
        interface: options.interface.clone(),
        port: options.client_port,
        source,
    };
    // Bound to the address of all: what is meant for a DHCP client of this host goes on to that alone.
    let socket = bind(&options.interface, Ipv4Addr::BROADCAST, options.client_port).map_err(failed)?;
    let (mac, xid) = (stranger(rand::random()), rand::random());
    let sent = socket.send_to(&discover(mac, xid), (Ipv4Addr::BROADCAST, options.server_port)).await;
    sent.map_err(failed)?;
    let mut found = BTreeSet::new();
    let mut deadline = Instant::now() + WAIT;
    let mut buffer = [0; MAX_PACKET + 1];
    while let Ok(heard) = timeout_at(deadline, socket.recv_from(&mut buffer)).await {
        let (length, from) = heard.map_err(failed)?;
        let Ok(packet) = decode(buffer.get(..length).unwrap_or_default()) else { continue };
        let ours = packet.is_reply && packet.mac == mac && packet.xid == xid;
        if !ours || packet.kind != MessageType::Offer || packet.your_address.is_unspecified() {
            continue;
        }
        let sender = match from.ip() {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        };
        found.extend(packet.server.or(sender));
        deadline = deadline.min(Instant::now() + MORE);
    }
    Ok(found)
}

/// Locally administered, and nobody's group: such addresses are no maker's.
fn stranger(mut random: [u8; 6]) -> Mac {
    if let Some(first) = random.first_mut() {
        *first = *first & 0xfc | 0x02;
    }
    Mac(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_has_no_makers_address() {
        for random in [[0xff; 6], [0; 6]] {
            let Mac([first, ..]) = stranger(random);
            assert_eq!(first & 0x03, 0x02, "{first:#x}");
        }
        let asked = decode(&discover(Mac([2, 1, 1, 1, 1, 1]), 7)).unwrap();
        assert_eq!((asked.kind, asked.xid, asked.flags), (MessageType::Discover, 7, 0x8000));
        assert!(!asked.is_reply && !asked.is_boot());
    }
}
