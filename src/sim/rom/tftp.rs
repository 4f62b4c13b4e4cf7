//! The TFTP client of boot ROMs and boot loaders: one file, block by block, without I/O.
//!
//! A file that is only looked for is asked for all the same, and the transfer is ended with error 0 "Early terminate"
//! as soon as the server has answered. The next file is asked for from the next port.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use tokio::time::Instant;

/// What is sent anew after this time without an answer.
const RESEND: Duration = Duration::from_secs(1);
/// The longest file that is taken: more than any of these boards' loaders can place.
const MAX_FILE: usize = 256 * 1024 * 1024;

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Without options, in blocks of 512 bytes: the ROM of a 3B.
    Plainly,
    /// For the length, and blocks of this size.
    ForBlocks(u16),
}

/// How far a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// On its way.
    Going,
    /// It is there: that was all that was wanted.
    Exists,
    /// All of it has come.
    Have(Vec<u8>),
    /// The server refuses it, with these words.
    Refused(String),
    /// Nobody answered in time.
    TimedOut,
    /// What came is no answer to what was asked.
    Broken(&'static str),
}

/// One file being fetched.
#[derive(Debug)]
pub struct Fetch {
    server: Ipv4Addr,
    /// The server's port for this file, once it is known.
    peer: Option<u16>,
    /// Whether the file's existence is all that is wanted.
    probe: bool,
    asks: Asks,
    block_size: usize,
    /// The number of the next block.
    next: u64,
    got: Vec<u8>,
    last: Vec<u8>,
    resend: Instant,
    give_up: Instant,
    sent_anew: bool,
    /// Blocks that came twice though nothing had been sent anew: a Pi 4 hangs on such.
    needless: u32,
    /// Whether the server took the options.
    agreed: bool,
}

impl Fetch {
    /// Asks for a file; answers the first packet, which goes to the server's port for requests.
    pub fn begin(
        server: Ipv4Addr,
        path: &str,
        probe: bool,
        asks: Asks,
        timeout: Duration,
        now: Instant,
    ) -> (Self, Vec<u8>) {
        let mut packet = vec![0, 1];
        let mut text = |text: &str| {
            packet.extend(text.bytes());
            packet.push(0);
        };
        text(path);
        text("octet");
        if let Asks::ForBlocks(size) = asks {
            text("tsize");
            text("0");
            text("blksize");
            text(&size.to_string());
        }
        let fetch = Self {
            server,
            peer: None,
            probe,
            asks,
            block_size: 512,
            next: 1,
            got: Vec::new(),
            last: packet.clone(),
            resend: now + RESEND,
            give_up: now + timeout,
            sent_anew: false,
            needless: 0,
            agreed: false,
        };
        (fetch, packet)
    }

    /// When [`Self::on_time`] has something to do.
    pub fn deadline(&self) -> Instant {
        self.resend.min(self.give_up)
    }

    /// Blocks that came twice without need.
    pub fn needless(&self) -> u32 {
        self.needless
    }

    /// Whether the server took the options.
    pub fn agreed(&self) -> bool {
        self.agreed
    }

    /// Where packets go; none for the server's port for requests.
    pub fn peer(&self) -> Option<SocketAddrV4> {
        self.peer.map(|port| SocketAddrV4::new(self.server, port))
    }

    /// Time has passed: what is to be sent, and how far the file is.
    pub fn on_time(&mut self, now: Instant) -> (Option<Vec<u8>>, Progress) {
        if now >= self.give_up {
            return (None, Progress::TimedOut);
        }
        if now < self.resend {
            return (None, Progress::Going);
        }
        self.resend = now + RESEND;
        self.sent_anew = true;
        (Some(self.last.clone()), Progress::Going)
    }

    /// Takes a packet in: what is to be sent, and how far the file is.
    pub fn on_packet(
        &mut self,
        from: SocketAddrV4,
        bytes: &[u8],
        now: Instant,
    ) -> (Option<Vec<u8>>, Progress) {
        if *from.ip() != self.server || self.peer.is_some_and(|peer| peer != from.port()) {
            return (None, Progress::Going);
        }
        match bytes {
            [0, 3, high, low, data @ ..] => {
                self.peer = Some(from.port());
                self.on_block(u16::from_be_bytes([*high, *low]), data, now)
            }
            [0, 5, ..] => {
                let text = bytes.get(4..).unwrap_or_default().split(|byte| *byte == 0).next();
                (None, Progress::Refused(String::from_utf8_lossy(text.unwrap_or_default()).into_owned()))
            }
            [0, 6, options @ ..] if self.next == 1 && !self.agreed && self.asks != Asks::Plainly => {
                self.peer = Some(from.port());
                self.on_options(options, now)
            }
            // Once more, for the acknowledgement was lost.
            [0, 6, ..] if self.agreed && self.next == 1 => (Some(self.last.clone()), Progress::Going),
            _ => (None, Progress::Going),
        }
    }

