//! The description of a domain, and whose it is. Pure.

use super::capabilities::{Accelerator, GuestSupport};
use super::xml::{self, NotXml, escape};
use crate::device::ports::BootLayer;
use crate::model::device::Arch;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The XML namespace of what we say of a domain.
pub const NAMESPACE: &str = "urn:pilab:domain:1";

/// The prefix that the namespace goes by.
pub const PREFIX: &str = "pilab";

/// How much of a layer's SHA-256 is the serial number of its disk: all that virtio-blk has room for
/// (virtio 1.2 §5.2.6.1).
const SERIAL_LEN: usize = 20;

/// The serial number of the data disk, by which the initramfs knows it.
pub(super) const DATA_SERIAL: &str = "pilab-data";

/// PCI ports beyond those of layers: network card, random numbers, channel, data disk, and one to spare.
const PORTS: usize = 5;

/// The name by which the guest knows the channel on which it is woken.
const CHANNEL: &str = "pilab.wake";

/// Whose a domain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The coordinator.
    pub instance: String,
    /// The device.
    pub device: String,
    /// The file that the owning process holds locked.
    pub lock: PathBuf,
    /// Kept on request: nobody but a person removes it.
    pub kept: bool,
}

impl Owner {
    /// As the element that libvirt keeps with a domain. libvirt adds the namespace when it replaces the
    /// element, and takes it away when it answers it.
    pub fn element(&self) -> Result<String, NotXml> {
        Ok(format!("<domain {}/>", self.attributes()?))
    }

    /// As the element inside a domain's description.
    fn qualified_element(&self) -> Result<String, NotXml> {
        Ok(format!("<{PREFIX}:domain xmlns:{PREFIX}='{NAMESPACE}' {}/>", self.attributes()?))
    }

    fn attributes(&self) -> Result<String, NotXml> {
        Ok(format!(
            "instance='{}' device='{}' owner-lock='{}' kept='{}'",
            escape(&self.instance)?,
            escape(&self.device)?,
            escape(text(&self.lock)?)?,
            if self.kept { "yes" } else { "no" },
        ))
    }

    /// Reads the element that libvirt answers for [`NAMESPACE`].
    pub fn read(element: &str) -> Option<Self> {
        let tokens = xml::tokens(element);
        let value = |key| tokens.first()?.attribute("domain", key);
        Some(Self {
            instance: value("instance")?.to_owned(),
            device: value("device")?.to_owned(),
            lock: PathBuf::from(value("owner-lock")?),
            kept: value("kept") == Some("yes"),
        })
    }
}

/// What a domain is made of.
#[derive(Debug, Clone)]
pub struct Domain<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its network card's address.
    pub mac: &'a str,
    /// Its architecture.
    pub arch: Arch,
    /// How it runs on this host.
    pub support: &'a GuestSupport,
    /// The label of the user that runs QEMU, where there is one.
    pub qemu_user: Option<&'a str>,
    /// Its memory.
    pub memory_mib: u32,
    /// Its processors.
    pub vcpus: u32,
    /// libvirt's network.
    pub network: &'a str,
    /// Its console's socket.
    pub console: &'a Path,
    /// Whose it is.
    pub owner: &'a Owner,
    /// Its data disk.
    pub data_disk: Option<&'a Path>,
    /// What it boots.
    pub boots: Boots<'a>,
    /// What it has besides when it is to be saved and woken; it has no data disk then.
    pub sleeper: Option<Sleeper<'a>>,
}

/// What a domain boots.
#[derive(Debug, Clone, Copy)]
pub struct Boots<'a> {
    /// Kernel file.
    pub kernel: Option<&'a Path>,
    /// Initramfs file.
    pub initramfs: Option<&'a Path>,
    /// Layers, bottom first.
    pub layers: &'a [BootLayer],
    /// Kernel arguments beyond those of the machine.
    pub cmdline: &'a [String],
}

/// What makes a domain one that can be saved, and woken for one lease after another.
#[derive(Debug, Clone, Copy)]
pub struct Sleeper<'a> {
    /// Always the same for one name: it is in the saved memory.
    pub uuid: &'a str,
    /// The socket of the channel over which it is told who it is.
    pub channel: &'a Path,
}

