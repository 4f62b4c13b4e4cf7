//! The network segment of an IPv4 address of this machine, from the kernel's table of routes (proc(5)).

use std::fs;
use std::net::Ipv4Addr;

/// `RTF_GATEWAY` of linux/route.h: what it leads to is not on the wire itself.
const GATEWAY: u32 = 0x2;

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The interface that is on it.
    pub interface: String,
    /// Its mask.
    pub mask: Ipv4Addr,
}

impl Segment {
    /// The segment that an address lies in, as this machine is connected; none where it is connected to none such.
    pub fn of(address: Ipv4Addr) -> Option<Self> {
        Self::find(&fs::read_to_string("/proc/net/route").ok()?, address)
    }

    /// Finds it in the text of the table: a heading, then lines of `interface destination gateway flags … mask …`, in
    /// numbers as the kernel holds them. The loopback is not in it.
    fn find(table: &str, address: Ipv4Addr) -> Option<Self> {
        if address.is_loopback() {
            return Some(Self { interface: "lo".to_owned(), mask: Ipv4Addr::new(255, 0, 0, 0) });
        }
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        let routes = table.lines().skip(1).filter_map(|line| {
            let columns: Vec<&str> = line.split_ascii_whitespace().collect();
            let [interface, destination, _, flags, _, _, _, mask, ..] = columns.as_slice() else {
                return None;
            };
            let (destination, mask) = (number(destination)?.to_ne_bytes(), number(mask)?.to_ne_bytes());
            let found = Self { interface: (*interface).to_owned(), mask: mask.into() };
            let on_wire = number(flags)? & GATEWAY == 0;
            (on_wire && found.contains(destination.into(), address)).then_some(found)
        });
        routes.max_by_key(|segment| u32::from(segment.mask).leading_ones())
    }

    /// Whether two addresses lie in one such segment.
    pub fn contains(&self, one: Ipv4Addr, other: Ipv4Addr) -> bool {
        one & self.mask == other & self.mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_narrowest_route_without_a_gateway_is_it() {
        const TABLE: &str = "\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
eth1	00004D0A	00000000	0001	0	0	0	0000FFFF	0	0	0
eth2	00004D0A	00000000	0001	0	0	0	00FFFFFF	0	0	0
garbage
";
        let of = |text: &str| Segment::find(TABLE, text.parse().unwrap());
        let segment = of("10.77.0.1").unwrap();
        assert_eq!((segment.interface.as_str(), segment.mask), ("eth2", Ipv4Addr::new(255, 255, 255, 0)));
        assert!(segment.contains([10, 77, 0, 1].into(), [10, 77, 0, 254].into()));
        assert!(!segment.contains([10, 77, 0, 1].into(), [10, 77, 1, 1].into()));
        assert_eq!(of("10.77.9.1").unwrap().interface, "eth1");
        assert_eq!(of("198.51.100.1"), None, "behind a gateway is not on the wire");
        assert_eq!(of("127.0.0.1").unwrap().interface, "lo");
    }
}
