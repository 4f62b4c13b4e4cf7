//! The packets of TFTP on the wire: what a client sends is read, what a server sends is written.
//!
//! RFC 1350 §5 (packets, error codes), RFC 2347 (options), RFC 2348 (`blksize`), RFC 2349 (`timeout`,
//! `tsize`), RFC 7440 (`windowsize`).

/// The longest request that is read, in bytes: RFC 2347 allows 512, and the longest path here has 255.
pub const MAX_REQUEST: usize = 1024;
/// How much of a client's error text is kept, in bytes.
const MAX_MESSAGE: usize = 100;

/// `Not defined, see error message` of RFC 1350.
pub const UNDEFINED: u16 = 0;
/// `File not found` of RFC 1350.
pub const NOT_FOUND: u16 = 1;
/// `Access violation` of RFC 1350.
pub const ACCESS_VIOLATION: u16 = 2;
/// `Illegal TFTP operation` of RFC 1350.
pub const ILLEGAL: u16 = 4;
/// `Unknown transfer ID` of RFC 1350.
pub const UNKNOWN_TRANSFER: u16 = 5;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// A packet that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends within its first fields.
    #[error("it has {0} bytes")]
    Short(usize),
    /// It is longer than a request may be.
    #[error("it has {0} bytes, more than {MAX_REQUEST}")]
    Long(usize),
    /// No such operation.
    #[error("it has the operation code {0}")]
    Opcode(u16),
    /// A text has no NUL at its end.
    #[error("its {0} has no end")]
    Unterminated(&'static str),
    /// An option without a value.
    #[error("its last option has no value")]
    NoValue,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A file is asked for.
    Read(Request<'a>),
    /// A file is offered.
    Write,
    /// Blocks up to this one have arrived; of the block's number the low 16 bits.
    Ack(u16),
    /// The client ends the transfer.
    Error {
        /// RFC 1350's code.
        code: u16,
        /// Its words, printable ASCII, cut.
        message: String,
    },
    /// What only servers send.
    Other,
}

/// A read request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The name as it came.
    pub name: &'a [u8],
    /// Whether the mode is `octet`, the only one that leaves bytes as they are.
    pub octet: bool,
    /// Its options.
    pub asked: Asked,
}

/// The options of a request that are known and make sense; the others are left out, as RFC 2347 wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Bytes of a block: 8 to 65464 (RFC 2348).
    pub block_size: Option<u16>,
    /// The length of the file is wanted (RFC 2349).
    pub length: bool,
    /// Seconds until a packet is sent again: 1 to 255 (RFC 2349).
    pub timeout: Option<u8>,
    /// Blocks between two acknowledgements: 1 to 65535 (RFC 7440).
    pub window: Option<u16>,
}

/// Reads a packet from a client.
pub fn decode(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let (code, rest) = number(bytes).ok_or(Malformed::Short(bytes.len()))?;
    match code {
        READ => request(rest, bytes.len()).map(Packet::Read),
        WRITE => Ok(Packet::Write),
        ACK => {
            let (block, _) = number(rest).ok_or(Malformed::Short(bytes.len()))?;
            Ok(Packet::Ack(block))
        }
        ERROR => {
            let (code, text) = number(rest).ok_or(Malformed::Short(bytes.len()))?;
            Ok(Packet::Error { code, message: printable(text) })
        }
        DATA | OACK => Ok(Packet::Other),
        other => Err(Malformed::Opcode(other)),
    }
}

/// The text up to a NUL, without what could play with a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.iter().take_while(|byte| **byte != 0).take(MAX_MESSAGE);
    bytes.map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' }).collect()
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*first), rest))
}

/// The bytes before the next NUL, and those after it.
fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    let at = bytes.iter().position(|byte| *byte == 0).ok_or(Malformed::Unterminated(what))?;
    Ok((&bytes[..at], &bytes[at + 1..]))
}

fn request(bytes: &[u8], length: usize) -> Result<Request<'_>, Malformed> {
    if length > MAX_REQUEST {
        return Err(Malformed::Long(length));
    }
    let (name, rest) = text(bytes, "name")?;
    let (mode, mut rest) = text(rest, "mode")?;
    let mut asked = Asked::default();
    // A request may be padded with NULs.
    while rest.iter().any(|byte| *byte != 0) {
        let (option, after) = text(rest, "option")?;
        if after.is_empty() {
            return Err(Malformed::NoValue);
        }
        let (value, after) = text(after, "option's value")?;
        asked.note(option, value);
        rest = after;
    }
    Ok(Request { name, octet: mode.eq_ignore_ascii_case(b"octet"), asked })
}

impl Asked {
    /// Takes an option in; the first of two that are the same counts.
    fn note(&mut self, option: &[u8], value: &[u8]) {
        let decimal = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let Some(value) = decimal.and_then(|text| text.parse::<u64>().ok()) else { return };
        let small = u16::try_from(value).ok();
        if option.eq_ignore_ascii_case(b"tsize") {
            self.length = true;
        } else if option.eq_ignore_ascii_case(b"blksize") {
            self.block_size = self.block_size.or(small.filter(|size| (8..=65464).contains(size)));
        } else if option.eq_ignore_ascii_case(b"timeout") {
            self.timeout = self.timeout.or(u8::try_from(value).ok().filter(|seconds| *seconds > 0));
        } else if option.eq_ignore_ascii_case(b"windowsize") {
            self.window = self.window.or(small.filter(|blocks| *blocks > 0));
        }
    }
}