    fn on_options(&mut self, options: &[u8], now: Instant) -> (Option<Vec<u8>>, Progress) {
        let mut words = options.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if name.eq_ignore_ascii_case("blksize") {
                match (value.parse::<u16>(), self.asks) {
                    (Ok(size), Asks::ForBlocks(asked)) if (8..=asked).contains(&size) => {
                        self.block_size = usize::from(size);
                    }
                    _ => {
                        return (
                            Some(error("bad blksize")),
                            Progress::Broken("a larger block than was asked for"),
                        );
                    }
                }
            }
        }
        self.agreed = true;
        if self.probe {
            return (Some(error("Early terminate")), Progress::Exists);
        }
        (Some(self.acknowledge(0, now)), Progress::Going)
    }

    fn on_block(&mut self, block: u16, data: &[u8], now: Instant) -> (Option<Vec<u8>>, Progress) {
        if self.probe {
            return (Some(error("Early terminate")), Progress::Exists);
        }
        if block != wire(self.next) {
            let before = block == wire(self.next.wrapping_sub(1));
            if before && !self.sent_anew {
                self.needless += 1;
            }
            // Never acknowledged twice unless time has passed: else each block would come twice from then on.
            return (None, Progress::Going);
        }
        if data.len() > self.block_size || self.got.len() + data.len() > MAX_FILE {
            return (Some(error("too much")), Progress::Broken("more bytes than were agreed on"));
        }
        self.got.extend(data);
        self.sent_anew = false;
        let acknowledgement = self.acknowledge(block, now);
        self.next += 1;
        if data.len() < self.block_size {
            return (Some(acknowledgement), Progress::Have(std::mem::take(&mut self.got)));
        }
        (Some(acknowledgement), Progress::Going)
    }

    fn acknowledge(&mut self, block: u16, now: Instant) -> Vec<u8> {
        let [high, low] = block.to_be_bytes();
        self.last = vec![0, 4, high, low];
        self.resend = now + RESEND;
        self.last.clone()
    }
}

/// A block's number on the wire: 0 follows 65535 (EEPROMs since September 2025; raspberrypi/rpi-eeprom 720).
#[expect(clippy::cast_possible_truncation, reason = "the low 16 bits are what is meant")]
fn wire(block: u64) -> u16 {
    block as u16
}

