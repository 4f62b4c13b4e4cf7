//! The one program that a machine with UEFI boots.

use super::build::{UEFI_STUB, kernel_arguments};
use super::{BootTree, Firmware, Source, TreeError, TreeSpec};
use crate::model::device::Model;
use crate::netboot::uki;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;

/// The largest stub that is read. Debian's has 97 KB.
const MAX_STUB: u64 = 4 << 20;

impl TreeSpec {
    /// A tree with that program alone. Without a kernel the files are one's own, and taken as they are.
    pub(super) fn build_uefi(self) -> Result<BootTree, TreeError> {
        let Self { board, firmware: Firmware(mut files), kernel, initramfs, device_tree, cmdline } = self;
        let Some(kernel) = kernel else {
            return Ok(BootTree { files, bootcode: None });
        };
        let stub = files.remove(UEFI_STUB).ok_or(TreeError::Missing { board, file: UEFI_STUB })?;
        let line = kernel_arguments(board, &cmdline)?;
        let line = Source::Bytes(line.trim_end().to_owned().into());
        let sections = [
            (".cmdline", Some(line)),
            (".linux", Some(kernel)),
            (".initrd", initramfs),
            (".dtb", device_tree),
        ];
        let mut parts = Vec::new();
        for (name, source) in sections {
            let Some(source) = source else { continue };
            parts.push((name, length(&source)?, source));
        }
        let lengths: Vec<_> = parts.iter().map(|(name, length, _)| (*name, *length)).collect();
        let layout = uki::lay_out(&bytes(&stub)?, &lengths)
            .map_err(|source| TreeError::Stub { file: UEFI_STUB, source })?;
        let mut joined = vec![Source::Bytes(layout.head.into())];
        for ((_, _, source), gap) in parts.into_iter().zip(layout.gaps) {
            joined.push(source);
            joined.extend((gap > 0).then(|| Source::Bytes(vec![0; gap].into())));
        }
        let name = Model::UefiArm64.kernel_file().to_owned();
        Ok(BootTree { files: BTreeMap::from([(name, Source::Joined(joined))]), bootcode: None })
    }
}

fn length(source: &Source) -> Result<u64, TreeError> {
    match source {
        Source::Bytes(bytes) => Ok(bytes.len() as u64),
        Source::File(path) => match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(source) => Err(TreeError::Part { path: path.clone(), source }),
        },
        Source::Joined(parts) => parts.iter().map(length).sum(),
    }
}

fn bytes(stub: &Source) -> Result<Bytes, TreeError> {
    match stub {
        Source::Bytes(bytes) => Ok(bytes.clone()),
        Source::File(path) => {
            let read = length(stub)? <= MAX_STUB;
            let read = if read { fs::read(path) } else { Err(std::io::ErrorKind::FileTooLarge.into()) };
            read.map(Bytes::from).map_err(|source| TreeError::Part { path: path.clone(), source })
        }
        Source::Joined(_) => {
            Err(TreeError::Missing { board: crate::netboot::board::Board::UefiArm64, file: UEFI_STUB })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netboot::board::Board;
    use crate::netboot::uki::test_stub;

    fn spec(files: &[(&str, Source)], kernel: Option<Source>) -> TreeSpec {
        let mut firmware = Firmware::default();
        for (name, source) in files {
            firmware.add(name, source.clone()).unwrap();
        }
        let cmdline = vec!["pilab.ticket=abc".to_owned()];
        TreeSpec { board: Board::UefiArm64, firmware, kernel, initramfs: None, device_tree: None, cmdline }
    }

    #[test]
    fn one_program_holds_it_all_and_nothing_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let initramfs = dir.path().join("initramfs");
        fs::write(&initramfs, [3; 700]).unwrap();
        let stub = Source::Bytes(test_stub().into());
        let start = ("start4.elf", Source::Bytes("x".into()));
        let mut spec = spec(&[(UEFI_STUB, stub), start], Some(Source::Bytes(vec![2; 600].into())));
        spec.initramfs = Some(Source::File(initramfs.clone()));
        let tree = spec.clone().build().unwrap();
        assert_eq!(tree.paths().collect::<Vec<_>>(), ["vmlinuz.efi"]);
        let content = tree.get("vmlinuz.efi").unwrap().open().unwrap();
        let mut image = vec![0; usize::try_from(content.length()).unwrap()];
        content.read_exact_at(&mut image, 0).unwrap();
        assert_eq!(image.len(), 0x600 + 0x200 + 0x400 + 0x400);
        let line = b"console=ttyAMA0,115200 pilab.ticket=abc\0";
        assert_eq!(&image[0x600..][..line.len()], line);
        assert_eq!((image[0x800], image[0x800 + 599], image[0x800 + 600]), (2, 2, 0));
        assert_eq!((image[0xc00], image[0xc00 + 699], image[0xc00 + 700]), (3, 3, 0));

        fs::remove_file(&initramfs).unwrap();
        let gone = spec.build().unwrap_err();
        assert!(matches!(&gone, TreeError::Part { path, .. } if *path == initramfs), "{gone:?}");
    }

    #[test]
    fn without_a_kernel_files_are_taken_as_they_are_and_with_one_a_stub_is_needed() {
        let kernel = Some(Source::Bytes("k".into()));
        let own = spec(&[("grub.efi", Source::Bytes("g".into()))], None).build().unwrap();
        assert_eq!(own.paths().collect::<Vec<_>>(), ["grub.efi"]);
        let missing = spec(&[], kernel.clone()).build().unwrap_err();
        assert_eq!(missing.to_string(), "a uefi-arm64 needs the firmware file linuxaa64.efi.stub");
        assert!(missing.hint().unwrap().contains("systemd-boot-efi"));
        let wrong = spec(&[(UEFI_STUB, Source::Bytes("no stub".into()))], kernel).build().unwrap_err();
        assert!(matches!(wrong, TreeError::Stub { .. }), "{wrong:?}");
    }
}
