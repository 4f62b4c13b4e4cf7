//! The channel on which a device is woken: a virtio-serial port, whose other end is `firmware/layer/usr/lib/pilab/wake`, where
//! the lines that pass are described.

use super::error::VmError;
use super::{domain, naming};
use crate::model::id::DeviceId;
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The most bytes of an answer: one line.
const MAX_ANSWER: u64 = 1024;
/// How much entropy a device is given: what the kernel's pool holds (BLAKE2s, 256 bits), twice.
const ENTROPY: usize = 64;

/// What a device is told when it is woken.
pub(super) struct Wakening<'a> {
    /// Who it is.
    pub(super) device: &'a DeviceId,
    /// Whether it has a data disk.
    pub(super) data_disk: bool,
    /// What a ticket would have brought it.
    pub(super) files: &'a [(String, Vec<u8>)],
}

impl Wakening<'_> {
    /// The lines; with identities and entropy of their own each time.
    fn text(&self, now: Duration) -> String {
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let (boot, machine): ([u8; 16], [u8; 16]) = (version_4(rand::random()), version_4(rand::random()));
        let mut entropy = [0; ENTROPY];
        rand::fill(&mut entropy);
        let time = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let mut text = String::new();
        let mut line = |word: &str, values: &[&[u8]]| {
            text.push_str(word);
            for value in values {
                // Writing to a String cannot fail.
                let _ = write!(text, " {}", hex(value));
            }
            text.push('\n');
        };
        line("entropy", &[&entropy]);
        line("boot-id", &[naming::format_uuid(&boot).as_bytes()]);
        line("machine-id", &[hex(&machine).as_bytes()]);
        line("hostname", &[self.device.as_str().as_bytes()]);
        if self.data_disk {
            line("disk", &[domain::DATA_SERIAL.as_bytes()]);
        }
        for (name, content) in self.files {
            line("file", &[name.as_bytes(), content]);
        }
        line("time", &[time.as_bytes()]);
        text.push_str("end\n");
        text
    }
}

/// Random bytes as a UUID (RFC 9562 §5.4), which a machine's id is too (machine-id(5)).
fn version_4(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// The host's end.
pub(super) struct Channel(BufReader<UnixStream>);

impl Channel {
    /// Connects; the socket is there before libvirt answers that the domain is.
    pub(super) async fn connect(path: &Path) -> Result<Self, VmError> {
        let stream = UnixStream::connect(path).await;
        Ok(Self(BufReader::new(
            stream.map_err(|source| VmError::Channel { what: "open its channel", source })?,
        )))
    }

    /// Waits until the device sleeps.
    pub(super) async fn ready(&mut self, within: Duration) -> Result<(), VmError> {
        let said = timeout(within, self.line()).await.unwrap_or_else(|late| Err(late.into()));
        let ready = said.and_then(|line| if line == "ready" { Ok(()) } else { Err(io::Error::other(line)) });
        ready.map_err(|source| VmError::Channel { what: "get to where it waits to be woken", source })
    }

    /// Wakes the device; answers where it is.
    pub(super) async fn wake(&mut self, told: &Wakening<'_>, within: Duration) -> Result<IpAddr, VmError> {
        let woken = async {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.0.get_mut().write_all(told.text(now).as_bytes()).await?;
            let line = self.line().await?;
            let address = line.strip_prefix("awake ").and_then(|address| address.parse().ok());
            address.ok_or_else(|| io::Error::other(line.strip_prefix("failed ").unwrap_or(&line).to_owned()))
        };
        let woken = timeout(within, woken).await.unwrap_or_else(|late| Err(late.into()));
        woken.map_err(|source| VmError::Channel { what: "wake", source })
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.0).take(MAX_ANSWER).read_line(&mut line).await?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its channel ended")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn told(text: &str) -> BTreeMap<String, Vec<u8>> {
        let (lines, end) = text.split_at(text.len() - 4);
        assert_eq!(end, "end\n");
        let line = |line: &str| {
            let (word, values) = line.split_once(' ').unwrap();
            let mut values =
                values.split(' ').map(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap());
            let first = values.next().unwrap();
            match values.next() {
                Some(content) => (format!("{word} {}", String::from_utf8(first).unwrap()), content),
                None => (word.to_owned(), first),
            }
        };
        lines.lines().map(line).collect()
    }

    #[test]
    fn no_two_wakes_are_told_the_same() {
        let device = DeviceId::new("lab-vm-1").unwrap();
        let files = [("identity.json".to_owned(), b"{}\n\0".to_vec())];
        let wakening = Wakening { device: &device, data_disk: true, files: &files };
        let now = Duration::new(1_790_000_000, 5);
        let (one, other) = (told(&wakening.text(now)), told(&wakening.text(now)));
        assert_eq!(one["file identity.json"], b"{}\n\0");
        assert_eq!(one["time"], b"1790000000.000000005");
        assert_eq!(
            (one["hostname"].as_slice(), one["disk"].as_slice()),
            (&b"lab-vm-1"[..], &b"pilab-data"[..])
        );
        assert_eq!((one["entropy"].len(), one["machine-id"].len(), one["boot-id"].len()), (ENTROPY, 32, 36));
        for word in ["entropy", "machine-id", "boot-id"] {
            assert_ne!(one[word], other[word], "{word}");
        }
        assert!(!told(&Wakening { data_disk: false, ..wakening }.text(now)).contains_key("disk"));
    }

    #[tokio::test]
    async fn what_a_device_answers_is_an_address_or_a_reason() {
        let device = DeviceId::new("lab-vm-1").unwrap();
        let table: [(&str, Result<&str, &str>); 5] = [
            ("awake 192.0.2.7\n", Ok("192.0.2.7")),
            ("failed no DHCP server answers\n", Err("no DHCP server answers")),
            ("awake nowhere\n", Err("awake nowhere")),
            ("awake 192", Err("its channel ended")),
            ("", Err("its channel ended")),
        ];
        for (answer, expected) in table {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer.as_bytes()).await.unwrap();
            theirs.shutdown().await.unwrap();
            let wakening = Wakening { device: &device, data_disk: false, files: &[] };
            let woken = Channel(BufReader::new(ours)).wake(&wakening, Duration::from_secs(60)).await;
            let woken = woken.map(|address| address.to_string()).map_err(|error| match error {
                VmError::Channel { source, .. } => source.to_string(),
                other => other.to_string(),
            });
            assert_eq!(woken, expected.map(str::to_owned).map_err(str::to_owned));
        }
    }
}