fn error(words: &str) -> Vec<u8> {
    [&[0, 5, 0, 0], words.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const FROM: SocketAddrV4 = SocketAddrV4::new(SERVER, 40000);

    fn begin(probe: bool, asks: Asks, now: Instant) -> Fetch {
        Fetch::begin(SERVER, "a/b", probe, asks, Duration::from_secs(5), now).0
    }

    fn data(block: u64, bytes: &[u8]) -> Vec<u8> {
        [&[0, 3], wire(block).to_be_bytes().as_slice(), bytes].concat()
    }

    #[test]
    fn a_request_is_as_on_the_wire() {
        let now = Instant::now();
        let (_, plain) = Fetch::begin(SERVER, "bootcode.bin", false, Asks::Plainly, RESEND, now);
        assert_eq!(plain, b"\0\x01bootcode.bin\0octet\0");
        let (_, asks) = Fetch::begin(SERVER, "x/config.txt", false, Asks::ForBlocks(1468), RESEND, now);
        assert_eq!(asks, b"\0\x01x/config.txt\0octet\0tsize\x000\0blksize\x001468\0");
    }

    #[test]
    fn a_probe_ends_as_soon_as_the_server_has_answered() {
        let now = Instant::now();
        let early = Some(b"\0\x05\0\0Early terminate\0".to_vec());
        let oack = b"\0\x06tsize\x005\0blksize\x001024\0";
        let mut fetch = begin(true, Asks::ForBlocks(1468), now);
        assert_eq!(fetch.on_packet(FROM, oack, now), (early.clone(), Progress::Exists));
        let mut fetch = begin(true, Asks::Plainly, now);
        assert_eq!(fetch.on_packet(FROM, &data(1, b"x"), now), (early, Progress::Exists));
        let mut fetch = begin(true, Asks::ForBlocks(1468), now);
        let (sent, progress) = fetch.on_packet(FROM, b"\0\x05\0\x01no such file\0", now);
        assert_eq!((sent, progress), (None, Progress::Refused("no such file".to_owned())));
        let mut fetch = begin(false, Asks::ForBlocks(512), now);
        let (_, progress) = fetch.on_packet(FROM, b"\0\x06blksize\x001024\0", now);
        assert!(matches!(progress, Progress::Broken(_)));
    }

    #[test]
    fn what_gets_no_answer_is_sent_anew_and_given_up_in_the_end() {
        let now = Instant::now();
        let mut fetch = begin(false, Asks::Plainly, now);
        assert_eq!(fetch.deadline(), now + RESEND);
        let (sent, progress) = fetch.on_time(now + RESEND);
        assert_eq!((sent.unwrap(), progress), (b"\0\x01a/b\0octet\0".to_vec(), Progress::Going));
        let stranger = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 40000);
        assert_eq!(fetch.on_packet(stranger, &data(1, b""), now), (None, Progress::Going));
        assert_eq!(fetch.on_time(now + Duration::from_secs(5)), (None, Progress::TimedOut));
    }

    #[test]
    fn a_block_that_came_twice_is_not_acknowledged_twice_and_counted() {
        let now = Instant::now();
        let mut fetch = begin(false, Asks::Plainly, now);
        let full = vec![7; 512];
        assert_eq!(fetch.on_packet(FROM, &data(1, &full), now).0.unwrap(), [0, 4, 0, 1]);
        assert_eq!(fetch.on_packet(FROM, &data(1, &full), now), (None, Progress::Going));
        assert_eq!(fetch.needless(), 1);
        fetch.on_time(now + RESEND);
        fetch.on_packet(FROM, &data(1, &full), now);
        assert_eq!(fetch.needless(), 1, "it was asked for");
        assert_eq!(fetch.on_packet(FROM, &data(2, b""), now).1, Progress::Have(full));
    }

    /// Fetches `content` from a server that loses and doubles packets as `chance` has it: 0 loses, 1 doubles.
    fn through(content: &[u8], size: u16, chance: &[u8]) -> Vec<u8> {
        let mut now = Instant::now();
        let timeout = Duration::from_secs(1_000_000);
        let mut fetch = Fetch::begin(SERVER, "f", false, Asks::ForBlocks(size), timeout, now).0;
        let oack = format!("\0\u{6}blksize\0{size}\0").into_bytes();
        // What the server sends next, and whether it has just been sent.
        let (mut block, mut fresh, mut turn) = (0_u64, true, 0);
        loop {
            turn += 1;
            let copies = match chance[turn % chance.len()] {
                _ if !fresh => 0,
                0 => 0,
                1 => 2,
                _ => 1,
            };
            fresh = false;
            let at = usize::try_from(block.saturating_sub(1)).unwrap() * usize::from(size);
            let bytes = content.get(at..(at + usize::from(size)).min(content.len())).unwrap_or_default();
            let packet = if block == 0 { oack.clone() } else { data(block, bytes) };
            let mut answers: Vec<_> = (0..copies).map(|_| fetch.on_packet(FROM, &packet, now)).collect();
            if copies == 0 {
                now += RESEND;
                answers.push(fetch.on_time(now));
            }
            for (answer, progress) in answers {
                match progress {
                    Progress::Have(have) => return have,
                    Progress::Going => {}
                    other => panic!("{other:?}"),
                }
                let Some(answer) = answer else { continue };
                fresh = true;
                if answer.starts_with(&[0, 4]) && answer[2..] == wire(block).to_be_bytes() {
                    block += 1;
                }
            }
        }
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    #[test]
    fn the_numbers_of_blocks_roll_over() {
        let content = content(8 * 65_540 + 3);
        assert!(through(&content, 8, &[2]) == content);
    }

    proptest! {
        #[test]
        fn every_file_arrives_whole(
            length in 0..2000_usize, size in 8..64_u16, chance in prop::collection::vec(0..6_u8, 40)
        ) {
            let content = content(length);
            let chance: Vec<u8> = chance.into_iter().chain([2]).collect();
            prop_assert!(through(&content, size, &chance) == content);
        }
    }
}
