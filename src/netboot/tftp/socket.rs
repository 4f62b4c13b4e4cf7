//! One UDP socket of the server, and how blocks get onto it: as many as are due in one system call.

use super::packet;
use super::transfer::Blocks;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Type};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};

/// Receive buffer, in bytes: the ACKs of all transfers of a whole rack that is switched on at once.
const RECEIVE_BUFFER: usize = 1024 * 1024;
/// `SOL_UDP` and `UDP_SEGMENT` of linux/udp.h: the size of the packets a large send is cut into (udp(7)).
const UDP_SEGMENT: (i32, i32) = (17, 103);
/// How long a full buffer is waited for; a packet that still does not fit is lost.
const FULL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// `EINVAL`, `EIO` and `EOPNOTSUPP` of asm-generic/errno.h: what a kernel or a network card that cannot cut
/// packets says.
const CANNOT_CUT: [i32; 3] = [22, 5, 95];

/// Opens a socket on `address`, on `interface` alone if one is named.
pub(super) fn bind(address: SocketAddr, interface: Option<&str>) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    // The kernel gives what net.core.rmem_max allows.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Sends blocks: `bytes` are theirs, `size` is that of each but the last. With `cut`, in one call that the
/// kernel cuts into packets; `cut` becomes false when it cannot.
pub(super) fn send_blocks(
    socket: &UdpSocket,
    peer: SocketAddr,
    blocks: Blocks,
    bytes: &[u8],
    size: u16,
    cut: &mut bool,
) -> io::Result<()> {
    let address = SockAddr::from(peer);
    if blocks.count == 1 {
        let head = packet::data_head(blocks.first);
        return send(socket, &address, &[IoSlice::new(&head), IoSlice::new(bytes)], &[]);
    }
    let heads = (0..blocks.count).map(|n| packet::data_head(blocks.first + u64::from(n)));
    let heads: Vec<[u8; 4]> = heads.collect();
    let mut bodies = bytes.chunks(usize::from(size));
    let mut packet = |head| [IoSlice::new(head), IoSlice::new(bodies.next().unwrap_or_default())];
    let packets: Vec<[IoSlice<'_>; 2]> = heads.iter().map(|head| packet(head)).collect();
    if *cut {
        let control = segment_size(size.saturating_add(4));
        match send(socket, &address, packets.as_flattened(), &control) {
            Err(error) if error.raw_os_error().is_some_and(|code| CANNOT_CUT.contains(&code)) => *cut = false,
            other => return other,
        }
    }
    for packet in &packets {
        send(socket, &address, packet, &[])?;
    }
    Ok(())
}

/// Sends a packet as it is.
pub(super) fn send_packet(socket: &UdpSocket, peer: SocketAddr, packet: &[u8]) -> io::Result<()> {
    let bytes = [IoSlice::new(packet)];
    send(socket, &SockAddr::from(peer), &bytes, &[])
}

/// Sends, and waits while the socket's buffer is full: for as long as the network card needs, and no longer than [`FULL`].
fn send(socket: &UdpSocket, to: &SockAddr, bytes: &[IoSlice<'_>], control: &[u8]) -> io::Result<()> {
    let message = MsgHdr::new().with_addr(to).with_buffers(bytes).with_control(control);
    match SockRef::from(socket).sendmsg(&message, 0) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&FULL))?;
            SockRef::from(socket).sendmsg(&message, 0).map(drop)
        }
        sent => sent.map(drop),
    }
}

/// The control message that says the size of packets: `cmsghdr` of cmsg(3), then a `u16`, all padded to a
/// word.
fn segment_size(size: u16) -> Vec<u8> {
    let word = size_of::<usize>();
    let head = word + 2 * size_of::<i32>();
    let mut control = (head + size_of::<u16>()).to_ne_bytes().to_vec();
    control.extend(UDP_SEGMENT.0.to_ne_bytes());
    control.extend(UDP_SEGMENT.1.to_ne_bytes());
    control.extend(size.to_ne_bytes());
    control.resize(head + word, 0);
    control
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_window_arrives_as_packets_whether_the_kernel_cuts_or_not() {
        let here = "127.0.0.1:0".parse().unwrap();
        let [from, to] = [(); 2].map(|()| bind(here, None).unwrap());
        to.set_nonblocking(false).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let bytes: Vec<u8> = (0..100_u8).collect();
        let blocks = Blocks { first: 65_535, count: 4, offset: 0, bytes: 100 };
        for mut cut in [true, false] {
            let peer = to.local_addr().unwrap();
            send_blocks(&from, peer, blocks, &bytes, 32, &mut cut).unwrap();
            let mut received = Vec::new();
            while received.len() < 4 {
                let mut buffer = [0; 200];
                let (length, _) = to.recv_from(&mut buffer).unwrap();
                received.push(buffer[..length].to_vec());
            }
            let numbers: Vec<&[u8]> = received.iter().map(|packet| &packet[..4]).collect();
            assert_eq!(numbers, [[0, 3, 255, 255], [0, 3, 0, 0], [0, 3, 0, 1], [0, 3, 0, 2]]);
            assert_eq!(received.iter().flat_map(|packet| packet[4..].to_vec()).collect::<Vec<_>>(), bytes);
            let lengths: Vec<usize> = received.iter().map(Vec::len).collect();
            assert_eq!(lengths, [36, 36, 36, 8]);
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert!(bind("127.0.0.1:0".parse().unwrap(), Some("no-such-if")).is_err());
    }
}
