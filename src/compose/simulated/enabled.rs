//! A virtual rack for the simulated devices of a lab.

use crate::cli::error::CliError;
use crate::compose::failed;
use crate::compose::instance::{Instance, rack_root};
use crate::compose::netboot::STORE_FIRMWARE;
use crate::config::lab::Lab;
use crate::device::ports::Power;
use crate::image::Store;
use crate::model::device::Model;
use crate::model::id::DeviceId;
use crate::model::wiring::ConsoleLine;
use crate::netboot::mac::Mac;
use crate::netboot::tree::UEFI_STUB;
use crate::sim::{BoardSpec, Ports, Rack, RackOptions, SimError, Wires};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Firmware of the simulated boards, below the instance's directory.
const FIRMWARE: &str = "simulated-firmware";
/// What stands in for Raspberry Pi's firmware, with about its sizes: loaded like it, and run by nobody.
const STAND_INS: [(&str, usize); 5] = [
    ("bootcode.bin", 52_000),
    ("start.elf", 2_980_000),
    ("fixup.dat", 7_000),
    ("start4.elf", 2_250_000),
    ("fixup4.dat", 5_000),
];
/// The device trees that boards look for.
const TREES: [&str; 4] =
    ["bcm2710-rpi-3-b.dtb", "bcm2711-rpi-4-b.dtb", "bcm2711-rpi-cm4.dtb", "bcm2712-rpi-5-b.dtb"];
/// How a device tree begins, in one that has nothing more.
const TREE: [u8; 8] = [0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 40];
const TREE_LENGTH: usize = 30_000;
/// Where Debian's package `systemd-boot-efi` puts its stubs.
const DEBIAN_STUBS: &str = "/usr/lib/systemd/boot/efi";
/// A line of any speed will do.
const BAUD: u32 = 115_200;

/// The rack of a lab's simulated devices.
pub(in crate::compose) struct Simulated {
    rack: Rack,
    /// The number of each device in the rack.
    numbers: BTreeMap<DeviceId, usize>,
}

impl Simulated {
    /// Sets it up.
    pub(in crate::compose) async fn start(lab: &mut Lab, instance: &Instance) -> Result<Self, CliError> {
        let doing = format!("simulate the devices of {}", lab.name);
        let failed = |error: SimError| {
            let hint = error.hint();
            failed(doing.clone(), hint, error)
        };
        let file = |path: PathBuf| move |source| failed(SimError::File { path, source });
        let Some(netboot) = &mut lab.netboot else { return Err(failed(SimError::NoWires)) };
        let wires = if netboot.address.is_loopback() {
            let (server, client) = (netboot.dhcp_port, netboot.dhcp_client_port);
            Wires::Loopback(Ports { server, client, tftp: netboot.tftp_port })
        } else {
            Wires::Own(netboot.address)
        };
        let (mut boards, mut numbers) = (Vec::new(), BTreeMap::new());
        for wired in &lab.wired {
            let (Some(simulation), Some(asks)) = (&wired.simulation, &wired.netboot) else { continue };
            let mac: Mac = asks.mac.parse().map_err(|e| crate::compose::failed(doing.clone(), None, e))?;
            numbers.insert(wired.device.id.clone(), boards.len());
            boards.push(BoardSpec {
                name: wired.device.id.to_string(),
                model: wired.device.model,
                mac: mac.0,
                serial: asks.serial,
                simulation: simulation.clone(),
            });
        }
        let root = rack_root().map_err(|e| crate::compose::failed(doing.clone(), None, e))?;
        let has_uefi = boards.iter().any(|board| board.model == Model::UefiArm64);
        let options = RackOptions {
            tag: format!("{:08x}", crc32fast::hash(instance.name().as_bytes())),
            root,
            wires,
            inrush: lab.simulated.inrush,
            boards,
        };
        if netboot.firmware.is_none() {
            let dir = instance.dir().join(FIRMWARE);
            stand_in(&dir).map_err(file(dir.clone()))?;
            if has_uefi {
                real_stub(&dir).map_err(file(dir.clone()))?;
            }
            netboot.firmware = Some(dir);
        }
        let rack = Rack::start(options).await.map_err(failed)?;
        netboot.interface = Some(rack.interface().unwrap_or_else(|| "lo".to_owned()));
        Ok(Self { rack, numbers })
    }

    /// The relay of a device.
    pub(in crate::compose) fn power(&self, device: &DeviceId) -> Option<Arc<dyn Power>> {
        self.rack.power(*self.numbers.get(device)?)
    }

    /// The line of its console.
    pub(in crate::compose) fn console(&self, device: &DeviceId) -> Option<ConsoleLine> {
        let path = self.rack.tty(*self.numbers.get(device)?)?.to_owned();
        Some(ConsoleLine::Tty { path, baud: BAUD })
    }

    /// Cuts all power, and removes it.
    pub(in crate::compose) async fn end(self) {
        self.rack.end().await;
    }
}

/// Puts what starts a kernel on UEFI there, where this machine has it: that is run, and nothing can stand in for it.
fn real_stub(dir: &Path) -> std::io::Result<()> {
    let fetched = Store::from_environment().root().join(STORE_FIRMWARE);
    let from = [fetched, PathBuf::from(DEBIAN_STUBS)].map(|dir| dir.join(UEFI_STUB));
    match from.into_iter().find(|path| path.is_file()) {
        Some(from) => fs::copy(from, dir.join(UEFI_STUB)).map(drop),
        // What lacks it says so, and where it is to be had.
        None => Ok(()),
    }
}

/// Writes what stands in for the firmware.
fn stand_in(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    for (name, length) in STAND_INS {
        let mut bytes = b"A stand-in for firmware: simulated boards load it and do not run it.\n".to_vec();
        bytes.resize(length, 0);
        fs::write(dir.join(name), bytes)?;
    }
    for name in TREES {
        let mut bytes = TREE.to_vec();
        bytes.resize(TREE_LENGTH, 0);
        fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}
