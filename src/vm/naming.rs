//! Names of domains, their MAC addresses and console sockets. Pure: the same instance and device always
//! give the same names, two instances never share one.

use crate::model::id::DeviceId;
use sha2::{Digest, Sha256};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest domain name made here. libvirt makes file names of it with additions of its own, which
/// may have 255 bytes.
pub const MAX_DOMAIN_NAME: usize = 80;

/// The longest path of a unix socket: `sun_path` has 108 bytes with the final zero (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

/// How much of a hash tells apart names that were cut or altered.
const HASH_LEN: usize = 8;

/// `pilab-<instance>-<device>`: only `a-z A-Z 0-9 . _ -`, cut to [`MAX_DOMAIN_NAME`]. A name that had
/// to be altered ends in a hash of what it was.
pub fn domain_name(instance: &str, device: &DeviceId) -> String {
    let wanted = format!("pilab-{instance}-{device}");
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if wanted.len() <= MAX_DOMAIN_NAME && wanted.chars().all(plain) {
        return wanted;
    }
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&wanted));
    let room = MAX_DOMAIN_NAME - HASH_LEN - 1;
    let kept: String = wanted.chars().map(|c| if plain(c) { c } else { '-' }).take(room).collect();
    let (short, _) = hash.split_at(HASH_LEN);
    format!("{kept}-{short}")
}

/// The domain's MAC address: QEMU's prefix (52:54:00, locally administered) and 3 bytes of the name's
/// SHA-256.
pub fn mac(domain: &str) -> String {
    let [a, b, c, ..]: [u8; 32] = Sha256::digest(domain).into();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

/// The domain's UUID (RFC 9562 §5.8, version 8: a custom one), where it must be always the same: of the name's SHA-256.
pub fn uuid(domain: &str) -> String {
    let mut hash: [u8; 32] = Sha256::digest(format!("uuid {domain}")).into();
    hash[6] = hash[6] & 0x0f | 0x80;
    hash[8] = hash[8] & 0x3f | 0x80;
    format_uuid(hash.first_chunk().unwrap_or(&[0; 16]))
}

/// As text.
pub(super) fn format_uuid(bytes: &[u8; 16]) -> String {
    let hex = data_encoding::HEXLOWER.encode(bytes);
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// The console's socket; none when its path is longer than the kernel takes.
pub fn console(run_dir: &Path, domain: &str) -> Result<PathBuf, PathBuf> {
    let path = run_dir.join(format!("{domain}.console"));
    if path.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH { Ok(path) } else { Err(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    #[test]
    fn names_are_readable_when_they_can_be() {
        assert_eq!(domain_name("dev", &id("lab-vm-1")), "pilab-dev-lab-vm-1");
        assert_eq!(domain_name("a/b", &id("x")), "pilab-a-b-x-76e8c1ff");
        assert_eq!(mac("pilab-dev-lab-vm-1"), mac("pilab-dev-lab-vm-1"));
        assert_ne!(mac("pilab-dev-lab-vm-1"), mac("pilab-dev-lab-vm-2"));
        assert_eq!(uuid("pilab-dev-lab-vm-1"), uuid("pilab-dev-lab-vm-1"));
        assert_eq!(uuid("pilab-dev-lab-vm-1").get(14..15), Some("8"));
        assert_ne!(uuid("pilab-dev-lab-vm-1"), uuid("pilab-dev-lab-vm-2"));
    }

    proptest! {
        #[test]
        fn names_are_bounded_plain_and_distinct(a in "\\PC{0,90}", b in "\\PC{0,90}") {
            let (one, two) = (domain_name(&a, &id("vm")), domain_name(&b, &id("vm")));
            prop_assert!(one.len() <= MAX_DOMAIN_NAME);
            prop_assert!(one.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c)));
            prop_assert_eq!(a == b, one == two);
        }
    }

    #[test]
    fn a_socket_path_that_the_kernel_would_cut_is_refused() {
        assert_eq!(console(Path::new("/run/x"), "d"), Ok(PathBuf::from("/run/x/d.console")));
        assert!(console(Path::new(&format!("/{}", "x".repeat(98))), "d").is_err());
    }
}
