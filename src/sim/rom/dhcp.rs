//! The packets of a boot ROM that asks for an address, byte for byte, and what of an answer it believes.
//!
//! | | 3B | 4, 5 |
//! |---|---|---|
//! | transaction | the same on every board | another each time |
//! | REQUEST | never: the OFFER is taken as it is | as RFC 2131 has it |
//! | where the files are | at the server that answered, whatever it says | `siaddr`, else option 66, else the server |
//! | an offer that is meant for it | option 43 with the entry `Raspberry Pi Boot` and three blanks | option 43 with that entry, or option 66 |
//! | an offer that comes at once | is missed: the ROM runs in circles | is taken |
//! | address and files from two servers | no | yes: both are put together |
//!
//! Sources: raspberrypi/firmware 801, 859, 862, 871, 934; raspberrypi/rpi-eeprom 58, 60, 82, 103, 376, 687; the capture in
//! raspberrypi/documentation, `boot-net.adoc`.

use super::{Chip, Identity};
use std::net::Ipv4Addr;

/// The transaction of every Pi 3.
pub const XID_THREE: u32 = 0x26f3_0339;
/// Option 60 of all of them.
const CLASS: &[u8; 32] = b"PXEClient:Arch:00000:UNDI:002001";
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Options begin after the fixed part and the cookie (RFC 2131 §2).
const OPTIONS: usize = 240;
/// What the entry of the boot menu must begin with.
const ENTRY: &[u8] = b"Raspberry Pi Boot";
/// What that of a 3B must be: its ROM reads three bytes more than it is told the length of.
const ENTRY_THREE: &[u8] = b"Raspberry Pi Boot   ";

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Message type 2.
    Offer,
    /// Message type 5.
    Ack,
    /// Message type 6.
    Nak,
}

/// What a server has answered, as far as a boot ROM looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it is.
    pub kind: Kind,
    /// Who sent it (option 54).
    pub server: Ipv4Addr,
    /// The address it gives, if it gives one.
    pub address: Option<Ipv4Addr>,
    /// Option 1.
    pub mask: Option<Ipv4Addr>,
    /// Option 3, the first.
    pub router: Option<Ipv4Addr>,
    /// Whether it is meant for this board.
    pub is_for_us: bool,
    /// Where the files are, as far as it says.
    pub tftp: Option<Ipv4Addr>,
}

/// DISCOVER.
pub fn discover(board: &Identity, xid: u32) -> Vec<u8> {
    let mut packet = head(board, xid);
    option(&mut packet, 53, &[1]);
    tail(board, &mut packet);
    packet
}

/// REQUEST for an address that a server has offered.
pub fn request(board: &Identity, xid: u32, server: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    let mut packet = head(board, xid);
    option(&mut packet, 53, &[3]);
    option(&mut packet, 50, &address.octets());
    option(&mut packet, 54, &server.octets());
    tail(board, &mut packet);
    packet
}

/// The fixed part: a request over Ethernet, no flags (so answers may come to the card alone), no addresses.
fn head(board: &Identity, xid: u32) -> Vec<u8> {
    let mut packet = vec![1, 1, 6, 0];
    packet.extend(xid.to_be_bytes());
    // Seconds, flags, four addresses.
    packet.extend([0; 2 + 2 + 16]);
    packet.extend(board.mac);
    packet.resize(OPTIONS - COOKIE.len(), 0);
    packet.extend(COOKIE);
    packet
}

fn option(packet: &mut Vec<u8>, code: u8, data: &[u8]) {
    packet.push(code);
    packet.push(u8::try_from(data.len()).unwrap_or(u8::MAX));
    packet.extend(data.iter().take(255));
}

/// What DISCOVER and REQUEST have in common: what is wanted, the PXE options of RFC 4578, the class.
fn tail(board: &Identity, packet: &mut Vec<u8>) {
    const THREE: [u8; 12] = [43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66];
    const LATER: [u8; 14] = [1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135];
    match board.chip {
        Chip::Three => option(packet, 55, &THREE),
        _ => option(packet, 55, &LATER),
    }
    // 0 is "x86 BIOS", which all Pis say; network interface UNDI 2.1.
    option(packet, 93, &[0, 0]);
    option(packet, 94, &[1, 2, 1]);
    option(packet, 97, &machine(board));
    option(packet, 60, CLASS);
    packet.push(255);
}

