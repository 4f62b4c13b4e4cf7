//! `[netboot]` of a lab file, and what a device says of its own netboot.

use super::error::ConfigError;
use super::raw::Source;
use crate::model::device::Model;
use crate::support::segment::Segment;
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use toml::Spanned;

/// The ports of RFC 2131 and RFC 1350, which boot ROMs know and no others.
const DHCP: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const TFTP: u16 = 69;

/// How the lab's devices are netbooted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netboot {
    /// The coordinator's address on the devices' segment.
    pub address: Ipv4Addr,
    /// The interface that is on it; none for the one that the address tells.
    pub interface: Option<String>,
    /// Who lends addresses.
    pub mode: NetbootMode,
    /// The port of the DHCP server.
    pub dhcp_port: u16,
    /// The port of DHCP clients.
    pub dhcp_client_port: u16,
    /// The port of the TFTP server; 0 for any free one.
    pub tftp_port: u16,
    /// The port of tickets and layers; 0 for any free one.
    pub http_port: u16,
    /// The directory with the firmware, device trees and overlays; none for the usual places.
    pub firmware: Option<PathBuf>,
}

/// Who lends addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetbootMode {
    /// The lab, to its devices alone.
    #[default]
    Full,
    /// A DHCP server that is there already; the lab says only where the files are.
    Proxy,
}

/// A device that boots from the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetbootDevice {
    /// Its MAC address, lower-case with colons.
    pub mac: String,
    /// The low 32 bits of its serial number.
    pub serial: Option<u32>,
    /// Its address; none beside another DHCP server.
    pub address: Option<Ipv4Addr>,
}

/// What a device boots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawBoot {
    /// What it finds by itself.
    #[default]
    #[serde(rename = "self")]
    Itself,
    /// What the lab offers it.
    Netboot,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetboot {
    address: Spanned<Ipv4Addr>,
    interface: Option<String>,
    #[serde(default)]
    mode: NetbootMode,
    dhcp_port: Option<Spanned<u16>>,
    dhcp_client_port: Option<Spanned<u16>>,
    tftp_port: Option<u16>,
    http_port: Option<u16>,
    firmware: Option<PathBuf>,
}

/// Checks the section.
pub(super) fn check(source: &Source, raw: RawNetboot) -> Result<Netboot, ConfigError> {
    let address = *raw.address.get_ref();
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        let cause = format!("{address} is no address that this machine can have");
        return Err(source.value(&raw.address.span(), "netboot.address", cause));
    }
    let port = |key: &str, port: Option<Spanned<u16>>, usual: u16| match port {
        Some(port) if *port.get_ref() == 0 => {
            Err(source.value(&port.span(), key, "0 is no port that a client could know"))
        }
        port => Ok(port.map_or(usual, Spanned::into_inner)),
    };
    Ok(Netboot {
        address,
        interface: raw.interface,
        mode: raw.mode,
        dhcp_port: port("netboot.dhcp_port", raw.dhcp_port, DHCP)?,
        dhcp_client_port: port("netboot.dhcp_client_port", raw.dhcp_client_port, DHCP_CLIENT)?,
        tftp_port: raw.tftp_port.unwrap_or(TFTP),
        http_port: raw.http_port.unwrap_or(0),
        firmware: raw.firmware.map(|dir| source.dir().join(dir)),
    })
}

/// What a device says that is to be netbooted; `(key, cause)` of what is wrong.
pub(super) struct Asked {
    pub(super) model: Model,
    pub(super) mac: Option<String>,
    pub(super) serial: Option<u32>,
    pub(super) address: Option<Ipv4Addr>,
    /// It has a switch.
    pub(super) power: bool,
}

impl Asked {
    /// Checks it against the section.
    pub(super) fn check(self, lab: Option<&Netboot>) -> Result<NetbootDevice, (&'static str, String)> {
        let Self { model, mac, serial, address, power } = self;
        let lab = lab.ok_or_else(|| ("boot", "the lab has no section [netboot]".to_owned()))?;
        if let Some(why) = model.cannot_netboot() {
            return Err(("boot", format!("a {model} {why}")));
        }
        let mac =
            mac.ok_or_else(|| ("mac", "is missing: by it the device is known on the wire".to_owned()))?;
        if !power {
            return Err((
                "power",
                "is missing: what is not switched off and on does not boot anew".to_owned(),
            ));
        }
        match (lab.mode, address) {
            (NetbootMode::Full, None) => {
                Err(("address", "is missing: in mode \"full\" the lab lends it".to_owned()))
            }
            (NetbootMode::Proxy, Some(_)) => {
                Err(("address", "in mode \"proxy\" the other DHCP server lends it".to_owned()))
            }
            (_, Some(address)) if address == lab.address => {
                Err(("address", format!("{address} is the coordinator's own")))
            }
            // Known only on the machine that is connected to the segment.
            (_, Some(address))
                if Segment::of(lab.address).is_some_and(|it| !it.contains(lab.address, address)) =>
            {
                Err(("address", format!("{address} is not in the segment of {}", lab.address)))
            }
            _ => Ok(NetbootDevice { mac, serial, address }),
        }
    }
}

/// The low 32 bits of a serial number in hex: eight digits, or the sixteen that `/proc/cpuinfo` has.
pub(super) fn serial(text: &str) -> Result<u32, String> {
    let digits = text.len() == 8 || text.len() == 16;
    let low = text.get(text.len().saturating_sub(8)..).filter(|_| digits && text.is_ascii());
    let hex = |text: &&str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    low.filter(hex).and_then(|low| u32::from_str_radix(low, 16).ok()).ok_or_else(|| {
        format!("{text:?} is no serial number, such as \"9ffefdef\" (the end of Serial in /proc/cpuinfo)")
    })
}

