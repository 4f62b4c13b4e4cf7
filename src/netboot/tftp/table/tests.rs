//! Who has a transfer, and the bounds. Whole transfers: `network`.

mod network;

use super::*;
use crate::netboot::tftp::content::{Content, Refusal};
use crate::netboot::tftp::packet::wire_block;
use proptest::prelude::*;
use std::time::Duration;

fn peer(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], port))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..253_u8).cycle().take(length).collect()
}

/// Serves `f`, of so many bytes; nothing else.
fn files(length: usize) -> impl BootFiles {
    move |_: SocketAddr, path: &BootPath| match path.as_str() {
        "f" => Ok(Content::Bytes(pattern(length).into())),
        "secret" => Err(Refusal::Forbidden("it is another's".to_owned())),
        _ => Err(Refusal::NotFound),
    }
}

fn rrq(name: &str, options: &[(&str, u16)]) -> Vec<u8> {
    let mut packet = format!("\0\x01{name}\0octet\0").into_bytes();
    for (option, value) in options {
        packet.extend(format!("{option}\0{value}\0").into_bytes());
    }
    packet
}

fn ack(block: u64) -> Vec<u8> {
    let [high, low] = wire_block(block).to_be_bytes();
    vec![0, 4, high, low]
}

proptest! {
    #[test]
    fn whatever_arrives_is_borne_and_the_bounds_hold(packets in prop::collection::vec(
        (0..3_u8, 1..5_u16, 0..4_usize, prop_oneof![
            prop::collection::vec(any::<u8>(), 0..30),
            (0..6_u64).prop_map(ack),
            Just(rrq("f", &[])),
            Just(rrq("f", &[("blksize", 8), ("windowsize", 3)])),
            Just(b"\0\x05\0\0Early terminate\0".to_vec()),
        ], any::<bool>(), 0..900_u64), 0..120)
    ) {
        let files = files(100);
        let limits = Limits { transfers: 4, per_address: 2, ..Limits::default() };
        let mut table = Table::new(limits, 4);
        let mut now = Instant::now();
        for (host, port, socket, bytes, requested, pause) in packets {
            now += Duration::from_millis(pause);
            let from = peer(host, port);
            let bytes_of = |table: &mut Table, output: Output| {
                let What::Data(blocks) = output.what else { return 0 };
                table.blocks(output.peer, &blocks).unwrap().unwrap().0.len()
            };
            for output in table.on_time(now) {
                prop_assert!(bytes_of(&mut table, output) <= 512);
            }
            let output = if requested {
                table.on_request(from, &bytes, &files, now)
            } else {
                table.on_packet(from, socket, &bytes, now)
            };
            if let Some(output) = output {
                prop_assert!(bytes_of(&mut table, output) <= 512);
            }
            prop_assert!(table.len() <= 4 && table.events().count() < 10);
        }
        table.on_time(now + Duration::from_secs(600));
        for _ in 0..6 {
            now += Duration::from_secs(600);
            table.on_time(now);
        }
        prop_assert!(table.is_empty(), "none stays for ever");
    }
}

fn start(table: &mut Table, from: SocketAddr, now: Instant) -> Option<Output> {
    table.on_request(from, &rrq("f", &[("blksize", 8)]), &files(100), now)
}

fn told(table: &mut Table) -> Vec<FileProgress> {
    table.events().map(|event| event.what).collect()
}

#[test]
fn after_an_abort_the_same_port_gets_a_new_transfer_on_another_socket() {
    let now = Instant::now();
    let mut table = Table::new(Limits::default(), 4);
    let first = start(&mut table, peer(1, 49152), now).unwrap();
    assert!(table.on_packet(peer(1, 49152), first.socket, b"\0\x05\0\0Early terminate\0", now).is_none());
    assert!(table.is_empty());
    let client = Abort::Client { code: 0, message: "Early terminate".to_owned() };
    let events = told(&mut table);
    assert!(
        matches!(&events[..], [FileProgress::Requested { length: 100, block_size: 8, window: 1 },
        FileProgress::Aborted { bytes: 0, cause, .. }] if *cause == client),
        "{events:?}"
    );

    let second = start(&mut table, peer(1, 49152), now).unwrap();
    assert_ne!(first.socket, second.socket);
    assert_eq!(table.on_packet(peer(1, 49152), first.socket, &ack(0), now), None, "of the old one");
    assert!(table.on_packet(peer(1, 49152), second.socket, &ack(0), now).is_some());
}

#[test]
fn a_request_that_came_twice_is_one_and_a_later_one_begins_anew() {
    let start_at = Instant::now();
    let mut table = Table::new(Limits::default(), 4);
    let first = start(&mut table, peer(1, 49152), start_at).unwrap();
    assert_eq!(start(&mut table, peer(1, 49152), start_at + Duration::from_millis(900)), None);
    let again = start(&mut table, peer(1, 49152), start_at + Duration::from_secs(20)).unwrap();
    assert_ne!(first.socket, again.socket);
    table.on_packet(peer(1, 49152), again.socket, &ack(0), start_at + Duration::from_secs(20)).unwrap();
    let after = start(&mut table, peer(1, 49152), start_at + Duration::from_secs(20)).unwrap();
    assert_ne!(after.socket, again.socket, "an answered one is not a repetition");
    assert_eq!(table.len(), 1);
}

