//! The images that every device has, for podman on this machine.

use super::containers;
use super::error::{At, ImageError};
use crate::model::device::Arch;
use std::fs;
use std::path::{Path, PathBuf};

/// Where distributions have busybox.
const PLACES: [&str; 2] = ["/usr/bin/busybox", "/bin/busybox"];

/// Writes the images into a read-only image store below `root` (`additionalimagestores`) and answers where
/// it lies. They hold this machine's own static busybox.
pub fn write_container_store(root: &Path, arch: Arch) -> Result<PathBuf, ImageError> {
    let busybox = PLACES.iter().map(Path::new).find(|path| is_static(path));
    let busybox = busybox.ok_or(ImageError::NoBusybox)?;
    let busybox = fs::read(busybox).at("read", busybox)?;
    containers::write_store(root, arch.debian(), &busybox)?;
    Ok(root.join(containers::STORE))
}

/// Whether it is an executable that needs no loader: a 64-bit ELF file without the program header
/// `PT_INTERP` (elf(5)). Both architectures are little-endian.
fn is_static(path: &Path) -> bool {
    let Ok(file) = fs::read(path) else { return false };
    let number = |at: usize, bytes: usize| {
        let field = file.get(at..at.checked_add(bytes)?)?;
        field
            .iter()
            .rev()
            .try_fold(0_usize, |value, byte| value.checked_mul(256)?.checked_add(usize::from(*byte)))
    };
    let interpreted = || {
        let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let mut kinds = (0..count).map(|index| number(offset.checked_add(index.checked_mul(size)?)?, 4));
        kinds.try_fold(false, |found, kind| Some(found || kind? == 3))
    };
    file.starts_with(b"\x7fELF\x02\x01") && interpreted() == Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_a_loader_is_not_static() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(Path::new("/etc/passwd")));
        assert!(!is_static(Path::new("/no/such/file")));
    }

    #[test]
    fn headers_decide_and_damage_is_no_pass() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let elf = |kind: u8| {
            let mut file = vec![0; 64 + 56];
            file[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (file[32], file[54], file[56], file[64]) = (64, 56, 1, kind);
            file
        };
        for (file, wanted) in [(elf(1), true), (elf(3), false), (elf(1)[..60].to_vec(), false)] {
            fs::write(&path, file).unwrap();
            assert_eq!(is_static(&path), wanted);
        }
    }
}
