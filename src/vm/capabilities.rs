//! What libvirt says of the host and its networks. Pure readers of its XML.

use super::xml::{Token, tokens};
use crate::model::device::Arch;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// How a guest's processor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the host's processor.
    Kvm,
    /// Emulated (QEMU's TCG).
    Tcg,
}

/// How guests of one architecture run on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSupport {
    /// QEMU's program.
    pub emulator: PathBuf,
    /// The best that works.
    pub accelerator: Accelerator,
}

/// QEMU's user in Debian, Ubuntu and Arch, and in Fedora.
const QEMU_USERS: [&str; 2] = ["libvirt-qemu", "qemu"];

/// Whether guests of `arch` may run on the host's processor: worth asking libvirt about. `cpuinfo` is the
/// text of `/proc/cpuinfo`, `host` the host's architecture.
pub fn may_virtualize(arch: Arch, cpuinfo: &str, host: Option<Arch>) -> bool {
    host == Some(arch) && virtualizes(arch, cpuinfo)
}

/// Reads QEMU's program from a domain's capabilities, `<domainCapabilities><path>…</path>`.
pub fn emulator(capabilities: &str) -> Option<PathBuf> {
    tokens(capabilities).windows(2).find_map(|pair| match pair {
        [Token::Open { name, .. }, Token::Text(path)] if name == "path" => Some(PathBuf::from(path)),
        _ => None,
    })
}

/// The label (`+uid:+gid`) of the user as whom a system's libvirt runs QEMU, from the text of
/// `/etc/passwd` (passwd(5)). libvirt's own answer takes seconds where `/dev/kvm` is there and useless.
pub fn qemu_user(passwd: &str) -> Option<String> {
    let entry = |wanted: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let mut fields = line.split(':').skip(2);
        Some(format!("+{}:+{}", fields.next()?, fields.next()?))
    };
    QEMU_USERS.into_iter().find_map(entry)
}

/// Whether the processor can virtualize. libvirt says `kvm` as soon as `/dev/kvm` is there, which it is
/// in containers on machines without VMX or SVM, where every guest then fails. On 64-bit ARM no flag
/// tells; there libvirt's word is good, as the kernel makes the device only when it runs at EL2.
fn virtualizes(arch: Arch, cpuinfo: &str) -> bool {
    arch == Arch::Aarch64
        || cpuinfo
            .lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// The lines of `/proc/cpuinfo` that tell processors apart which are not the same to a guest.
pub fn processor(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let tells = ["vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features"];
    let lines = first.lines().filter(|line| tells.iter().any(|key| line.starts_with(key)));
    lines.collect::<Vec<_>>().join("\n")
}

/// The host's IPv4 address on a network, from the network's description.
pub fn gateway(network: &str) -> Option<Ipv4Addr> {
    tokens(network).iter().find_map(|token| token.attribute("ip", "address")?.parse().ok())
}

/// The bridge of a network, from the network's description.
pub fn bridge(network: &str) -> Option<String> {
    tokens(network).iter().find_map(|token| token.attribute("bridge", "name").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_believed_only_with_a_processor_that_has_it() {
        let (arm, pc) = (Arch::Aarch64, Arch::X86_64);
        assert!(may_virtualize(pc, "flags\t\t: fpu svm sse", Some(pc)));
        assert!(may_virtualize(pc, "flags\t\t: fpu vmx", Some(pc)));
        assert!(!may_virtualize(pc, "flags\t\t: fpu sse\nbugs: vmx", Some(pc)));
        assert!(!may_virtualize(arm, "flags\t\t: fpu vmx", Some(pc)));
        assert!(may_virtualize(arm, "", Some(arm)));
    }

    #[test]
    fn the_emulator_and_the_user_that_runs_it_are_found() {
        let domain = "<domainCapabilities><path>/usr/bin/qemu-system-aarch64</path><domain>qemu</domain>";
        assert_eq!(emulator(domain), Some(PathBuf::from("/usr/bin/qemu-system-aarch64")));
        assert_eq!(emulator("<domainCapabilities/>"), None);
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:994:QEMU:/var/lib:/usr/sbin/nologin\n";
        assert_eq!(qemu_user(passwd).as_deref(), Some("+64055:+994"));
        assert_eq!(qemu_user("root:x:0:0:root:/root:/bin/sh\nqemu"), None);
    }

    #[test]
    fn a_processor_is_told_by_what_it_can_not_by_what_it_does() {
        let cpu = |mhz: u32, flags: &str| {
            format!("processor : 0\nmodel name : x\ncpu MHz : {mhz}\nflags : {flags}\n\nprocessor : 1\n")
        };
        assert_eq!(processor(&cpu(1000, "svm")), processor(&cpu(2000, "svm")));
        assert_ne!(processor(&cpu(1000, "svm")), processor(&cpu(1000, "svm avx")));
    }

    #[test]
    fn the_gateway_is_the_networks_first_ipv4_address() {
        let network = "<network><bridge name='virbr0'/><ip family='ipv6' address='fd00::1' prefix='64'/>
          <ip address='192.168.122.1' netmask='255.255.255.0'><dhcp/></ip></network>";
        assert_eq!(gateway(network), Some(Ipv4Addr::new(192, 168, 122, 1)));
        assert_eq!(gateway("<network><forward mode='bridge'/></network>"), None);
    }
}
