//! What a lab's netboot needs of this machine: its address, its ports, and the boards' firmware.

use super::super::image::built;
use super::super::netboot;
use crate::cli::doctor::Finding;
use crate::config::lab::Lab;
use crate::config::netboot::{Netboot, NetbootMode};
use crate::model::device::Arch;
use crate::netboot::board::Board;
use crate::netboot::dhcp::{DhcpOptions, DhcpServer, Mode, Responder, probe};
use crate::netboot::tftp::{TftpOptions, TftpServer};
use crate::support::chain::Chain;
use crate::support::segment::Segment;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// What is said of other DHCP servers.
const OTHERS: &str = "other DHCP servers";

/// Looks at it, where the lab has some; nothing is served.
pub(super) async fn look(lab: &Lab, findings: &mut Vec<Finding>) {
    let Some(settings) = &lab.netboot else { return };
    findings.push(address(settings));
    findings.push(dhcp(settings));
    findings.extend(others(settings).await);
    findings.push(tftp(settings));
    findings.push(firmware(lab, settings));
    findings.extend(kernel(lab));
}

fn interface(settings: &Netboot) -> Option<String> {
    settings.interface.clone().or_else(|| Some(Segment::of(settings.address)?.interface))
}

fn address(settings: &Netboot) -> Finding {
    const PART: &str = "netboot address";
    let address = settings.address;
    match (UdpSocket::bind((address, 0)), interface(settings)) {
        (Ok(_), Some(interface)) => Finding::good(PART, format!("{interface} has {address}")),
        (Ok(_), None) => {
            let hint = "give it a mask: ip addr add ADDRESS/24 dev INTERFACE".to_owned();
            Finding::bad(PART, format!("{address} is on no segment"), Some(hint))
        }
        (Err(error), _) => {
            let hint = format!("ip addr add {address}/24 dev INTERFACE");
            Finding::bad(PART, format!("{address}: {error}"), Some(hint))
        }
    }
}

fn dhcp(settings: &Netboot) -> Finding {
    let part = format!("DHCP port {}", settings.dhcp_port);
    let Some(interface) = interface(settings) else {
        return Finding::bad(part, "there is no interface to serve", None);
    };
    let (server_port, client_port) = (settings.dhcp_port, settings.dhcp_client_port);
    let options = DhcpOptions { interface: interface.clone(), server_port, client_port };
    let responder = Responder::new(settings.address, Mode::Beside { server: None }, []);
    match DhcpServer::bind(options, responder) {
        Ok(_) => Finding::good(part, format!("can be opened on {interface}")),
        Err(error) => Finding::bad(part, Chain(&error).to_string(), error.hint()),
    }
}

/// Who else lends addresses to the boards.
async fn others(settings: &Netboot) -> Option<Finding> {
    if settings.address.is_loopback() {
        return None;
    }
    let interface = interface(settings)?;
    let (server_port, client_port) = (settings.dhcp_port, settings.dhcp_client_port);
    let options = DhcpOptions { interface: interface.clone(), server_port, client_port };
    match probe::servers(&options).await {
        Ok(servers) => Some(judge(settings.mode, &interface, &servers)),
        Err(error) => {
            let hint = "nobody knows whether another server answers the boards: run this as root, and end a \
                        DHCP client that has the port";
            Some(Finding::doubtful(OTHERS, Chain(&error).to_string(), hint))
        }
    }
}

/// One server lends addresses: the lab, or the one beside which it is.
fn judge(mode: NetbootMode, interface: &str, servers: &BTreeSet<Ipv4Addr>) -> Finding {
    let named: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let named = named.join(", ");
    match (mode, servers.len()) {
        (NetbootMode::Full, 0) => Finding::good(OTHERS, format!("none on {interface}")),
        (NetbootMode::Full, _) => {
            let hint =
                "end it, keep it off this wire, or leave the addresses to it: netboot.mode = \"proxy\"";
            Finding::bad(
                OTHERS,
                format!("{named} lends addresses on {interface}, too"),
                Some(hint.to_owned()),
            )
        }
        (NetbootMode::Proxy, 0) => {
            let hint = "start it, or let the lab lend them: netboot.mode = \"full\"";
            Finding::doubtful(OTHERS, format!("nobody lends boards an address on {interface}"), hint)
        }
        (NetbootMode::Proxy, 1) => Finding::good(OTHERS, format!("{named} lends addresses on {interface}")),
        (NetbootMode::Proxy, _) => {
            let hint = "boards take the quicker offer: keep one of them";
            Finding::doubtful(OTHERS, format!("{named} lend addresses on {interface}"), hint)
        }
    }
}