#[test]
fn what_cannot_be_served_is_refused_in_the_words_of_the_standard() {
    let now = Instant::now();
    let mut table = Table::new(Limits::default(), 4);
    let mut refused = |bytes: &[u8]| {
        let output = table.on_request(peer(1, 1000), bytes, &files(1), now);
        let packet = output.map(|output| match output.what {
            What::Packet(packet) => (packet[..4].to_vec(), packet.len()),
            What::Data(_) => panic!("data for {bytes:?}"),
        });
        (packet.map(|(head, _)| head), told(&mut table))
    };
    let error = |code| Some(vec![0, 5, 0, code]);
    for (bytes, code, why) in [
        (rrq("nothing", &[]), error(1), Refused::File(Refusal::NotFound)),
        (rrq("secret", &[]), error(1), Refused::File(Refusal::Forbidden("it is another's".to_owned()))),
        (rrq("../f", &[]), error(1), Refused::Path(crate::netboot::tftp::path::PathError::Escape)),
        (b"\0\x01f\0netascii\0".to_vec(), error(4), Refused::Mode),
        (b"\0\x02f\0octet\0".to_vec(), error(2), Refused::Write),
        (b"\0\x01f".to_vec(), error(4), Refused::Malformed(packet::Malformed::Unterminated("name"))),
        (b"\0".to_vec(), None, Refused::Malformed(packet::Malformed::Short(1))),
        (b"\0\x09".to_vec(), None, Refused::Malformed(packet::Malformed::Opcode(9))),
    ] {
        assert_eq!(refused(&bytes), (code, vec![FileProgress::Refused(why)]), "{bytes:?}");
    }
    for bytes in [ack(0), b"\0\x05\0\0\0".to_vec(), b"\0\x03\0\x01abc".to_vec()] {
        assert_eq!(refused(&bytes), (None, vec![]), "{bytes:?}");
    }
}

#[test]
fn an_address_that_begins_too_many_loses_its_own_oldest_and_no_other_s() {
    let now = Instant::now();
    let mut table = Table::new(Limits { per_address: 2, transfers: 10, ..Limits::default() }, 4);
    start(&mut table, peer(2, 1), now);
    for (n, port) in (1..=4).enumerate() {
        start(&mut table, peer(1, port), now + Duration::from_millis(n as u64));
    }
    assert_eq!(table.len(), 3);
    assert!(table.deadline_of(peer(2, 1)).is_some());
    assert!(table.deadline_of(peer(1, 1)).is_none() && table.deadline_of(peer(1, 4)).is_some());
}

#[test]
fn when_all_are_taken_an_unanswered_one_goes_and_an_answered_one_stays() {
    let now = Instant::now();
    let mut table = Table::new(Limits { transfers: 2, ..Limits::default() }, 4);
    let one = start(&mut table, peer(1, 1), now).unwrap();
    table.on_packet(peer(1, 1), one.socket, &ack(0), now).unwrap();
    let two = start(&mut table, peer(2, 1), now).unwrap();
    let three = start(&mut table, peer(3, 1), now).unwrap();
    assert!(table.on_packet(peer(2, 1), two.socket, &ack(0), now).is_none(), "it was replaced");
    table.on_packet(peer(3, 1), three.socket, &ack(0), now).unwrap();
    told(&mut table);
    let full = start(&mut table, peer(4, 1), now).unwrap();
    assert!(matches!(full.what, What::Packet(packet) if packet.starts_with(&[0, 5, 0, 0])));
    assert_eq!(told(&mut table), [FileProgress::Refused(Refused::Full)]);
    assert_eq!(table.len(), 2);
}

#[test]
fn a_flood_gets_no_answer_beyond_its_pace_and_another_address_does() {
    let now = Instant::now();
    let mut table = Table::new(Limits { requests: 5, ..Limits::default() }, 4);
    let answers =
        (0..1000).filter(|_| table.on_request(peer(1, 9), &rrq("x", &[]), &files(1), now).is_some());
    assert_eq!(answers.count(), 5);
    let events = told(&mut table);
    assert_eq!(events.len(), 6, "each refusal, and once that it asks too fast");
    assert_eq!(events.last(), Some(&FileProgress::Refused(Refused::TooFast)));
    assert!(table.on_request(peer(2, 9), &rrq("f", &[]), &files(1), now).is_some());
}

#[test]
fn a_file_that_cannot_be_read_any_more_ends_its_transfer_and_closing_ends_all() {
    let now = Instant::now();
    let mut table = Table::new(Limits::default(), 4);
    start(&mut table, peer(1, 1), now);
    start(&mut table, peer(1, 2), now);
    told(&mut table);
    let packet = table.unreadable(peer(1, 1), &std::io::ErrorKind::UnexpectedEof.into(), now);
    assert!(packet.starts_with(&[0, 5, 0, 0]));
    table.close(now);
    let causes: Vec<FileProgress> = told(&mut table);
    assert!(
        matches!(
            &causes[..],
            [
                FileProgress::Aborted { cause: Abort::Unreadable(_), .. },
                FileProgress::Aborted { cause: Abort::Closed, .. }
            ]
        ),
        "{causes:?}"
    );
    assert!(table.is_empty());
}
