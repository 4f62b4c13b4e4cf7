//! A unified kernel image: one program for UEFI that holds a kernel, its initramfs and its arguments. Firmware loads it as it
//! loads any program; the stub that it begins with starts the kernel (systemd-stub(7)).
//!
//! ```text
//!   ┌ stub: headers, code ┬ .cmdline ┬ .linux ┬ .initrd ┐
//!   └─ bytes, made ───────┴──────────┴─ file ─┴─ file ──┘
//! ```
//!
//! Only the headers and what fills gaps are made here. The files stay where they are, so a boot attempt costs some KiB.

/// The most sections that are added: arguments, kernel, initramfs, device tree.
const MAX_SECTIONS: usize = 8;
/// A header of a section (PE/COFF, "Section Table").
const SECTION_HEADER: usize = 40;
/// Initialised data that is read.
const DATA_THAT_IS_READ: u32 = 0x4000_0040;
/// The largest alignment that is believed.
const MAX_ALIGNMENT: u32 = 1 << 16;

/// A stub cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StubError {
    /// It is no program for 64-bit UEFI.
    #[error("it is no UEFI program: {0}")]
    NotPe(&'static str),
    /// Its headers have no room left.
    #[error("its headers have no room for {0} more sections")]
    Full(usize),
    /// What is put into it is longer than such a program can be.
    #[error("the image would have 4 GiB or more")]
    Long,
}

/// What an image begins with, and where the rest of it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The stub with its new headers, up to the first section.
    pub head: Vec<u8>,
    /// For each section how many bytes of nothing follow it.
    pub gaps: Vec<usize>,
}

/// Puts sections, each with a name and a length, behind a stub.
pub fn lay_out(stub: &[u8], sections: &[(&str, u64)]) -> Result<Layout, StubError> {
    let mut head = stub.to_vec();
    let pe = field(&head, 0x3c)? as usize;
    if head.get(..2) != Some(b"MZ") || head.get(pe..pe.saturating_add(4)) != Some(b"PE\0\0") {
        return Err(StubError::NotPe("it does not begin as one"));
    }
    let optional = pe + 24;
    let (before, table) =
        (usize::from(short(&head, pe + 6)?), optional + usize::from(short(&head, pe + 20)?));
    // PE32+: the one whose fields lie where they are read here.
    if short(&head, optional)? != 0x20b {
        return Err(StubError::NotPe("it is not one of 64 bits"));
    }
    let (memory, disk) = (field(&head, optional + 32)?, field(&head, optional + 36)?);
    let sound = |alignment: u32| alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT;
    if !sound(memory) || !sound(disk) {
        return Err(StubError::NotPe("its alignment is none"));
    }
    let room = field(&head, optional + 60)? as usize;
    let end_of_table = table + (before + sections.len()) * SECTION_HEADER;
    if sections.len() > MAX_SECTIONS || end_of_table > room || room > head.len() {
        return Err(StubError::Full(sections.len()));
    }

    // In memory behind all that is there, on disk too.
    let mut address = 0;
    for number in 0..before {
        let at = table + number * SECTION_HEADER;
        address = address.max(u64::from(field(&head, at + 8)?) + u64::from(field(&head, at + 12)?));
    }
    head.resize(head.len().next_multiple_of(disk as usize), 0);
    let (mut offset, mut gaps) = (head.len() as u64, Vec::new());
    for (number, (name, length)) in sections.iter().enumerate() {
        address = address.next_multiple_of(u64::from(memory));
        let padded = length.checked_next_multiple_of(u64::from(disk)).ok_or(StubError::Long)?;
        let word = |value: u64| u32::try_from(value).map_err(|_| StubError::Long);
        let mut header = [0; SECTION_HEADER];
        for (to, from) in header.iter_mut().take(8).zip(name.bytes()) {
            *to = from;
        }
        let words = [word(*length)?, word(address)?, word(padded)?, word(offset)?];
        for (number, word) in words.into_iter().enumerate() {
            write(&mut header, 8 + 4 * number, word);
        }
        write(&mut header, 36, DATA_THAT_IS_READ);
        let at = table + (before + number) * SECTION_HEADER;
        if let Some(to) = head.get_mut(at..at + SECTION_HEADER) {
            to.copy_from_slice(&header);
        }
        gaps.push(usize::try_from(padded - length).unwrap_or(0));
        (address, offset) = (address + length, offset + padded);
    }
    let size = u32::try_from(address.next_multiple_of(u64::from(memory))).map_err(|_| StubError::Long)?;
    write(&mut head, optional + 56, size);
    // The checksum: UEFI looks at none, and this would be another.
    write(&mut head, optional + 64, 0);
    let count = u16::try_from(before + sections.len()).map_err(|_| StubError::Full(sections.len()))?;
    if let Some(to) = head.get_mut(pe + 6..pe + 8) {
        to.copy_from_slice(&count.to_le_bytes());
    }
    Ok(Layout { head, gaps })
}

