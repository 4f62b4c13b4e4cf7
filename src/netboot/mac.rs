//! Hardware addresses of network cards.

use std::fmt;
use std::str::FromStr;

/// The MAC address of an Ethernet card.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// With hyphens, as a Pi with `TFTP_PREFIX=2` asks for its files: `dc-a6-32-01-36-c2`.
    pub fn hyphenated(&self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no MAC address: six pairs of hexadecimal digits with : or - between them")]
pub struct NoMac(pub String);

impl FromStr for Mac {
    type Err = NoMac;
    fn from_str(text: &str) -> Result<Self, NoMac> {
        let wrong = || NoMac(text.chars().take(40).collect());
        let mut bytes = [0; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut bytes {
            let digits = |pair: &&str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
            let pair = pairs.next().filter(digits).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        if pairs.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_either_notation() {
        let mac = Mac([0xdc, 0xa6, 0x32, 1, 0x36, 0xc2]);
        for text in ["dc:a6:32:01:36:c2", "DC-A6-32-01-36-C2"] {
            assert_eq!(text.parse(), Ok(mac));
        }
        assert_eq!(
            (mac.to_string().as_str(), mac.hyphenated().as_str()),
            ("dc:a6:32:01:36:c2", "dc-a6-32-01-36-c2")
        );
        for text in [
            "",
            "dc:a6:32:01:36",
            "dc:a6:32:01:36:c2:00",
            "dc:a6:32:01:36:+2",
            "dca6320136c2",
            "zz:a6:32:01:36:c2",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(NoMac(text.to_owned())));
        }
    }
}
