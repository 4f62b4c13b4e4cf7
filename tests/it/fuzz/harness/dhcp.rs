//! DHCP packets, in any order and number, to a responder that lends addresses and to one beside another server.

use super::{frame, frames};
use pilab::model::id::DeviceId;
use pilab::netboot::board::Board;
use pilab::netboot::dhcp::responder::Outgoing;
use pilab::netboot::dhcp::{Client, Mode, Responder, wire};
use pilab::netboot::mac::Mac;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::Instant;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 1);
const PI_3: Mac = Mac([0xb8, 0x27, 0xeb, 0, 0, 3]);
const PI_4: Mac = Mac([0xdc, 0xa6, 0x32, 0, 0, 4]);

fn clients() -> [Client; 2] {
    let client = |name: &str, mac, board, serial, last| Client {
        device: DeviceId::new(name).unwrap(),
        mac,
        board,
        serial,
        address: Ipv4Addr::new(10, 1, 2, last),
    };
    [
        client("lab-three", PI_3, Board::Pi3B, None, 3),
        client("lab-four", PI_4, Board::Pi4B, Some(0x9ffe_fdef), 4),
    ]
}

/// A packet as a client or a server sends it: the fixed part, then options and an end.
fn packet(operation: u8, mac: Mac, options: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![operation, 1, 6, 0, 0x26, 0xf3, 3, 0x39];
    bytes.extend([0; 20]);
    bytes.extend(mac.0);
    bytes.extend([0; 10 + 64 + 128]);
    bytes.extend([99, 130, 83, 99]);
    bytes.extend(options.concat());
    bytes.push(255);
    bytes
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let class = [&[60, 32][..], b"PXEClient:Arch:00000:UNDI:002001"].concat();
    let machine =
        [&[97, 17, 0][..], b"RPi4", &[0x11, 0x31, 0xc0, 0, 0x32, 0, 0, 4, 0xef, 0xfd, 0xfe, 0x9f]].concat();
    let discover = |mac| packet(1, mac, &[&[53, 1, 1], &class, &machine]);
    let stranger = discover(Mac([2, 0, 0, 0, 0, 9]));
    let request = packet(1, PI_4, &[&[53, 1, 3, 54, 4, 10, 1, 2, 1, 50, 4, 10, 1, 2, 4], &class]);
    // It names another server; lengths of nothing, of all, of more than there is; no end; only its beginning.
    let spoofed = packet(1, PI_4, &[&[53, 1, 3, 54, 4, 10, 9, 9, 9, 50, 4, 10, 1, 2, 4]]);
    let offer = packet(2, PI_4, &[&[53, 1, 2, 54, 4, 10, 9, 9, 9]]);
    let lies = packet(1, PI_3, &[&[53, 0, 53, 1, 1, 82, 255, 1, 54, 0, 97, 200]]);
    let cut = &request[..request.len() - 9];
    let flood = frame(0, &discover(PI_3)).repeat(60);
    vec![
        [frame(0, &discover(PI_4)), frame(10, &request), frame(1, &request)].concat(),
        [frame(0, &discover(PI_3)), frame(1, &discover(PI_3)), frame(200, &stranger)].concat(),
        [frame(0, &spoofed), frame(0, &offer), frame(0, &lies), frame(0, cut)].concat(),
        flood,
        frame(0, &[1, 1, 6]),
        frame(0, &[0; 1600]),
    ]
}

pub(crate) fn run(data: &[u8]) {
    let (mask, time) = (Ipv4Addr::new(255, 255, 255, 0), Duration::from_secs(3600));
    let modes = [
        Mode::Full { mask, router: Some(SERVER), name_servers: vec![SERVER], time },
        Mode::Beside { server: None },
    ];
    for mode in modes {
        let lends = matches!(mode, Mode::Full { .. });
        let mut responder = Responder::new(SERVER, mode, clients());
        let mut now = Instant::now();
        let mut sent = 0;
        for (tag, packet) in frames(data) {
            now += Duration::from_millis(u64::from(tag) * 10);
            responder.on_packet(packet, now);
            for outgoing in responder.due(now) {
                check(&outgoing, lends);
                sent += 1;
            }
            assert!(responder.events().count() <= 4, "events are bounded by packets");
        }
        // The last of each device may wait for its time.
        if let Some(deadline) = responder.deadline() {
            assert!(deadline <= now + Duration::from_secs(5), "nobody waits for long");
            responder.due(deadline).iter().for_each(|outgoing| check(outgoing, lends));
        }
        assert!(sent <= frames(data).len(), "no packet is answered twice");
    }
}

/// An answer is a short one of ours to a device of ours, and gives it its own address or none.
fn check(outgoing: &Outgoing, lends: bool) {
    let bytes = &outgoing.bytes;
    assert!((300..=548).contains(&bytes.len()), "{} bytes: RFC 2131 §2", bytes.len());
    let answer = wire::decode(bytes).unwrap();
    let client = clients().into_iter().find(|client| client.mac == answer.mac).unwrap();
    assert!(answer.is_reply && answer.server == Some(SERVER), "{answer:?}");
    let given = answer.your_address;
    assert!(given.is_unspecified() || (lends && given == client.address), "{answer:?}");
}
