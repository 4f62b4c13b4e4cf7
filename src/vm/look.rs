//! What this host can do for virtual machines, told without changing anything of it.

use super::capabilities::{self, Accelerator};
use super::connection::Connection;
use super::error::VmError;
use super::host::support;
use super::{HostOptions, NETWORK, Seen};
use crate::model::device::Arch;
use std::collections::BTreeSet;
use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::network::Network;

/// Looks at libvirt, at the lab's network, and at what can run guests of these architectures.
pub async fn look(options: &HostOptions, archs: &BTreeSet<Arch>) -> Result<Seen, VmError> {
    let connection = Connection::new(&options.uri);
    let network = options.network.clone();
    let read = move |connect: &Connect| match Network::lookup_by_name(connect, &network) {
        // It is made when it is needed.
        Err(error) if error.code() == ErrorNumber::NoNetwork && network == NETWORK => Ok(None),
        network => network?.get_xml_desc(0).map(Some),
    };
    let xml = connection.call("read the network", read).await.map_err(|error| match error {
        VmError::Call { source, .. } => VmError::Network { network: options.network.clone(), source },
        other => other,
    })?;
    let no_gateway = || VmError::NoGateway { network: options.network.clone() };
    let gateway = xml.map(|xml| capabilities::gateway(&xml).ok_or_else(no_gateway)).transpose()?;
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut guests = Vec::new();
    for &arch in archs {
        let support = support(&connection, &cpuinfo, arch).await;
        guests.push((arch, support.map(|support| support.accelerator == Accelerator::Kvm)));
    }
    Ok(Seen { gateway, guests })
}
