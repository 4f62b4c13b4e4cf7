//! What this host can do for virtual machines, told without changing anything of it.

use super::capabilities::Accelerator;
use super::connection::Connection;
use super::error::VmError;
use super::host::support;
use super::network::{self, Look};
use super::{HostOptions, Seen};
use crate::model::device::Arch;
use std::collections::BTreeSet;

/// Looks at libvirt, at the lab's network, and at what can run guests of these architectures.
pub async fn look(options: &HostOptions, archs: &BTreeSet<Arch>) -> Result<Seen, VmError> {
    let connection = Connection::new(&options.uri);
    let gateway = match network::look(&connection, &options.network).await? {
        Look::ToBeMade => None,
        Look::Ready(gateway) => Some(gateway),
    };
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut guests = Vec::new();
    for &arch in archs {
        let support = support(&connection, &cpuinfo, arch).await;
        guests.push((arch, support.map(|support| support.accelerator == Accelerator::Kvm)));
    }
    Ok(Seen { gateway, guests })
}