/// Option 97: type 0, and sixteen bytes.
pub fn machine(board: &Identity) -> Vec<u8> {
    let mut bytes = vec![0];
    let [.., a, b, c, d] = board.mac;
    let name = match board.chip {
        Chip::Three => {
            bytes.extend([b'D'; 16]);
            return bytes;
        }
        Chip::Four | Chip::FourModule => *b"RPi4",
        Chip::Five => *b"RPi5",
    };
    bytes.extend(name);
    bytes.extend(board.chip.revision().to_le_bytes());
    bytes.extend(u32::from_be_bytes([a, b, c, d]).to_le_bytes());
    bytes.extend(board.any_serial().to_le_bytes());
    bytes
}

/// Reads an answer to the transaction; none when it is not for this card, or no answer.
pub fn read(board: &Identity, xid: u32, bytes: &[u8]) -> Option<Answer> {
    let is_ours = bytes.get(..4)? == [2, 1, 6, 0]
        && bytes.get(4..8)? == xid.to_be_bytes()
        && bytes.get(28..34)? == board.mac
        && bytes.get(236..OPTIONS)? == COOKIE;
    if !is_ours {
        return None;
    }
    let given = |at: usize| address(bytes.get(at..at + 4)?).filter(|address| !address.is_unspecified());
    let (mut kind, mut server, mut mask, mut router) = (None, None, None, None);
    let (mut menu, mut name): (_, Option<Ipv4Addr>) = (None, None);
    let mut rest = bytes.get(OPTIONS..)?;
    while let [code, after @ ..] = rest {
        match code {
            0 => rest = after,
            255 => break,
            _ => {
                let (length, after) = after.split_first()?;
                let data = after.get(..usize::from(*length))?;
                match code {
                    1 => mask = address(data),
                    3 => router = data.get(..4).and_then(address),
                    43 => menu = Some(data),
                    53 => kind = data.first().copied(),
                    54 => server = address(data),
                    66 => name = std::str::from_utf8(data).ok().and_then(|text| text.parse().ok()),
                    _ => {}
                }
                rest = &after[data.len()..];
            }
        }
    }
    let entry = menu.and_then(entry);
    let wanted = if board.chip == Chip::Three { ENTRY_THREE } else { ENTRY };
    let named = entry.is_some_and(|entry| entry.starts_with(wanted));
    let server = server?;
    let (is_for_us, tftp) = match board.chip {
        Chip::Three => (named, Some(server)),
        _ => (named || name.is_some(), given(20).or(name).or_else(|| named.then_some(server))),
    };
    let kind = match kind? {
        2 => Kind::Offer,
        5 => Kind::Ack,
        6 => Kind::Nak,
        _ => return None,
    };
    Some(Answer { kind, server, address: given(16), mask, router, is_for_us, tftp })
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

/// The text of the first boot menu entry (sub-option 9) in option 43.
fn entry(mut menu: &[u8]) -> Option<&[u8]> {
    while let [code, length, rest @ ..] = menu {
        let data = rest.get(..usize::from(*length))?;
        if *code == 9 {
            // Type of server, and the text with its length.
            let (length, text) = data.get(2..)?.split_first()?;
            return text.get(..usize::from(*length));
        }
        menu = &rest[data.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn board(chip: Chip) -> Identity {
        Identity { chip, mac: [0xdc, 0xa6, 0x32, 1, 0x36, 0xc2], serial: Some(0x9ffe_fdef) }
    }

    #[test]
    fn a_3b_asks_as_in_the_capture() {
        let packet = discover(&board(Chip::Three), XID_THREE);
        assert_eq!(packet.len(), 320, "as in boot-net.adoc");
        let head = "010106 00 26f30339 0000 0000 00000000 00000000 00000000 00000000 dca6320136c2";
        let options = "63825363 350101 370c2b3c4380818283848586 8742 5d020000 5e03010201 \
                       61110044444444444444444444444444444444 3c20";
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&packet[..34]), head.replace(' ', ""));
        assert!(packet[34..236].iter().all(|byte| *byte == 0));
        assert_eq!(hex(&packet[236..287]), options.replace(' ', ""));
        assert_eq!(&packet[287..], [CLASS.as_slice(), &[255]].concat());
    }

    #[test]
    fn a_4_says_who_it_is() {
        let told = machine(&board(Chip::Four));
        assert_eq!(&told[..5], b"\0RPi4");
        assert_eq!(told[5..9], 0x00c0_3111_u32.to_le_bytes());
        assert_eq!(told[9..13], [0xc2, 0x36, 0x01, 0x32]);
        assert_eq!(told[13..], 0x9ffe_fdef_u32.to_le_bytes());
        assert_eq!(&machine(&board(Chip::Five))[..5], b"\0RPi5");
    }

    /// An offer with these options.
    fn offer(board: &Identity, next: [u8; 4], options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = head(board, 7);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 0, 0, 11]);
        bytes[20..24].copy_from_slice(&next);
        option(&mut bytes, 53, &[2]);
        option(&mut bytes, 54, &[10, 0, 0, 1]);
        for (code, data) in options {
            option(&mut bytes, *code, data);
        }
        bytes.push(255);
        bytes
    }

    #[test]
    fn what_is_believed_differs_between_boards() {
        let menu = |entry: &[u8]| {
            let length = u8::try_from(entry.len()).unwrap();
            let head: &[u8] = &[6, 1, 3, 10, 4, 0, b'P', b'X', b'E', 9, length + 3, 0, 0, length];
            [head, entry, &[255]].concat()
        };
        let (short, long) = (menu(b"Raspberry Pi Boot"), menu(b"Raspberry Pi Boot   "));
        let (own, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 9));
        type Options<'a> = &'a [(u8, &'a [u8])];
        type Case<'a> = (Chip, [u8; 4], Options<'a>, bool, Option<Ipv4Addr>);
        let table: &[Case<'_>] = &[
            (Chip::Three, [0; 4], &[(43, &long)], true, Some(own)),
            (Chip::Three, [0; 4], &[(43, &short)], false, Some(own)),
            (Chip::Three, [10, 0, 0, 9], &[(43, &long), (66, b"10.0.0.9")], true, Some(own)),
            (Chip::Four, [10, 0, 0, 9], &[(43, &short)], true, Some(other)),
            (Chip::Four, [0; 4], &[(43, &long)], true, Some(own)),
            (Chip::Four, [0; 4], &[(66, b"10.0.0.9")], true, Some(other)),
            (Chip::Four, [0; 4], &[(66, b"10.0.0.9\0")], false, None),
            (Chip::Five, [0; 4], &[], false, None),
        ];
        for (chip, next, options, is_for_us, tftp) in table {
            let board = board(*chip);
            let read = read(&board, 7, &offer(&board, *next, options)).unwrap();
            assert_eq!((read.is_for_us, read.tftp), (*is_for_us, *tftp), "{chip:?} {options:?}");
            assert_eq!((read.kind, read.address), (Kind::Offer, Some(Ipv4Addr::new(10, 0, 0, 11))));
        }
        let four = board(Chip::Four);
        assert_eq!(read(&four, 8, &offer(&four, [0; 4], &[])), None, "another's transaction");
        let other = Identity { mac: [2; 6], ..four.clone() };
        assert_eq!(read(&other, 7, &offer(&four, [0; 4], &[])), None, "another's card");
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..400), whole in any::<bool>()) {
            let board = board(Chip::Four);
            if whole && bytes.len() > 240 {
                bytes[..8].copy_from_slice(&[2, 1, 6, 0, 0, 0, 0, 7]);
                bytes[28..34].copy_from_slice(&board.mac);
                bytes[236..240].copy_from_slice(&COOKIE);
            }
            read(&board, 7, &bytes);
        }
    }
}