/// The head of a DATA packet; the block's bytes follow.
pub fn data_head(block: u64) -> [u8; 4] {
    let [high, low] = wire_block(block).to_be_bytes();
    [0, 3, high, low]
}

/// A block's number on the wire: its low 16 bits, so 0 follows 65535.
#[expect(clippy::cast_possible_truncation, reason = "the low 16 bits are what is meant")]
pub fn wire_block(block: u64) -> u16 {
    block as u16
}

/// An ERROR packet.
pub fn error(code: u16, message: &str) -> Vec<u8> {
    let mut packet = vec![0, 5];
    packet.extend(code.to_be_bytes());
    packet.extend(message.bytes().filter(|byte| *byte != 0));
    packet.push(0);
    packet
}

/// An OACK packet.
pub fn oack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut packet = vec![0, 6];
    for (option, value) in options {
        packet.extend(option.bytes());
        packet.push(0);
        packet.extend(value.to_string().bytes());
        packet.push(0);
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<u8> {
        [&[0, 1], text.as_bytes()].concat()
    }

    fn asked(options: &str) -> Asked {
        match decode(&read(&format!("f\0octet\0{options}"))) {
            Ok(Packet::Read(request)) => request.asked,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_as_a_pi_4_sends_it_is_read() {
        let bytes = read("9ffefdef/config.txt\0octet\0tsize\x000\0blksize\x001468\0");
        let request = Request {
            name: b"9ffefdef/config.txt",
            octet: true,
            asked: Asked { block_size: Some(1468), length: true, ..Asked::default() },
        };
        assert_eq!(decode(&bytes), Ok(Packet::Read(request)));
    }

    #[test]
    fn options_out_of_their_range_and_unknown_ones_are_left_out() {
        let none = Asked::default();
        for options in [
            "blksize\x007\0",
            "blksize\x0065465\0",
            "blksize\x00-8\0",
            "blksize\x00+8\0",
            "blksize\0\0",
            "blksize\x0099999999999999999999\0",
            "timeout\x000\0",
            "timeout\x00256\0",
            "windowsize\x000\0",
            "windowsize\x0065536\0",
            "multicast\x001\0",
            "tsize\x00x\0",
        ] {
            assert_eq!(asked(options), none, "{options:?}");
        }
        let all = Asked { block_size: Some(8), length: true, timeout: Some(255), window: Some(16) };
        assert_eq!(asked("BLKSIZE\x008\0Timeout\x00255\0windowsize\x0016\0tsize\x005\0"), all);
        assert_eq!(asked("blksize\x00512\0blksize\x001024\0").block_size, Some(512), "the first counts");
        assert_eq!(asked("tsize\x000\0\0\0\0"), Asked { length: true, ..none }, "padding");
    }

    #[test]
    fn what_is_not_a_packet_says_why() {
        let long = read(&format!("{}\0octet\0", "a".repeat(MAX_REQUEST)));
        for (bytes, wanted) in [
            (vec![], Malformed::Short(0)),
            (vec![0], Malformed::Short(1)),
            (vec![0, 4, 1], Malformed::Short(3)),
            (vec![0, 5, 1], Malformed::Short(3)),
            (vec![0, 9], Malformed::Opcode(9)),
            (read(""), Malformed::Unterminated("name")),
            (read("name"), Malformed::Unterminated("name")),
            (read("name\0octet"), Malformed::Unterminated("mode")),
            (read("name\0octet\0blksize"), Malformed::Unterminated("option")),
            (read("name\0octet\0blksize\0"), Malformed::NoValue),
            (read("name\0octet\0blksize\x008"), Malformed::Unterminated("option's value")),
            (long.clone(), Malformed::Long(long.len())),
        ] {
            assert_eq!(decode(&bytes), Err(wanted), "{bytes:?}");
        }
    }

    #[test]
    fn what_a_server_sends_has_the_bytes_of_the_standards() {
        assert_eq!(data_head(1), [0, 3, 0, 1]);
        assert_eq!(data_head(65535), [0, 3, 255, 255]);
        assert_eq!(data_head(65536), [0, 3, 0, 0]);
        assert_eq!(error(NOT_FOUND, "File not found"), b"\0\x05\0\x01File not found\0");
        assert_eq!(oack(&[("tsize", 7), ("blksize", 1468)]), b"\0\x06tsize\x007\0blksize\x001468\0");
    }

    #[test]
    fn an_error_s_words_cannot_play_with_a_terminal() {
        let Ok(Packet::Error { code, message }) = decode(b"\0\x05\0\0Early\x1b[2Jterminate\0junk") else {
            panic!("not an error");
        };
        assert_eq!((code, message.as_str()), (0, "Early?[2Jterminate"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn any_request_is_read_or_refused(text in prop::collection::vec(prop::sample::select(
            &b"\0\0\0abkszietmouwnd0123456789/.-"[..]), 0..200)) {
            let _ = decode(&[&[0, 1], text.as_slice()].concat());
        }
    }
}