fn tftp(settings: &Netboot) -> Finding {
    let part = format!("TFTP port {}", settings.tftp_port);
    let address = SocketAddr::from((settings.address, settings.tftp_port));
    match TftpServer::bind(TftpOptions::new(address)) {
        Ok(_) => Finding::good(part, format!("can be opened on {}", settings.address)),
        Err(error) => {
            let hint =
                error.hint().map(|hint| format!("{hint}; a coordinator of this lab that runs has it, too"));
            Finding::bad(part, Chain(&error).to_string(), hint)
        }
    }
}

/// Whether the image's kernel knows all of the boards. An image that is not there is told of elsewhere.
fn kernel(lab: &Lab) -> Option<Finding> {
    const PART: &str = "kernel for the boards";
    let mut boards = lab.netbooted().filter_map(|wired| Board::try_from(wired.device.model).ok());
    let board = boards.find(|board| matches!(board, Board::Pi5 | Board::Pi500 | Board::Cm5))?;
    let release = built(&lab.image, Arch::Aarch64).ok()??.manifest.kernel_release;
    if !is_too_old_for_five(&release) {
        return Some(Finding::good(PART, release));
    }
    let hint = "take image = \"trixie-backports\", or a kernel of Raspberry Pi's";
    Some(Finding::doubtful(
        PART,
        format!("{release} knows neither Ethernet nor card slot of a {board}"),
        hint,
    ))
}

/// Debian's kernels up to 6.12 are; Raspberry Pi's own, which say so in their names, are not.
fn is_too_old_for_five(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    version <= (6, 12) && !["rpi", "rpt"].iter().any(|mark| release.contains(mark))
}

fn firmware(lab: &Lab, settings: &Netboot) -> Finding {
    const PART: &str = "boards' firmware";
    let firmware = match netboot::firmware(settings) {
        Ok(firmware) => firmware,
        Err(error) => {
            return Finding::bad(PART, Chain(&error).to_string(), error.hint().map(str::to_owned));
        }
    };
    let boards = lab.netbooted().filter_map(|wired| Board::try_from(wired.device.model).ok());
    let lacks: Vec<String> = boards
        .filter_map(|board| firmware.lacks(board).map(|file| format!("a {board} needs {file}")))
        .collect();
    match lacks.first() {
        None => Finding::good(PART, "each board has what it needs before its kernel"),
        Some(lack) => Finding::bad(PART, lack.clone(), Some(netboot::FIRMWARE_HINT.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Condition;

    #[test]
    fn a_pi_5_wants_a_newer_kernel_or_its_makers() {
        for (release, old) in [
            ("6.1.0-44-arm64", true),
            ("6.12.63+deb13-arm64", true),
            ("6.12.47+rpt-rpi-2712", false),
            ("6.13.1-arm64", false),
            ("7.3.1+deb13-arm64", false),
        ] {
            assert_eq!(is_too_old_for_five(release), old, "{release}");
        }
    }

    #[test]
    fn one_server_lends_addresses() {
        let servers = |count: u8| (1..=count).map(|last| Ipv4Addr::new(10, 0, 0, last)).collect();
        for (mode, count, condition) in [
            (NetbootMode::Full, 0, Condition::Good),
            (NetbootMode::Full, 1, Condition::Bad),
            (NetbootMode::Proxy, 0, Condition::Doubtful),
            (NetbootMode::Proxy, 1, Condition::Good),
            (NetbootMode::Proxy, 2, Condition::Doubtful),
        ] {
            let finding = judge(mode, "eth1", &servers(count));
            assert_eq!(finding.condition, condition, "{mode:?} {count}: {}", finding.seen);
            assert_eq!(finding.hint.is_some(), condition != Condition::Good);
        }
    }
}
