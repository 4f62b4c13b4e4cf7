//! A TFTP client that does as little as it can: it counts bytes, and acknowledges.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// After so long a silence the request or the last acknowledgement is sent again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Silences in a row until it gives up.
const TRIES: u32 = 10;

/// Fetches `name` in blocks of 1468 bytes, acknowledging each `window` blocks; how many bytes came, or none if the
/// server does not do windows.
pub(crate) fn fetch(server: SocketAddr, name: &str, window: u16) -> io::Result<Option<u64>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut request = format!("\0\x01{name}\0octet\0tsize\x000\0blksize\x001468\0").into_bytes();
    if window > 1 {
        request.extend(format!("windowsize\0{window}\0").into_bytes());
    }
    let mut buffer = [0; 2048];
    let mut tries = 0;
    let (length, from) = loop {
        socket.send_to(&request, server)?;
        match socket.recv_from(&mut buffer) {
            // Of many requests at once a server's socket may drop one.
            Err(error) if tries < TRIES && error.kind() == io::ErrorKind::WouldBlock => tries += 1,
            answered => break answered?,
        }
    };
    let answer = buffer.get(..length).unwrap_or_default();
    if !answer.starts_with(&[0, 6]) {
        return Err(io::Error::other(format!("no OACK: {}", String::from_utf8_lossy(answer))));
    }
    if window > 1 && !answer.windows(10).any(|part| part == b"windowsize") {
        socket.send_to(&[0, 5, 0, 8, 0], from)?;
        return Ok(None);
    }
    socket.connect(from)?;
    let (mut last, mut since, mut bytes, mut silences, mut told) = (0_u16, 0, 0_u64, 0, false);
    let ack = |block: u16| socket.send(&[0, 4, block.to_be_bytes()[0], block.to_be_bytes()[1]]);
    ack(0)?;
    loop {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if silences < TRIES && error.kind() == io::ErrorKind::WouldBlock => {
                silences += 1;
                ack(last)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        silences = 0;
        match buffer.get(..length) {
            Some([0, 3, high, low, data @ ..]) => {
                if u16::from_be_bytes([*high, *low]) != last.wrapping_add(1) {
                    since = 0;
                    if window > 1 && !std::mem::replace(&mut told, true) {
                        ack(last)?;
                    }
                    continue;
                }
                (last, since, told) = (last.wrapping_add(1), since + 1, false);
                bytes += data.len() as u64;
                if data.len() < 1468 {
                    ack(last)?;
                    return Ok(Some(bytes));
                }
                if since >= window {
                    since = 0;
                    ack(last)?;
                }
            }
            other => return Err(io::Error::other(format!("not a block: {other:?}"))),
        }
    }
}
