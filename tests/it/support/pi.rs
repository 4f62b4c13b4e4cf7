//! A Raspberry Pi's boot ROM, packet by packet, on an address of the loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);
/// Where a server's answer in DHCP holds the client's address (RFC 2131 §2).
const YIADDR: usize = 16;

/// A board.
#[derive(Debug, Clone, Copy)]
pub struct Pi {
    pub address: Ipv4Addr,
    pub mac: [u8; 6],
    pub serial: u32,
    /// Where the lab's TFTP server is.
    pub tftp: SocketAddr,
    /// The ports of DHCP, server and client.
    pub dhcp: (u16, u16),
}

impl Pi {
    /// Asks for an address, and takes it.
    pub async fn lease(&self) -> Ipv4Addr {
        let socket = socket(self.dhcp.1);
        let offered = self.exchange(&socket, 1, &[]).await;
        let request = [[50, 4].as_slice(), &offered.octets(), &[54, 4], &[127, 0, 0, 1]].concat();
        assert_eq!(self.exchange(&socket, 3, &request).await, offered);
        offered
    }

    /// Sends one message of DHCP, the same again while nothing comes, and answers the address that is told.
    async fn exchange(&self, socket: &UdpSocket, kind: u8, options: &[u8]) -> Ipv4Addr {
        let packet = self.message(kind, options);
        let mut answer = [0; 1500];
        let answered = async {
            loop {
                socket.send_to(&packet, (Ipv4Addr::LOCALHOST, self.dhcp.0)).await.unwrap();
                let heard = timeout(Duration::from_secs(1), socket.recv(&mut answer)).await;
                // What another board is told is heard by all.
                if matches!(heard, Ok(Ok(length)) if length > 240) && answer[28..34] == self.mac {
                    return;
                }
            }
        };
        timeout(DEADLINE, answered).await.expect("no answer of the DHCP server");
        let octets: [u8; 4] = answer[YIADDR..YIADDR + 4].try_into().unwrap();
        octets.into()
    }

    /// What it asks at first.
    pub fn discover(&self) -> Vec<u8> {
        self.message(1, &[])
    }

    fn message(&self, kind: u8, options: &[u8]) -> Vec<u8> {
        let mut packet = vec![1, 1, 6, 0, 0x26, 0xf3, 0x03, 0x39];
        packet.resize(28, 0);
        packet.extend(self.mac);
        packet.resize(236, 0);
        packet.extend([99, 130, 83, 99, 53, 1, kind]);
        packet.extend([60, 32]);
        packet.extend(b"PXEClient:Arch:00000:UNDI:002001");
        packet.extend([97, 17, 0]);
        packet.extend(self.serial.to_le_bytes().repeat(4));
        packet.extend(options);
        packet.push(255);
        packet
    }

    /// A file below its serial number.
    pub async fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        self.get(&format!("{:08x}/{path}", self.serial)).await
    }

    /// A file, as an EEPROM of today asks for it; or the server's words.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        let socket = UdpSocket::bind((self.address, 0)).await.unwrap();
        let request = format!("\0\x01{path}\0octet\0tsize\x000\0blksize\x001468\0");
        socket.send_to(request.as_bytes(), self.tftp).await.unwrap();
        let (mut buffer, mut file) = ([0; 2000], Vec::new());
        loop {
            let heard = timeout(DEADLINE, socket.recv_from(&mut buffer)).await.expect("no answer").unwrap();
            let (packet, from) = (&buffer[..heard.0], heard.1);
            match packet[1] {
                6 => drop(socket.send_to(&[0, 4, 0, 0], from).await.unwrap()),
                3 => {
                    file.extend(&packet[4..]);
                    socket.send_to(&[0, 4, packet[2], packet[3]], from).await.unwrap();
                    if packet.len() < 4 + 1468 {
                        return Ok(file);
                    }
                }
                _ => return Err(String::from_utf8_lossy(&packet[4..packet.len() - 1]).into_owned()),
            }
        }
    }

    /// Asks for a file and ends it at once, as Pis do to know whether it is there.
    pub async fn probe(&self, path: &str) {
        let socket = UdpSocket::bind((self.address, 0)).await.unwrap();
        let request = format!("\0\x01{:08x}/{path}\0octet\0tsize\x000\0blksize\x001468\0", self.serial);
        socket.send_to(request.as_bytes(), self.tftp).await.unwrap();
        let mut buffer = [0; 2000];
        let (_, from) = timeout(DEADLINE, socket.recv_from(&mut buffer)).await.expect("no answer").unwrap();
        socket.send_to(b"\0\x05\0\0Early terminate\0", from).await.unwrap();
    }
}

/// What a DHCP client of this host has: others hear the same port.
fn socket(port: u16) -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).unwrap();
    UdpSocket::from_std(socket.into()).unwrap()
}
