//! Which network card an address belongs to, as the kernel's neighbour table has it.

use std::net::IpAddr;

/// Tells the network card behind an address on a network of this host.
pub trait Neighbours: Send + Sync + 'static {
    /// Its MAC address, lower-case with colons; none when it is not in the table.
    fn mac(&self, address: IpAddr) -> Option<String>;
}

/// The kernel's own table. A device that has opened a TCP connection is in it.
pub struct KernelNeighbours;

impl Neighbours for KernelNeighbours {
    fn mac(&self, address: IpAddr) -> Option<String> {
        parse(&std::fs::read_to_string("/proc/net/arp").ok()?, address)
    }
}

/// `ATF_COM` of linux/if_arp.h: the entry's hardware address is known.
const COMPLETE: u32 = 0x2;

/// Finds `address` in the text of `/proc/net/arp` (proc(5)): a heading, then lines of
/// `address type flags mac mask device`.
fn parse(table: &str, address: IpAddr) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let found: IpAddr = columns.next()?.parse().ok()?;
        let flags = u32::from_str_radix(columns.nth(1)?.strip_prefix("0x")?, 16).ok()?;
        let mac = columns.next()?;
        (found == address && flags & COMPLETE != 0).then(|| mac.to_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
192.168.122.7    0x1         0x2         52:54:00:AB:cd:01     *        virbr0
192.168.122.8    0x1         0x0         00:00:00:00:00:00     *        virbr0
garbage
";

    #[test]
    fn only_complete_entries_count() {
        let mac = |text: &str| parse(TABLE, text.parse().unwrap());
        assert_eq!(mac("192.168.122.7").as_deref(), Some("52:54:00:ab:cd:01"));
        assert_eq!(mac("192.168.122.8"), None, "incomplete");
        assert_eq!(mac("192.168.122.9"), None, "unknown");
        assert_eq!(mac("::1"), None);
        assert_eq!(parse("", "192.168.122.7".parse().unwrap()), None);
    }
}
