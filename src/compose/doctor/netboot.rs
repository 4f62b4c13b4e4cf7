//! What a lab's netboot needs of this machine: its address, its ports, and the boards' firmware.

use super::super::netboot;
use crate::cli::doctor::Finding;
use crate::config::lab::Lab;
use crate::config::netboot::Netboot;
use crate::netboot::board::Board;
use crate::netboot::dhcp::{DhcpOptions, DhcpServer, Mode, Responder};
use crate::netboot::tftp::{TftpOptions, TftpServer};
use crate::support::chain::Chain;
use crate::support::segment::Segment;
use std::net::{SocketAddr, UdpSocket};

/// Looks at it, where the lab has some; nothing is served.
pub(super) fn look(lab: &Lab, findings: &mut Vec<Finding>) {
    let Some(settings) = &lab.netboot else { return };
    findings.push(address(settings));
    findings.push(dhcp(settings));
    findings.push(tftp(settings));
    findings.push(firmware(lab, settings));
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
