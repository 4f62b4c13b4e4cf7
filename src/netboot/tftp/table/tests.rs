//! Whole transfers over a network that loses, doubles and reorders, in virtual time; and the bounds.

use super::*;
use crate::netboot::tftp::content::{Content, Refusal};
use crate::netboot::tftp::packet::wire_block;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

/// From one end to the other.
const LATENCY: Duration = Duration::from_millis(1);
/// After so long a silence the client asks or acknowledges again.
const CLIENT_PATIENCE: Duration = Duration::from_millis(2500);

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

/// What may happen to a packet.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Arrives,
    Lost,
    Twice,
    Late(u8),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Arrives),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        1 => (1..20_u8).prop_map(Fate::Late),
    ]
}

/// A client after RFC 1350 and RFC 7440: it acknowledges what comes twice, and what comes out of order.
struct Client {
    request: Vec<u8>,
    window: u64,
    block_size: usize,
    socket: Option<usize>,
    file: Vec<u8>,
    /// The last block that came in order, and how many came since the last acknowledgement.
    last: u64,
    since: u64,
    gap_told: bool,
    done: bool,
    deadline: Instant,
}

impl Client {
    fn new(request: Vec<u8>, now: Instant) -> Self {
        let deadline = now + CLIENT_PATIENCE;
        Self {
            request,
            window: 1,
            block_size: 512,
            socket: None,
            file: Vec::new(),
            last: 0,
            since: 0,
            gap_told: false,
            done: false,
            deadline,
        }
    }

    fn on_packet(&mut self, socket: usize, bytes: &[u8], now: Instant) -> Option<Vec<u8>> {
        if *self.socket.get_or_insert(socket) != socket {
            return None;
        }
        if !self.done {
            self.deadline = now + CLIENT_PATIENCE;
        }
        match bytes {
            [0, 6, options @ ..] => {
                if self.last > 0 {
                    return None;
                }
                let words: Vec<&str> = std::str::from_utf8(options).unwrap().split('\0').collect();
                for pair in words.chunks_exact(2) {
                    match pair[0] {
                        "blksize" => self.block_size = pair[1].parse().unwrap(),
                        "windowsize" => self.window = pair[1].parse().unwrap(),
                        "tsize" => {}
                        other => panic!("nobody asked for {other}"),
                    }
                }
                Some(ack(0))
            }
            [0, 3, high, low, data @ ..] => {
                let block = u16::from_be_bytes([*high, *low]);
                if block != wire_block(self.last + 1) {
                    let again = self.window == 1 || self.done || !std::mem::replace(&mut self.gap_told, true);
                    self.since = 0;
                    return again.then(|| ack(self.last));
                }
                self.last += 1;
                self.since += 1;
                self.gap_told = false;
                self.file.extend_from_slice(data);
                assert!(data.len() <= self.block_size);
                if data.len() < self.block_size {
                    self.done = true;
                }
                if self.done || self.since >= self.window {
                    self.since = 0;
                    return Some(ack(self.last));
                }
                None
            }
            other => panic!("a client does not expect {other:?}"),
        }
    }
}

/// What a transfer over the network came to.
struct Outcome {
    events: Vec<FileProgress>,
    /// How often each block was sent, by number.
    sent: BTreeMap<u64, u32>,
    file: Vec<u8>,
    done: bool,
}

/// A packet on its way: when it arrives, its number, whether to the server, over which socket, its bytes.
type OnTheWay = (Instant, u64, bool, Option<usize>, Vec<u8>);

