//! What is done with bytes from outside, whatever they are, and what must hold then: `docs/fuzzing.md`.
#![allow(clippy::unwrap_used, reason = "what must hold, holds")]

pub(crate) mod dhcp;
pub(crate) mod files;
pub(crate) mod plug;
pub(crate) mod requests;
pub(crate) mod stages;
pub(crate) mod tftp;

/// One target: its name, good inputs to begin with, and what is done with one.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) corpus: fn() -> Vec<Vec<u8>>,
    pub(crate) run: fn(&[u8]),
}

/// All of them.
pub(crate) const TARGETS: [Target; 6] = [
    Target { name: "requests", corpus: requests::corpus, run: requests::run },
    Target { name: "dhcp", corpus: dhcp::corpus, run: dhcp::run },
    Target { name: "tftp", corpus: tftp::corpus, run: tftp::run },
    Target { name: "stages", corpus: stages::corpus, run: stages::run },
    Target { name: "plug", corpus: plug::corpus, run: plug::run },
    Target { name: "files", corpus: files::corpus, run: files::run },
];

/// A packet with what is said of it in one byte, as [`frames`] reads it.
pub(crate) fn frame(tag: u8, packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap();
    [&[tag], &length.to_be_bytes()[..], packet].concat()
}

/// Packets one after the other; the last may be shorter than it says. At most 200.
pub(crate) fn frames(data: &[u8]) -> Vec<(u8, &[u8])> {
    let (mut rest, mut found) = (data, Vec::new());
    while let [tag, high, low, packets @ ..] = rest
        && found.len() < 200
    {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(packets.len());
        let (packet, others) = packets.split_at(length);
        found.push((*tag, packet));
        rest = others;
    }
    found
}
