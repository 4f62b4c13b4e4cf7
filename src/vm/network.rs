//! The guests' network: found, started, made where it is missing, and made anew where its bridge has gone.

use super::capabilities;
use super::connection::Connection;
use super::error::VmError;
use super::{NETWORK, domain};
use std::net::Ipv4Addr;
use std::path::Path;
use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::network::Network;

/// 192.168.x.0/24, for the network that is made here.
const RANGES: std::ops::RangeInclusive<u8> = 171..=190;
/// Where the kernel shows its network devices (sysfs(5)).
const DEVICES: &str = "/sys/class/net";

/// What a look at a network shows.
pub(super) enum Look {
    /// There is none yet, or what is left of it is of no use: it is made when it is needed.
    ToBeMade,
    /// It is there.
    Ready(Ipv4Addr),
}

/// The host's address on the network, which is started when it is not active. [`NETWORK`] is made where it is missing.
pub(super) async fn ready(connection: &Connection, name: &str) -> Result<Ipv4Addr, VmError> {
    let (network, local) = (name.to_owned(), connection.is_local());
    let read = move |connect: &Connect| {
        let found = started(connect, &network)?;
        let xml = found.get_xml_desc(0)?;
        if network != NETWORK || !local || lost_bridge(&xml, Path::new(DEVICES)).is_none() {
            return Ok(xml);
        }
        tracing::warn!(network, "somebody has removed the network's bridge: it is made anew");
        match found.destroy() {
            // Another process was faster: what it has made is another network.
            Err(error) if error.code() != ErrorNumber::NoNetwork => Err(error),
            _ => started(connect, &network)?.get_xml_desc(0),
        }
    };
    address(connection, name, &connection.call("read the network", read).await.map_err(named(name))?)
}

/// Looks at the network without changing it.
pub(super) async fn look(connection: &Connection, name: &str) -> Result<Look, VmError> {
    let network = name.to_owned();
    let read = move |connect: &Connect| match Network::lookup_by_name(connect, &network) {
        Err(error) if error.code() == ErrorNumber::NoNetwork && network == NETWORK => Ok(None),
        network => network.and_then(|found| Ok(Some((found.get_xml_desc(0)?, found.is_active()?)))),
    };
    let Some((xml, active)) = connection.call("read the network", read).await.map_err(named(name))? else {
        return Ok(Look::ToBeMade);
    };
    // One that is to be started yet has no bridge.
    let address = if active { address(connection, name, &xml) } else { gateway(name, &xml) };
    match address {
        Err(VmError::NoBridge { .. }) if name == NETWORK => Ok(Look::ToBeMade),
        address => address.map(Look::Ready),
    }
}

fn named(network: &str) -> impl Fn(VmError) -> VmError {
    move |error| match error {
        VmError::Call { source, .. } => VmError::Network { network: network.to_owned(), source },
        other => other,
    }
}

/// The host's address on an active network of this description.
fn address(connection: &Connection, name: &str, xml: &str) -> Result<Ipv4Addr, VmError> {
    if connection.is_local()
        && let Some(bridge) = lost_bridge(xml, Path::new(DEVICES))
    {
        return Err(VmError::NoBridge { network: name.to_owned(), bridge });
    }
    gateway(name, xml)
}

fn gateway(name: &str, xml: &str) -> Result<Ipv4Addr, VmError> {
    capabilities::gateway(xml).ok_or_else(|| VmError::NoGateway { network: name.to_owned() })
}

/// The bridge of an active network that this machine does not have: libvirt makes it with the network, and does not look at
/// it again.
fn lost_bridge(xml: &str, devices: &Path) -> Option<String> {
    capabilities::bridge(xml).filter(|bridge| !devices.join(bridge).exists())
}

fn started(connect: &Connect, name: &str) -> Result<Network, Error> {
    let network = match Network::lookup_by_name(connect, name) {
        Err(error) if error.code() == ErrorNumber::NoNetwork && name == NETWORK => make(connect)?,
        found => found?,
    };
    if !network.is_active()? {
        network.create()?;
    }
    Ok(network)
}

/// Makes [`NETWORK`], with the first of its address ranges that nobody has here. It is there until the host restarts.
fn make(connect: &Connect) -> Result<Network, Error> {
    let mut made = Err(Error::last_error());
    for third in RANGES {
        made = Network::create_xml(connect, &domain::network(NETWORK, third));
        if made.is_ok() {
            break;
        }
    }
    // Another process may have been faster.
    made.or_else(|error| Network::lookup_by_name(connect, NETWORK).map_err(|_| error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_is_gone_is_named() {
        let devices = tempfile::tempdir().unwrap();
        let xml = domain::network("pilab", 171);
        assert_eq!(lost_bridge(&xml, devices.path()).as_deref(), Some("virbr-pilab"));
        std::fs::create_dir(devices.path().join("virbr-pilab")).unwrap();
        assert_eq!(lost_bridge(&xml, devices.path()), None);
        // Guests of a host's device need no bridge of libvirt's.
        assert_eq!(lost_bridge("<network><forward mode='passthrough'/></network>", devices.path()), None);
    }
}