impl Domain<'_> {
    /// The description that libvirt takes.
    ///
    /// - Restart, halt and crash all end the domain: each boot attempt needs a ticket of its own.
    /// - Layers are read-only raw disks through the host's page cache, which all guests then share.
    /// - `virtio-rng` so that nothing in the guest waits for entropy.
    /// - No graphics, USB, balloon, nor boot ROM of the network card: nothing uses them, each costs time.
    /// - The translation cache of the emulator stays at QEMU's default of 1 GiB, which is enough.
    pub fn xml(&self) -> Result<String, NotXml> {
        let mut xml = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut xml)?;
        Ok(xml)
    }

    fn write(&self, xml: &mut String) -> Result<std::fmt::Result, NotXml> {
        let kvm = self.support.accelerator == Accelerator::Kvm;
        let kind = if kvm { "kvm" } else { "qemu" };
        let machine = match self.arch {
            Arch::Aarch64 => "virt",
            Arch::X86_64 => "q35",
        };
        let arguments = self.arguments();
        let arguments = escape(&arguments)?;
        let name = escape(self.name)?;
        let metadata = self.owner.qualified_element()?;
        let mut files = String::new();
        for (element, file) in [("kernel", self.boots.kernel), ("initrd", self.boots.initramfs)] {
            if let Some(file) = file {
                let _ = write!(files, "\n    <{element}>{}</{element}>", escape(text(file)?)?);
            }
        }
        let emulator = escape(text(&self.support.emulator)?)?;
        let console = escape(text(self.console)?)?;
        let network = escape(self.network)?;
        let mac = escape(self.mac)?;
        let (memory, vcpus, arch) = (self.memory_mib, self.vcpus, self.arch);
        let (features, cpu) = self.machine_details(kvm);
        let disks = self.disks()?;
        let label = self.label()?;
        let (uuid, channel) = self.sleeper()?;
        Ok(write!(
            xml,
            "<domain type='{kind}'>
  <name>{name}</name>
{uuid}  <metadata>{metadata}</metadata>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='{arch}' machine='{machine}'>hvm</type>{files}
    <cmdline>{arguments}</cmdline>
  </os>
  <features>{features}</features>
  {cpu}
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{emulator}</emulator>
{disks}    <interface type='network'>
      <mac address='{mac}'/>
      <source network='{network}'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='unix'>
      <source mode='bind' path='{console}'/>
      <target port='0'/>
    </serial>
{channel}    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
{label}</domain>
"
        ))
    }

    /// `panic=-1`: a panic restarts at once, which ends the domain.
    fn arguments(&self) -> String {
        let console = match self.arch {
            Arch::Aarch64 => "ttyAMA0",
            Arch::X86_64 => "ttyS0",
        };
        let mut arguments = format!("console={console} panic=-1");
        for argument in self.boots.cmdline {
            arguments.push(' ');
            arguments.push_str(argument);
        }
        arguments
    }

    /// The interrupt controller and the processor. `cortex-a72` is that of a Pi 4; QEMU's `max` for
    /// 64-bit ARM boots four times slower, as it emulates pointer authentication.
    fn machine_details(&self, kvm: bool) -> (&'static str, &'static str) {
        match (self.arch, kvm) {
            (Arch::Aarch64, false) => (
                "<gic version='2'/>",
                "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>cortex-a72</model></cpu>",
            ),
            (Arch::Aarch64, true) => ("<gic version='host'/>", "<cpu mode='host-passthrough'/>"),
            (Arch::X86_64, false) => ("<acpi/><apic/>", "<cpu mode='maximum'/>"),
            (Arch::X86_64, true) => ("<acpi/><apic/>", "<cpu mode='host-passthrough'/>"),
        }
    }

    fn disks(&self) -> Result<String, NotXml> {
        let mut disks = String::new();
        for (letter, layer) in ('a'..='z').zip(self.boots.layers) {
            let file = escape(text(&layer.path)?)?;
            let serial: String = layer.sha256.chars().take(SERIAL_LEN).collect();
            let serial = escape(&serial)?;
            let _ = write!(
                disks,
                "    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='writeback' io='threads'/>
      <source file='{file}'/>
      <target dev='vd{letter}' bus='virtio'/>
      <readonly/>
      <serial>{serial}</serial>
    </disk>
"
            );
        }
        if let Some(file) = self.data_disk {
            disks.push_str(&data_disk(file)?);
        }
        Ok(disks)
    }

    /// Its UUID and its channel. A data disk is plugged in when it is woken; libvirt makes as many PCI ports as there are
    /// devices at first, so those are named, and more.
    fn sleeper(&self) -> Result<(String, String), NotXml> {
        let Some(Sleeper { uuid, channel }) = self.sleeper else { return Ok(Default::default()) };
        let (uuid, channel) = (escape(uuid)?, escape(text(channel)?)?);
        let ports =
            "    <controller type='pci' model='pcie-root-port'/>\n".repeat(self.boots.layers.len() + PORTS);
        let channel = format!(
            "    <channel type='unix'>
      <source mode='bind' path='{channel}'/>
      <target type='virtio' name='{CHANNEL}'/>
    </channel>
    <controller type='pci' index='0' model='pcie-root'/>
{ports}"
        );
        Ok((format!("  <uuid>{uuid}</uuid>\n"), channel))
    }

    /// QEMU runs as its usual user, but libvirt gives it no file: by default it makes that user the
    /// owner of kernel and layers for as long as the domain lives, and several domains share them.
    fn label(&self) -> Result<String, NotXml> {
        let Some(user) = self.qemu_user else { return Ok(String::new()) };
        let user = escape(user)?;
        Ok(format!("  <seclabel type='static' model='dac' relabel='no'><label>{user}</label></seclabel>\n"))
    }
}

