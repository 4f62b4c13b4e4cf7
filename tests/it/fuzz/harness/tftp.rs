//! TFTP packets of a few clients to a table of transfers: requests, acknowledgements, errors, time.

use super::{frame, frames};
use pilab::netboot::tftp::table::{Output, Table, What};
use pilab::netboot::tftp::transfer::Patience;
use pilab::netboot::tftp::{BootPath, Content, Limits, Refusal, packet};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

const TRANSFERS: usize = 4;
const MAX_BLOCK: u16 = 1468;

/// Bit 3 of a tag: to the port where requests are made. The two below say who sends it, the four above when.
const ASKS: u8 = 8;

fn request(text: &str) -> Vec<u8> {
    [b"\0\x01", text.replace('|', "\0").as_bytes(), b"\0"].concat()
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let ack = |block: u16| [&[0, 4][..], &block.to_be_bytes()].concat();
    let acks = |tag, last: u16| (0..=last).map(|block| frame(tag, &ack(block))).collect::<Vec<_>>().concat();
    let asks = |text: &str| frame(ASKS, &request(text));
    vec![
        [asks("large|octet|blksize|1468|tsize|0|windowsize|4"), acks(0, 9)].concat(),
        [asks("large|octet|blksize|8|windowsize|65535"), acks(16, 40)].concat(),
        [asks("small|octet"), acks(0, 2), asks("//small|octet|tsize|0"), frame(0, b"\0\x05\0\0stop\0")]
            .concat(),
        [asks("empty|octet"), frame(0xf0, &ack(0)), frame(0xf0, &ack(1)), frame(0xf0, &[])].concat(),
        [asks("../../etc/shadow|octet"), asks("a/%2e%2e/b|octet"), asks("/|octet"), asks("a\\..\\b|octet")]
            .concat(),
        [
            asks("small|netascii"),
            asks("small|octet|blksize|0"),
            asks("small|octet|blksize|99999999999999999999"),
        ]
        .concat(),
        [asks("|octet|||"), frame(ASKS, b"\0\x02w\0octet\0"), frame(ASKS, &[0; 2000]), frame(ASKS, b"\0")]
            .concat(),
        (0..8_u8)
            .map(|from| frame(ASKS | from, &request("large|octet|timeout|255|rollover|1")))
            .collect::<Vec<_>>()
            .concat(),
        frame(ASKS, &request("small|octet")).repeat(150),
    ]
}

/// The files that there are.
fn open(_: SocketAddr, path: &BootPath) -> Result<Content, Refusal> {
    let text = path.as_str();
    let climbs = text.split('/').any(|part| part == ".." || part == ".");
    assert!(!climbs && !text.starts_with('/') && !text.contains(['\0', '\\']), "{text:?}");
    match text {
        "empty" => Ok(Content::Bytes(vec![].into())),
        "small" => Ok(Content::Bytes(vec![1; 512].into())),
        "large" => Ok(Content::Bytes(vec![2; 100_000].into())),
        _ => Err(Refusal::NotFound),
    }
}

pub(crate) fn run(data: &[u8]) {
    let limits = Limits {
        transfers: TRANSFERS,
        per_address: 2,
        requests: 100,
        max_block: MAX_BLOCK,
        patience: Patience::default(),
    };
    let mut table = Table::new(limits, 2);
    let mut now = Instant::now();
    for (tag, bytes) in frames(data) {
        now += Duration::from_millis(u64::from(tag >> 4) * 300);
        for output in table.on_time(now) {
            check(&mut table, &output);
        }
        let from = tag & 7;
        let peer = SocketAddr::from(([192, 0, 2, from / 2], 1024 + u16::from(from)));
        let output = if tag & ASKS == 0 {
            table.on_packet(peer, usize::from(from % 2), bytes, now)
        } else {
            table.on_request(peer, bytes, &open, now)
        };
        if let Some(output) = output {
            assert_eq!(output.peer, peer, "whoever asked is answered");
            check(&mut table, &output);
        }
        assert!(table.len() <= TRANSFERS);
        assert!(table.events().count() <= 16, "events are bounded by packets");
        assert!(table.deadline().is_none_or(|deadline| deadline <= now + Duration::from_secs(256)));
    }
    // Nobody is heard any more: all of it ends.
    for _ in 0..100 {
        let Some(deadline) = table.deadline() else { return };
        for output in table.on_time(deadline) {
            check(&mut table, &output);
        }
    }
    assert!(table.is_empty(), "a transfer goes on without its client");
}

/// What is sent is a packet of ours, or blocks that the file has.
fn check(table: &mut Table, output: &Output) {
    assert!(output.socket < 2);
    match &output.what {
        What::Packet(bytes) => {
            assert!((4..=usize::from(MAX_BLOCK) + 4).contains(&bytes.len()), "{bytes:?}");
            assert!(packet::decode(bytes).is_ok(), "{bytes:?}");
        }
        What::Data(blocks) => {
            let (bytes, size) = table.blocks(output.peer, blocks).unwrap().unwrap();
            assert!((8..=MAX_BLOCK).contains(&size) && blocks.count > 0);
            assert!(
                bytes.len() == blocks.bytes && bytes.len() <= usize::from(size) * usize::from(blocks.count)
            );
        }
    }
}