#[cfg(test)]
mod tests {
    use crate::config::lab::{Lab, load};
    use crate::config::netboot::NetbootMode;
    use crate::model::device::Capability;

    fn load_text(text: &str) -> Result<Lab, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        std::fs::write(&path, text).unwrap();
        load(&path, None, None).map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), ""))
    }

    const SWITCH: &str = "power = { driver = \"command\", on = [\"on\", \"ID\"], off = [\"off\", \"ID\"] }\n";

    fn board(id: &str, keys: &str) -> String {
        let switch = SWITCH.replace("ID", id);
        format!("[[devices]]\nid = \"{id}\"\nmodel = \"pi4b\"\nboot = \"netboot\"\n{switch}{keys}")
    }

    const HEAD: &str = "name = \"l\"\n[netboot]\naddress = \"127.0.0.1\"\n";
    const ONE: &str =
        "mac = \"dc:a6:32:00:00:01\"\nserial = \"100000009FFEFDEF\"\naddress = \"127.0.0.11\"\n";

    #[test]
    fn a_netbooted_device_can_boot_and_be_entered() {
        let lab = load_text(&format!("{HEAD}{}", board("a", ONE))).unwrap();
        let netboot = lab.netboot.unwrap();
        assert_eq!((netboot.mode, netboot.dhcp_port, netboot.tftp_port), (NetbootMode::Full, 67, 69));
        let wired = &lab.wired[0];
        let device = wired.netboot.as_ref().unwrap();
        assert_eq!((device.serial, device.mac.as_str()), (Some(0x9ffe_fdef), "dc:a6:32:00:00:01"));
        for capability in [Capability::Boot, Capability::Ssh, Capability::Network, Capability::Power] {
            assert!(wired.device.capabilities.contains(&capability), "{capability}");
        }
        assert!(!wired.device.capabilities.contains(&Capability::Reboot), "its end shows on no console");
        let proxy = format!(
            "{HEAD}mode = \"proxy\"\nfirmware = \"fw\"\n{}",
            board("a", "mac = \"dc:a6:32:00:00:01\"\n")
        );
        let lab = load_text(&proxy).unwrap();
        assert!(lab.netboot.unwrap().firmware.unwrap().ends_with("fw"));
        assert_eq!(lab.wired[0].netboot.as_ref().unwrap().address, None);
        let itself = load_text(&format!("{HEAD}{}", board("a", ONE).replace("netboot", "self"))).unwrap();
        assert!(itself.wired[0].netboot.is_none());
        assert!(!itself.wired[0].device.capabilities.contains(&Capability::Boot));
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_key() {
        let one = board("a", ONE);
        let with = |from: &str, to: &str| format!("{HEAD}{}", one.replace(from, to));
        let second = |from: &str, to: &str| {
            let keys = "mac = \"dc:a6:32:00:00:02\"\nserial = \"00000002\"\naddress = \"127.0.0.12\"\n";
            format!("{HEAD}{one}{}", board("b", &keys.replace(from, to)))
        };
        let table = [
            (
                format!("name = \"l\"\n{one}"),
                "/lab.toml:2: devices[0].boot: the lab has no section [netboot]",
            ),
            (with("pi4b", "zero2w"), "/lab.toml:4: devices[0].boot: a zero2w has no Ethernet"),
            (with("mac = \"dc:a6:32:00:00:01\"\n", ""), "/lab.toml:4: devices[0].mac: is missing"),
            (with("address = \"127.0.0.11\"\n", ""), "/lab.toml:4: devices[0].address: is missing"),
            (
                with("127.0.0.11", "127.0.0.1"),
                "/lab.toml:11: devices[0].address: 127.0.0.1 is the coordinator's",
            ),
            (
                with("127.0.0.11", "10.0.0.1"),
                "/lab.toml:11: devices[0].address: 10.0.0.1 is not in the segment",
            ),
            (with("127.0.0.11", "pi"), "/lab.toml:11:11: "),
            (
                with("100000009FFEFDEF", "9ffe"),
                "/lab.toml:10: devices[0].serial: \"9ffe\" is no serial number",
            ),
            (with(&SWITCH.replace("ID", "a"), ""), "/lab.toml:4: devices[0].power: is missing"),
            (with("\"netboot\"", "\"usb\""), "/lab.toml:7:8: devices[0].boot: unknown variant `usb`"),
            (
                second("00000002", "9ffefdef"),
                "/lab.toml:18: devices[1].serial: l-b has the serial of l-a (line 10)",
            ),
            (
                second("127.0.0.12", "127.0.0.11"),
                "/lab.toml:19: devices[1].address: l-b has the address of l-a",
            ),
            (with("mac =", "image = \"x\"\nmac ="), "/lab.toml:9:1: unknown field `image`"),
            (
                one.replace("[[dev", "name = \"l\"\n[netboot]\naddress = \"0.0.0.0\"\n[[dev"),
                "/lab.toml:3: netboot.address: ",
            ),
            (format!("{HEAD}dhcp_port = 0\n{one}"), "/lab.toml:4: netboot.dhcp_port: 0 is no port"),
            (format!("{HEAD}mode = \"half\"\n{one}"), "/lab.toml:4:8: netboot.mode: unknown variant `half`"),
            (format!("{HEAD}mode = \"proxy\"\n{one}"), "/lab.toml:12: devices[0].address: in mode \"proxy\""),
        ];
        for (text, expected) in table {
            let error = load_text(&text).unwrap_err();
            assert!(error.starts_with(expected), "{error:?}, not {expected:?} of\n{text}");
        }
    }
}
