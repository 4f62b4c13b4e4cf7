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

/// What the host can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    aarch64: Option<GuestSupport>,
    x86_64: Option<GuestSupport>,
    /// The label (`+uid:+gid`) of the user that runs QEMU, where libvirt runs it as another user.
    pub qemu_user: Option<String>,
}

impl Capabilities {
    /// Reads libvirt's capabilities. `cpuinfo` is the text of `/proc/cpuinfo`, `host` the host's
    /// architecture.
    pub fn read(capabilities: &str, cpuinfo: &str, host: Option<Arch>) -> Self {
        let tokens = tokens(capabilities);
        let guest = |arch| {
            let mut support = guest_support(&tokens, arch)?;
            if host != Some(arch) || !virtualizes(arch, cpuinfo) {
                support.accelerator = Accelerator::Tcg;
            }
            Some(support)
        };
        Self { aarch64: guest(Arch::Aarch64), x86_64: guest(Arch::X86_64), qemu_user: qemu_user(&tokens) }
    }

    /// How guests of `arch` run; none without an emulator for them.
    pub fn guest(&self, arch: Arch) -> Option<&GuestSupport> {
        match arch {
            Arch::Aarch64 => self.aarch64.as_ref(),
            Arch::X86_64 => self.x86_64.as_ref(),
        }
    }
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

/// Reads `<guest><arch name='…'><emulator>…</emulator><domain type='kvm'/></arch></guest>`.
fn guest_support(tokens: &[Token], arch: Arch) -> Option<GuestSupport> {
    let name = arch.to_string();
    let start = tokens.iter().position(|token| token.attribute("arch", "name") == Some(&name))?;
    let inside = tokens.get(start..)?;
    let end = inside.iter().position(|token| matches!(token, Token::Close { name } if name == "arch"))?;
    let inside = inside.get(..end)?;
    let emulator = inside.windows(2).find_map(|pair| match pair {
        [Token::Open { name, .. }, Token::Text(path)] if name == "emulator" => Some(PathBuf::from(path)),
        _ => None,
    })?;
    let kvm = inside.iter().any(|token| token.attribute("domain", "type") == Some("kvm"));
    let accelerator = if kvm { Accelerator::Kvm } else { Accelerator::Tcg };
    Some(GuestSupport { emulator, accelerator })
}

/// Reads `<secmodel><model>dac</model>…<baselabel type='kvm'>+64055:+64055</baselabel></secmodel>`.
fn qemu_user(tokens: &[Token]) -> Option<String> {
    let dac = tokens.iter().position(|token| matches!(token, Token::Text(text) if text == "dac"))?;
    tokens.get(dac..)?.windows(2).find_map(|pair| match pair {
        [Token::Open { name, .. }, Token::Text(label)] if name == "baselabel" => Some(label.clone()),
        _ => None,
    })
}

/// The host's IPv4 address on a network, from the network's description.
pub fn gateway(network: &str) -> Option<Ipv4Addr> {
    tokens(network).iter().find_map(|token| token.attribute("ip", "address")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "<capabilities><host><cpu><arch>x86_64</arch></cpu>
      <secmodel><model>none</model><doi>0</doi></secmodel>
      <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+64055</baselabel></secmodel></host>
      <guest><os_type>hvm</os_type><arch name='aarch64'><emulator>/usr/bin/qemu-system-aarch64</emulator>
        <machine>virt</machine><domain type='qemu'/></arch></guest>
      <guest><os_type>hvm</os_type><arch name='x86_64'><emulator>/usr/bin/qemu-system-x86_64</emulator>
        <domain type='qemu'/><domain type='kvm'/></arch></guest></capabilities>";

    fn accelerators(cpuinfo: &str, host: Arch) -> [Option<Accelerator>; 2] {
        let read = Capabilities::read(HOST, cpuinfo, Some(host));
        [Arch::Aarch64, Arch::X86_64].map(|arch| read.guest(arch).map(|guest| guest.accelerator))
    }

    #[test]
    fn kvm_is_believed_only_with_a_processor_that_has_it() {
        let [kvm, tcg] = [Some(Accelerator::Kvm), Some(Accelerator::Tcg)];
        assert_eq!(accelerators("flags\t\t: fpu svm sse", Arch::X86_64), [tcg, kvm]);
        assert_eq!(accelerators("flags\t\t: fpu vmx", Arch::X86_64), [tcg, kvm]);
        assert_eq!(accelerators("flags\t\t: fpu sse\nbugs: vmx", Arch::X86_64), [tcg, tcg]);
        assert_eq!(accelerators("flags\t\t: fpu vmx", Arch::Aarch64), [tcg, tcg]);
    }

    #[test]
    fn emulators_and_the_user_that_runs_them_are_found() {
        let read = Capabilities::read(HOST, "", Some(Arch::X86_64));
        let emulator = read.guest(Arch::Aarch64).map(|guest| guest.emulator.display().to_string());
        assert_eq!(emulator.as_deref(), Some("/usr/bin/qemu-system-aarch64"));
        assert_eq!(read.qemu_user.as_deref(), Some("+64055:+64055"));
        assert_eq!(Capabilities::read("<capabilities/>", "", None), Capabilities::default());
    }

    #[test]
    fn the_gateway_is_the_networks_first_ipv4_address() {
        let network = "<network><bridge name='virbr0'/><ip family='ipv6' address='fd00::1' prefix='64'/>
          <ip address='192.168.122.1' netmask='255.255.255.0'><dhcp/></ip></network>";
        assert_eq!(gateway(network), Some(Ipv4Addr::new(192, 168, 122, 1)));
        assert_eq!(gateway("<network><forward mode='bridge'/></network>"), None);
    }
}
