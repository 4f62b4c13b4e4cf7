//! Whole transfers over a network that loses, doubles and reorders, in virtual time.

use super::super::*;
use super::{ack, files, pattern, peer, rrq};
use crate::netboot::tftp::packet::wire_block;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

/// From one end to the other.
const LATENCY: Duration = Duration::from_millis(1);
/// After so long a silence the client asks or acknowledges again.
const CLIENT_PATIENCE: Duration = Duration::from_millis(2500);

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
    #![proptest_config(ProptestConfig::with_cases(150))]

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
}

#[test]
fn a_file_of_more_than_65535_blocks_arrives_whole() {
    let outcome = run(8 * 66_000, &[("blksize", 8)], &[]);
    assert!(outcome.done && outcome.file == pattern(8 * 66_000));
    assert_eq!(outcome.sent.len(), 66_001);
}
