//! The devices' ways to the NATS server, on the same ports as before: a device that is on while its coordinator
//! is started anew goes on talking to the address that it was given.

use super::devices::Layer;
use super::instance::Instance;
use crate::bus::gate::{Gate, Upstream};
use crate::model::id::DeviceId;
use crate::support::atomic_file;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Below the instance's directory: a file for each device, with its port.
const DIR: &str = "gates";

/// Opens a device's way to `server` on the port that it had, else on a free one.
pub(super) async fn gate(
    instance: &Instance,
    device: &DeviceId,
    ip: IpAddr,
    server: &Upstream,
    layer: &Layer,
) -> io::Result<Gate> {
    let dir = instance.dir().join(DIR);
    let path = dir.join(device.as_str());
    let last = fs::read_to_string(&path).ok().and_then(|port| port.trim().parse().ok());
    let open =
        |port| Gate::open(SocketAddr::new(ip, port), server.clone(), &layer.tracker, layer.token.clone());
    let gate = match last {
        Some(port) => match open(port).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!(%device, port, "its port is taken: the device must boot anew to be heard");
                open(0).await?
            }
            opened => opened?,
        },
        None => open(0).await?,
    };
    fs::create_dir_all(&dir)?;
    atomic_file::write(&path, gate.port().to_string().as_bytes(), 0o600)?;
    Ok(gate)
}

/// The address of this machine from which a device is reached. Nothing is sent.
pub(super) fn toward(device: IpAddr) -> io::Result<IpAddr> {
    /// The discard service (RFC 863): a port is needed, and not used.
    const DISCARD: u16 = 9;
    let any: IpAddr = match device {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((device, DISCARD))?;
    Ok(socket.local_addr()?.ip())
}
