//! What a Pi says of itself in DHCP option 97.
//!
//! | who | the 16 bytes after the type 0 |
//! |---|---|
//! | 3B, boot ROM | 0x44, sixteen times: nothing |
//! | 3B+, `bootcode.bin`, 4 and 5 with `DHCP_OPTION97=0` | the serial number's low 32 bits, four times |
//! | 4 and 5 | `RPi4` or `RPi5`, board revision, low 32 bits of the MAC address (0 in EEPROMs of early 2020), low 32 bits of the serial number; each as a little-endian word |

/// What is known of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity {
    /// 4 or 5.
    pub generation: Option<u8>,
    /// The board's revision code.
    pub revision: Option<u32>,
    /// The low 32 bits of its serial number.
    pub serial: Option<u32>,
}

impl Identity {
    /// Reads option 97. Whatever it does not know stays unsaid.
    pub fn read(option: &[u8]) -> Self {
        let Some((0, rest)) = option.split_first() else { return Self::default() };
        let (words, []) = rest.as_chunks::<4>() else { return Self::default() };
        match words {
            [[b'R', b'P', b'i', generation @ b'4'..=b'9'], revision, _, serial] => Self {
                generation: Some(generation - b'0'),
                revision: Some(u32::from_le_bytes(*revision)),
                serial: Some(u32::from_le_bytes(*serial)),
            },
            [[0x44, 0x44, 0x44, 0x44], ..] => Self::default(),
            [serial, second, third, fourth]
                if serial == second && serial == third && serial == fourth && *serial != [0; 4] =>
            {
                Self { serial: Some(u32::from_le_bytes(*serial)), ..Self::default() }
            }
            _ => Self::default(),
        }
    }

    /// Whether it can be the board with this serial number. The order of bytes differs between boot loaders,
    /// so either will do.
    pub fn may_be(&self, serial: u32) -> bool {
        self.serial.is_none_or(|sent| sent == serial || sent.swap_bytes() == serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(words: [[u8; 4]; 4]) -> Vec<u8> {
        [&[0], words.as_flattened()].concat()
    }

    #[test]
    fn each_kind_of_pi_is_read() {
        let four = option([*b"RPi4", 0x00c0_3111_u32.to_le_bytes(), [0; 4], 0x9ffe_fdef_u32.to_le_bytes()]);
        let known = Identity { generation: Some(4), revision: Some(0x00c0_3111), serial: Some(0x9ffe_fdef) };
        assert_eq!(Identity::read(&four), known);
        assert!(known.may_be(0x9ffe_fdef) && known.may_be(0xeffd_fe9f) && !known.may_be(1));
        let plus = Identity::read(&option([[125, 36, 100, 85]; 4]));
        assert_eq!(plus, Identity { serial: Some(0x5564_247d), ..Identity::default() });
        for nothing in
            [option([[0x44; 4]; 4]), option([[0; 4]; 4]), vec![], vec![0], vec![1; 17], vec![0; 99]]
        {
            assert_eq!(Identity::read(&nothing), Identity::default());
            assert!(Identity::read(&nothing).may_be(7));
        }
    }
}
