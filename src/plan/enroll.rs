//! Which network card, serial number and serial line belong to which board: what was heard while it alone had power.
//!
//! ```text
//!  all off ──► lines that speak all the same: noise
//!  one on  ──► cards that ask by DHCP, lines that speak ──► its own, if it is one each and nobody else's
//! ```

use crate::model::id::DeviceId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What was heard while one board alone had power.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Cards that asked for an address, by MAC address, with the serial number that they told.
    pub cards: BTreeMap<String, Option<u32>>,
    /// Lines that spoke.
    pub lines: BTreeSet<String>,
}

/// What can be listened to at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ears {
    /// There is a network to listen to.
    pub cards: bool,
    /// There are lines to listen to.
    pub lines: bool,
}

/// What a board is wired to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The board.
    pub device: DeviceId,
    /// Its MAC address.
    pub mac: Option<String>,
    /// The low 32 bits of its serial number.
    pub serial: Option<u32>,
    /// Its line.
    pub line: Option<String>,
    /// Why something of it is not known.
    pub doubts: Vec<Doubt>,
}

/// Why something is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing was heard of it on the network.
    NoCard,
    /// Several cards asked.
    Cards(Vec<String>),
    /// The card asked while another board alone had power too.
    CardOfAnother(String, DeviceId),
    /// No line spoke.
    NoLine,
    /// Several lines spoke.
    Lines(Vec<String>),
    /// The line spoke while another board alone had power too.
    LineOfAnother(String, DeviceId),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCard => f.write_str(
                "no card asked for an address: its supply, its relay, its cable, BOOT_ORDER without network",
            ),
            Self::Cards(cards) => write!(f, "several cards asked: {}", cards.join(", ")),
            Self::CardOfAnother(card, other) => write!(
                f,
                "{card} asked with {other} alone on too: one relay switches both, or one of the two does not go off"
            ),
            Self::NoLine => f.write_str(
                "no serial line spoke: TX and RX swapped, no ground, BOOT_UART=0, or its adapter was not listened to",
            ),
            Self::Lines(lines) => write!(f, "several serial lines spoke: {}", lines.join(", ")),
            Self::LineOfAnother(line, other) => write!(
                f,
                "{line} spoke with {other} alone on too: one relay switches both, or one of the two does not go off"
            ),
        }
    }
}

/// What each board is wired to. `noise` are the lines that spoke while all were off.
pub fn judge(ears: Ears, noise: &BTreeSet<String>, boards: &[(DeviceId, Heard)]) -> Vec<Enrolled> {
    let other = |own: &DeviceId, has: &dyn Fn(&Heard) -> bool| {
        boards.iter().find(|(device, heard)| device != own && has(heard)).map(|(device, _)| device.clone())
    };
    let judged = |(device, heard): &(DeviceId, Heard)| {
        let mut enrolled =
            Enrolled { device: device.clone(), mac: None, serial: None, line: None, doubts: Vec::new() };
        let cards: Vec<&String> = heard.cards.keys().collect();
        match cards.as_slice() {
            _ if !ears.cards => {}
            [] => enrolled.doubts.push(Doubt::NoCard),
            [card] => match other(device, &|heard| heard.cards.contains_key(*card)) {
                Some(other) => enrolled.doubts.push(Doubt::CardOfAnother((*card).clone(), other)),
                None => {
                    enrolled.mac = Some((*card).clone());
                    enrolled.serial = heard.cards.get(*card).copied().flatten();
                }
            },
            several => {
                enrolled.doubts.push(Doubt::Cards(several.iter().map(|card| (*card).clone()).collect()));
            }
        }
        let lines: Vec<&String> = heard.lines.difference(noise).collect();
        match lines.as_slice() {
            _ if !ears.lines => {}
            [] => enrolled.doubts.push(Doubt::NoLine),
            [line] => match other(device, &|heard| heard.lines.contains(*line)) {
                Some(other) => enrolled.doubts.push(Doubt::LineOfAnother((*line).clone(), other)),
                None => enrolled.line = Some((*line).clone()),
            },
            several => {
                enrolled.doubts.push(Doubt::Lines(several.iter().map(|line| (*line).clone()).collect()));
            }
        }
        enrolled
    };
    boards.iter().map(judged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Ears = Ears { cards: true, lines: true };

    fn id(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    fn heard(cards: &[(&str, Option<u32>)], lines: &[&str]) -> Heard {
        Heard {
            cards: cards.iter().map(|(mac, serial)| ((*mac).to_owned(), *serial)).collect(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn what_was_heard_of_one_board_alone_is_its_own() {
        let boards = [
            (id("l-a"), heard(&[("aa", Some(7))], &["tty1", "noisy"])),
            (id("l-b"), heard(&[("bb", None)], &["tty2"])),
        ];
        let found = judge(ALL, &["noisy".to_owned()].into(), &boards);
        assert_eq!(
            (found[0].mac.as_deref(), found[0].serial, found[0].line.as_deref()),
            (Some("aa"), Some(7), Some("tty1"))
        );
        assert_eq!(
            (found[1].mac.as_deref(), found[1].serial, found[1].line.as_deref()),
            (Some("bb"), None, Some("tty2"))
        );
        assert!(found.iter().all(|board| board.doubts.is_empty()), "{found:?}");
    }

    #[test]
    fn whatever_is_not_certain_is_not_said() {
        let boards = [
            (id("l-a"), heard(&[], &[])),
            (id("l-b"), heard(&[("bb", None), ("cc", None)], &["tty1", "tty2"])),
        ];
        let found = judge(ALL, &BTreeSet::new(), &boards);
        assert_eq!(found[0].doubts, [Doubt::NoCard, Doubt::NoLine]);
        let several = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        assert_eq!(
            found[1].doubts,
            [Doubt::Cards(several(["bb", "cc"])), Doubt::Lines(several(["tty1", "tty2"]))]
        );
        // Two boards behind one relay, or one that cannot be switched off.
        let both = heard(&[("aa", None)], &["tty1"]);
        let found = judge(ALL, &BTreeSet::new(), &[(id("l-a"), both.clone()), (id("l-b"), both.clone())]);
        let another = |name: &str| {
            vec![
                Doubt::CardOfAnother("aa".to_owned(), id(name)),
                Doubt::LineOfAnother("tty1".to_owned(), id(name)),
            ]
        };
        assert_eq!((&found[0].doubts, &found[1].doubts), (&another("l-b"), &another("l-a")));
        assert!(found.iter().all(|board| board.mac.is_none() && board.line.is_none()));
        let deaf = Ears { cards: false, lines: true };
        let found = judge(deaf, &BTreeSet::new(), &[(id("l-a"), heard(&[], &["tty1"]))]);
        assert_eq!((found[0].line.as_deref(), found[0].doubts.len()), (Some("tty1"), 0));
    }
}