fn field(bytes: &[u8], at: usize) -> Result<u32, StubError> {
    let field = bytes.get(at..at.saturating_add(4)).and_then(|field| <[u8; 4]>::try_from(field).ok());
    field.map(u32::from_le_bytes).ok_or(StubError::NotPe("it ends within its headers"))
}

fn short(bytes: &[u8], at: usize) -> Result<u16, StubError> {
    let field = bytes.get(at..at.saturating_add(2)).and_then(|field| <[u8; 2]>::try_from(field).ok());
    field.map(u16::from_le_bytes).ok_or(StubError::NotPe("it ends within its headers"))
}

fn write(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(to) = bytes.get_mut(at..at + 4) {
        to.copy_from_slice(&value.to_le_bytes());
    }
}

/// The least that passes for a stub: one section of code, and room for more.
#[cfg(test)]
pub(super) fn test_stub() -> Vec<u8> {
    let mut stub = vec![0; 0x600];
    stub[..2].copy_from_slice(b"MZ");
    write(&mut stub, 0x3c, 0x40);
    stub[0x40..0x44].copy_from_slice(b"PE\0\0");
    stub[0x46] = 1;
    stub[0x54] = 0xf0;
    stub[0x58..0x5a].copy_from_slice(&[0x0b, 0x02]);
    for (at, value) in [(32, 0x1000), (36, 0x200), (56, 0x2000), (60, 0x400), (64, 7)] {
        write(&mut stub, 0x58 + at, value);
    }
    let table = 0x58 + 0xf0;
    stub[table..table + 5].copy_from_slice(b".text");
    for (at, value) in [(8, 0x180), (12, 0x1000), (16, 0x200), (20, 0x400)] {
        write(&mut stub, table + at, value);
    }
    stub
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sections_come_behind_the_stub_where_the_headers_say() {
        let stub = test_stub();
        let layout = lay_out(&stub, &[(".cmdline", 10), (".linux", 0x1200)]).unwrap();
        assert_eq!((layout.head.len(), layout.gaps.as_slice()), (0x600, &[0x1f6, 0][..]));
        assert_eq!(short(&layout.head, 0x46), Ok(3));
        let table = 0x58 + 0xf0;
        let header = |number: usize| {
            let at = table + number * SECTION_HEADER;
            [8, 12, 16, 20].map(|offset| field(&layout.head, at + offset).unwrap())
        };
        assert_eq!(header(1), [10, 0x2000, 0x200, 0x600]);
        assert_eq!(header(2), [0x1200, 0x3000, 0x1200, 0x800]);
        assert_eq!(&layout.head[table + 2 * 40..][..8], b".linux\0\0");
        assert_eq!((field(&layout.head, 0x58 + 56), field(&layout.head, 0x58 + 64)), (Ok(0x5000), Ok(0)));
        // The rest is the stub's.
        assert_eq!(layout.head[0x200..0x600], stub[0x200..0x600]);
    }

    #[test]
    fn what_is_no_stub_is_refused() {
        let section = [(".linux", 1)];
        let mut wrong = test_stub();
        wrong[0x58] = 0;
        assert_eq!(lay_out(&wrong, &section), Err(StubError::NotPe("it is not one of 64 bits")));
        assert!(matches!(lay_out(b"MZ", &section), Err(StubError::NotPe(_))));
        assert!(matches!(lay_out(&[0; 0x600], &section), Err(StubError::NotPe(_))));
        let mut full = test_stub();
        write(&mut full, 0x58 + 60, 0x180);
        assert_eq!(lay_out(&full, &section), Err(StubError::Full(1)));
        assert_eq!(lay_out(&test_stub(), &[(".linux", u64::MAX)]), Err(StubError::Long));
        assert_eq!(lay_out(&test_stub(), &[(".linux", 1 << 32)]), Err(StubError::Long));
    }

    proptest! {
        #[test]
        fn no_stub_makes_it_panic(
            at in 0_usize..0x180, value: u32, length: u64,
        ) {
            let mut stub = test_stub();
            write(&mut stub, at, value);
            let _ = lay_out(&stub, &[(".linux", length)]);
        }
    }
}