/// The description of a network with addresses 192.168.`third`.0/24, whose guests reach what the host reaches. Nothing but
/// guests is on its bridge, so there can be no loop for the spanning tree protocol to find.
pub fn network(name: &str, third: u8) -> String {
    format!(
        "<network>
  <name>{name}</name>
  <forward mode='nat'/>
  <bridge name='virbr-{name}' stp='off' delay='0'/>
  <ip address='192.168.{third}.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.{third}.2' end='192.168.{third}.254'/></dhcp>
  </ip>
</network>
"
    )
}

/// The description of a data disk.
pub fn data_disk(file: &Path) -> Result<String, NotXml> {
    let file = escape(text(file)?)?;
    Ok(format!(
        "    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='writeback' io='threads' discard='unmap'/>
      <source file='{file}'/>
      <target dev='vdz' bus='virtio'/>
      <serial>{DATA_SERIAL}</serial>
    </disk>
"
    ))
}

fn text(path: &Path) -> Result<&str, NotXml> {
    path.to_str().ok_or_else(|| NotXml { text: path.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner {
            instance: "dev".to_owned(),
            device: "lab-vm-1".to_owned(),
            lock: "/run/pilab/a & b/lock".into(),
            kept: false,
        }
    }

    fn xml(arch: Arch, accelerator: Accelerator, cmdline: &str) -> Result<String, NotXml> {
        let support = GuestSupport { emulator: "/usr/bin/qemu".into(), accelerator };
        let layers = [BootLayer { path: "/images/base.squashfs".into(), sha256: "0123456789".repeat(7) }];
        let cmdline = [cmdline.to_owned()];
        let channel = Path::new("/run/pilab/x.wake");
        Domain {
            name: "pilab-dev-lab-vm-1",
            mac: "52:54:00:00:00:01",
            arch,
            support: &support,
            qemu_user: (arch == Arch::Aarch64).then_some("+64055:+64055"),
            memory_mib: 1024,
            vcpus: 2,
            network: "default",
            console: Path::new("/run/pilab/x.console"),
            owner: &owner(),
            data_disk: (arch == Arch::X86_64).then_some(Path::new("/run/pilab/x.data")),
            boots: Boots {
                kernel: Some(Path::new("/images/vmlinuz")),
                initramfs: Some(Path::new("/images/it's")),
                layers: &layers,
                cmdline: &cmdline,
            },
            sleeper: (arch == Arch::X86_64).then_some(Sleeper { uuid: "1-2", channel }),
        }
        .xml()
    }

    #[test]
    fn an_emulated_arm_domain() {
        insta::assert_snapshot!(xml(Arch::Aarch64, Accelerator::Tcg, "a=\"<1>\"").unwrap(), @r#"
        <domain type='qemu'>
          <name>pilab-dev-lab-vm-1</name>
          <metadata><pilab:domain xmlns:pilab='urn:pilab:domain:1' instance='dev' device='lab-vm-1' owner-lock='/run/pilab/a &amp; b/lock' kept='no'/></metadata>
          <memory unit='MiB'>1024</memory>
          <vcpu>2</vcpu>
          <os>
            <type arch='aarch64' machine='virt'>hvm</type>
            <kernel>/images/vmlinuz</kernel>
            <initrd>/images/it&apos;s</initrd>
            <cmdline>console=ttyAMA0 panic=-1 a=&quot;&lt;1&gt;&quot;</cmdline>
          </os>
          <features><gic version='2'/></features>
          <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>cortex-a72</model></cpu>
          <on_poweroff>destroy</on_poweroff>
          <on_reboot>destroy</on_reboot>
          <on_crash>destroy</on_crash>
          <devices>
            <emulator>/usr/bin/qemu</emulator>
            <disk type='file' device='disk'>
              <driver name='qemu' type='raw' cache='writeback' io='threads'/>
              <source file='/images/base.squashfs'/>
              <target dev='vda' bus='virtio'/>
              <readonly/>
              <serial>01234567890123456789</serial>
            </disk>
            <interface type='network'>
              <mac address='52:54:00:00:00:01'/>
              <source network='default'/>
              <model type='virtio'/>
              <rom enabled='no'/>
            </interface>
            <serial type='unix'>
              <source mode='bind' path='/run/pilab/x.console'/>
              <target port='0'/>
            </serial>
            <rng model='virtio'>
              <backend model='random'>/dev/urandom</backend>
            </rng>
            <controller type='usb' model='none'/>
            <memballoon model='none'/>
          </devices>
          <seclabel type='static' model='dac' relabel='no'><label>+64055:+64055</label></seclabel>
        </domain>
        "#);
    }

    #[test]
    fn the_processor_follows_architecture_and_accelerator() {
        let data = "<source file='/run/pilab/x.data'/>\n      <target dev='vdz' bus='virtio'/>\n      <serial>pilab-data";
        let sleeper =
            "<source mode='bind' path='/run/pilab/x.wake'/>\n      <target type='virtio' name='pilab.wake'/>";
        let xml_of_both = xml(Arch::X86_64, Accelerator::Kvm, "").unwrap();
        for part in [data, sleeper, "<uuid>1-2</uuid>"] {
            assert!(xml_of_both.contains(part), "{xml_of_both}");
        }
        let table = [
            (Arch::Aarch64, Accelerator::Kvm, ["type='kvm'", "host-passthrough", "ttyAMA0"]),
            (Arch::X86_64, Accelerator::Kvm, ["type='kvm'", "host-passthrough", "ttyS0"]),
            (Arch::X86_64, Accelerator::Tcg, ["type='qemu'", "mode='maximum'", "machine='q35'"]),
        ];
        for (arch, accelerator, parts) in table {
            let xml = xml(arch, accelerator, "").unwrap();
            assert!(parts.iter().all(|part| xml.contains(part)), "{xml}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let refused = xml(Arch::Aarch64, Accelerator::Tcg, "a\0b").unwrap_err();
        assert!(refused.text.contains("a\0b"), "{refused}");
    }

    #[test]
    fn the_owner_reads_back_and_other_elements_do_not() {
        assert_eq!(Owner::read(&owner().element().unwrap()), Some(owner()));
        assert_eq!(Owner::read("<domain instance='x' device='y'/>"), None);
        assert_eq!(Owner::read(""), None);
    }
}