/// Runs one transfer of `f`; the fates are those of the first packets, and the rest arrive.
fn run(length: usize, options: &[(&str, u16)], fates: &[Fate]) -> Outcome {
    let files = files(length);
    let mut now = Instant::now();
    let end = now + Duration::from_secs(600);
    let mut table = Table::new(Limits::default(), 4);
    let mut client = Client::new(rrq("f", options), now);
    let mut outcome = Outcome { events: Vec::new(), sent: BTreeMap::new(), file: Vec::new(), done: false };
    let mut fates = fates.iter().copied();
    let mut way: BinaryHeap<Reverse<OnTheWay>> = BinaryHeap::new();
    let mut number = 0;
    let mut post = |way: &mut BinaryHeap<_>, now: Instant, to_server, socket, packet: Vec<u8>| {
        let (copies, late) = match fates.next().unwrap_or(Fate::Arrives) {
            Fate::Arrives => (1, 0),
            Fate::Lost => (0, 0),
            Fate::Twice => (2, 0),
            Fate::Late(ms) => (1, ms),
        };
        for copy in 0..copies {
            number += 1;
            let at = now + LATENCY * (copy + 1) + Duration::from_millis(late.into());
            way.push(Reverse((at, number, to_server, socket, packet.clone())));
        }
    };
    post(&mut way, now, true, None, client.request.clone());
    loop {
        let arrival = way.peek().map(|Reverse((at, ..))| *at);
        let due = [arrival, table.deadline(), (!client.done).then_some(client.deadline)];
        let Some(next) = due.into_iter().flatten().min() else { break };
        now = now.max(next);
        if now > end {
            break;
        }
        let outputs = if arrival == Some(next) {
            let Some(Reverse((_, _, to_server, socket, packet))) = way.pop() else { break };
            if to_server {
                let output = match socket {
                    None => table.on_request(peer(1, 49152), &packet, &files, now),
                    Some(socket) => table.on_packet(peer(1, 49152), socket, &packet, now),
                };
                output.into_iter().collect()
            } else {
                let socket = socket.unwrap_or_default();
                if let Some(answer) = client.on_packet(socket, &packet, now) {
                    post(&mut way, now, true, Some(socket), answer);
                }
                Vec::new()
            }
        } else if table.deadline() == Some(next) {
            table.on_time(now)
        } else {
            client.deadline = now + CLIENT_PATIENCE;
            match client.socket {
                None => post(&mut way, now, true, None, client.request.clone()),
                socket => post(&mut way, now, true, socket, ack(client.last)),
            }
            Vec::new()
        };
        for output in outputs {
            match output.what {
                What::Packet(packet) => post(&mut way, now, false, Some(output.socket), packet),
                What::Data(blocks) => {
                    let (bytes, size) = table.blocks(output.peer, &blocks).unwrap().unwrap();
                    let mut bodies = bytes.chunks(usize::from(size));
                    for block in blocks.first..blocks.first + u64::from(blocks.count) {
                        let body = bodies.next().unwrap_or_default();
                        *outcome.sent.entry(block).or_default() += 1;
                        let packet = [&packet::data_head(block), body].concat();
                        post(&mut way, now, false, Some(output.socket), packet);
                    }
                }
            }
        }
        outcome.events.extend(table.events().map(|event| event.what));
        if table.is_empty() && client.done && way.is_empty() {
            break;
        }
    }
    outcome.done = client.done;
    outcome.file = client.file;
    outcome
}

fn is_done(event: &FileProgress) -> bool {
    matches!(event, FileProgress::Done { .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_the_network_does_the_file_arrives_whole(
        length in 0..6000_usize,
        block_size in prop::option::of(8..700_u16),
        window in prop::option::of(1..9_u16),
        fates in prop::collection::vec(fate(), 0..60),
    ) {
        let mut options = vec![("tsize", 0)];
        options.extend(block_size.map(|size| ("blksize", size)));
        options.extend(window.map(|blocks| ("windowsize", blocks)));
        let outcome = run(length, &options, &fates);
        prop_assert!(outcome.done, "{:?}", outcome.events);
        prop_assert_eq!(outcome.file, pattern(length));
        // Packets of before can end a transfer twice, but never without end.
        let ends = outcome.events.iter().filter(|event| is_done(event)).count();
        prop_assert!((1..=2).contains(&ends), "{:?}", outcome.events);
    }

    #[test]
    fn nothing_is_sent_twice_while_nothing_is_lost(
        length in 0..6000_usize,
        block_size in 8..700_u16,
        twice in prop::collection::vec(prop_oneof![Just(Fate::Arrives), Just(Fate::Twice)], 0..200),
    ) {
        let outcome = run(length, &[("blksize", block_size), ("tsize", 0)], &twice);
        prop_assert!(outcome.done && outcome.sent.values().all(|times| *times == 1), "{:?}", outcome.sent);
        let blocks = length / usize::from(block_size) + 1;
        prop_assert_eq!(outcome.sent.len(), blocks);
    }

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

#[test]
fn a_file_of_more_than_65535_blocks_arrives_whole() {
    let outcome = run(8 * 66_000, &[("blksize", 8)], &[]);
    assert!(outcome.done && outcome.file == pattern(8 * 66_000));
    assert_eq!(outcome.sent.len(), 66_001);
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
