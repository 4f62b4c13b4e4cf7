//! What boot loaders and firmware print on the console, as captured in the issues that the parent names.

use super::{Chip, Identity, Network};
use std::net::Ipv4Addr;

/// The EEPROM's date and build: September 2025, the first that counts blocks beyond 65535.
const BUILD: (&str, u32) = ("2025/09/23", 1_758_636_000);

fn dotted(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// At power-on or reset. `cause` is the register that tells which: bit 12 power, bit 5 watchdog or restart.
pub(super) fn start(board: &Identity, cause: u32) -> String {
    let (serial, revision) = (board.any_serial(), board.chip.revision());
    let (date, build) = BUILD;
    let mode = format!(
        "BOOTMODE: 0x06 partition 0 build-ts BUILD_TIMESTAMP={build} serial {serial:08x} boardrev {revision:x}\r\n"
    );
    match board.chip {
        // The ROM itself says nothing.
        Chip::Three => String::new(),
        Chip::Four | Chip::FourModule => format!(
            "RPi: BOOTLOADER release VERSION:26826259 DATE: {date} TIME: 14:00:00\r\n{mode}PM_RSTS: 0x{cause:08x}\r\n\
             part 00000000 reset_info 00000000\r\nuSD voltage 3.3V\r\nInitialising SDRAM 'Micron' 32 Gb x1 total-size: 32 Gb 3200\r\n"
        ),
        Chip::Five => format!(
            "RPi: BOOTSYS release VERSION:69471177 DATE: {date} TIME: 14:00:00\r\n{mode}AON_RESET: 00000003 PM_RSTS {cause:08x}\r\n\
             Initialising SDRAM rank 1 total-size: 32 Gbit 4267\r\n\
             RPi: BOOTLOADER release VERSION:69471177 DATE: {date} TIME: 14:00:00\r\n"
        ),
    }
}

/// The network is tried.
pub(super) fn network(board: &Identity) -> String {
    match board.chip {
        Chip::Three => String::new(),
        _ => format!(
            "Boot mode: NETWORK (02) order f\r\nNETWORK: {} wait for link TFTP: 2\r\n",
            dotted(&board.mac)
        ),
    }
}

/// The link is up.
pub(super) fn link(board: &Identity) -> &'static str {
    match board.chip {
        Chip::Three => "",
        _ => "LINK STATUS: speed: 1000 full duplex\r\nLink ready\r\n",
    }
}

/// An answer of a DHCP server has come.
pub(super) fn heard(board: &Identity, server: Ipv4Addr, what: &str) -> String {
    match board.chip {
        Chip::Three => String::new(),
        _ => format!("DHCP src: 00:00:00:00:00:00 {server}\r\nDHCP recv {what}\r\n"),
    }
}

/// There is an address.
pub(super) fn address(board: &Identity, network: &Network) -> String {
    let Network { address, mask, router, tftp } = network;
    match board.chip {
        Chip::Three => String::new(),
        _ => format!("NET {address} {mask} gw {} tftp {tftp}\r\n", router.unwrap_or(Ipv4Addr::UNSPECIFIED)),
    }
}

/// A file is asked for.
pub(super) fn ask(board: &Identity, server: Ipv4Addr, path: &str) -> String {
    match board.chip {
        Chip::Three => String::new(),
        _ => format!("TFTP_GET: 00:00:00:00:00:00 {server} {path}\r\n"),
    }
}

/// A file has come. A 3 says so once `bootcode.bin` runs.
pub(super) fn have(board: &Identity, name: &str, length: usize) -> String {
    match board.chip {
        Chip::Three if name == "bootcode.bin" => "\r\nRaspberry Pi Bootcode\r\n".to_owned(),
        Chip::Three => format!("Read File: {name}, {length} (bytes)\r\n"),
        _ => format!("TFTP: complete {length}\r\nRead {name} bytes {length:>8} hnd 0x0\r\n"),
    }
}

/// The server refuses a file.
pub(super) fn refused(board: &Identity, words: &str) -> String {
    match board.chip {
        Chip::Three => String::new(),
        _ => format!("TFTP 1: {words}\r\n"),
    }
}

/// The firmware of a 3 or 4 begins.
pub(super) fn firmware(board: &Identity, speaks: bool) -> String {
    match board.chip {
        Chip::Four | Chip::FourModule => {
            let begun =
                "MEM GPU: 76 ARM: 948 TOTAL: 1024\r\nStarting start4.elf @ 0xfec00200 partition 0\r\n\r\n";
            let more = if speaks { "MESS:00:00:05.144571:0: arasan: arasan_emmc_open\r\n" } else { "" };
            format!("{begun}{more}")
        }
        Chip::Three if speaks => "MESS:00:00:05.144571:0: brfs: File read: /mfs/sd/config.txt\r\n".to_owned(),
        Chip::Three | Chip::Five => String::new(),
    }
}

/// The kernel is about to run.
pub(super) fn handover(board: &Identity, speaks: bool, kernel: &str, length: usize) -> String {
    match board.chip {
        Chip::Five => format!(
            "Loaded '{kernel}' to 0x200000 size 0x{length:x}\r\nKernel relocated to 200000\r\n\
             Device tree loaded to 0x2efec800 (size 0x134c8)\r\nStarting OS 5230 ms\r\nNOTICE:  BL31: v2.6(release):v2.6-240-gfc45bc492\r\n"
        ),
        _ if speaks => format!(
            "MESS:00:00:06.402118:0: Loaded '{kernel}' to 0x80000 size 0x{length:x}\r\n\
             MESS:00:00:06.424950:0: Device tree loaded to 0x2eff2400 (size 0xdb5d)\r\n\
             MESS:00:00:06.431662:0: uart: Set PL011 baud rate to 103448.300000 Hz\r\n\
             MESS:00:00:06.451211:0: uart: Baud rate change done...\r\nMESS:00:00:06.454101:0: uart: Baud rate\r\n"
        ),
        _ => String::new(),
    }
}

/// It cannot go on.
pub(super) fn fatal(board: &Identity, words: &str) -> String {
    match board.chip {
        Chip::Three => String::new(),
        _ => format!("BOOT ERROR: code 0000 - '{words}'\r\n"),
    }
}

/// It tries once more, or all over.
pub(super) fn again(board: &Identity, round: u32, most: u32) -> String {
    match board.chip {
        Chip::Three => String::new(),
        _ => format!("NETBOOT init failed\r\nRetry NETWORK {round} max {most}\r\n"),
    }
}
