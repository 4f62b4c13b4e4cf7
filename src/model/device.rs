//! What a device is: how it exists, which model it is, what it can do.

use super::id::DeviceId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How a device exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A real Raspberry Pi.
    Pi,
    /// A Raspberry Pi of a virtual rack: what passes on it has not passed on a real one.
    Sim,
    /// A libvirt virtual machine.
    Vm,
    /// The agent in a container on the coordinator's host.
    Container,
}

impl std::str::FromStr for Backend {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pi" => Ok(Self::Pi),
            "sim" => Ok(Self::Sim),
            "vm" => Ok(Self::Vm),
            "container" => Ok(Self::Container),
            _ => Err(format!("unknown backend {text:?}: use pi, sim, vm or container")),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pi => "pi",
            Self::Sim => "sim",
            Self::Vm => "vm",
            Self::Container => "container",
        })
    }
}

/// The processor architecture of a device, as Rust and QEMU name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit ARM: every Raspberry Pi that netboots.
    #[serde(alias = "arm64")]
    Aarch64,
    /// 64-bit PC: virtual machines only.
    #[serde(rename = "x86_64", alias = "amd64")]
    X86_64,
}

impl Arch {
    /// The name Debian gives it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Aarch64 => "arm64",
            Self::X86_64 => "amd64",
        }
    }

    /// The architecture this program runs on, when it is one that devices have.
    pub fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "aarch64" => Some(Self::Aarch64),
            "x86_64" => Some(Self::X86_64),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aarch64 => "aarch64",
            Self::X86_64 => "x86_64",
        })
    }
}

impl std::str::FromStr for Arch {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            "x86_64" | "amd64" => Ok(Self::X86_64),
            _ => Err(format!("unknown architecture {text:?}: use aarch64 (arm64) or x86_64 (amd64)")),
        }
    }
}

/// The model of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Model {
    /// Raspberry Pi 3 Model B.
    #[serde(rename = "pi3b")]
    Pi3B,
    /// Raspberry Pi 3 Model B+.
    #[serde(rename = "pi3b-plus", alias = "pi3b+")]
    Pi3BPlus,
    /// Raspberry Pi 3 Model A+.
    #[serde(rename = "pi3a-plus", alias = "pi3a+")]
    Pi3APlus,
    /// Raspberry Pi 4 Model B.
    #[serde(rename = "pi4b")]
    Pi4B,
    /// Raspberry Pi 400.
    #[serde(rename = "pi400")]
    Pi400,
    /// Raspberry Pi 5.
    #[serde(rename = "pi5")]
    Pi5,
    /// Raspberry Pi 500.
    #[serde(rename = "pi500")]
    Pi500,
    /// Raspberry Pi Compute Module 4.
    #[serde(rename = "cm4")]
    Cm4,
    /// Raspberry Pi Compute Module 5.
    #[serde(rename = "cm5")]
    Cm5,
    /// Raspberry Pi Zero 2 W.
    #[serde(rename = "zero2w")]
    Zero2W,
    /// A machine that boots over the network by UEFI, 64-bit ARM; in a virtual rack alone.
    #[serde(rename = "uefi-arm64")]
    UefiArm64,
    /// Virtual machine, 64-bit ARM.
    #[serde(rename = "vm-aarch64")]
    VmAarch64,
    /// Virtual machine, 64-bit PC.
    #[serde(rename = "vm-x86_64")]
    VmX86_64,
    /// The agent in a container on the coordinator's host.
    #[serde(rename = "container")]
    Container,
}

impl Model {
    /// The architecture of the model; none when it is that of the coordinator's host.
    pub fn arch(self) -> Option<Arch> {
        match self {
            Self::VmX86_64 => Some(Arch::X86_64),
            Self::Container => None,
            _ => Some(Arch::Aarch64),
        }
    }

    /// How a device of the model exists.
    pub fn backend(self) -> Backend {
        match self {
            Self::VmAarch64 | Self::VmX86_64 => Backend::Vm,
            Self::Container => Backend::Container,
            // No real one has been tried.
            Self::UefiArm64 => Backend::Sim,
            _ => Backend::Pi,
        }
    }

    /// The virtual machine of an architecture.
    pub fn vm(arch: Arch) -> Self {
        match arch {
            Arch::Aarch64 => Self::VmAarch64,
            Arch::X86_64 => Self::VmX86_64,
        }
    }

    /// What the kernel is called in the boot trees that the lab makes.
    pub fn kernel_file(self) -> &'static str {
        match self {
            Self::UefiArm64 => "vmlinuz.efi",
            _ => "vmlinuz",
        }
    }

    /// Why it does not boot by DHCP and TFTP; none for those that do.
    pub fn cannot_netboot(self) -> Option<&'static str> {
        match self {
            Self::Pi3APlus | Self::Zero2W => {
                Some("has no Ethernet, and no Pi boots over Wi-Fi: boot it from an SD card")
            }
            Self::VmAarch64 | Self::VmX86_64 | Self::Container => {
                Some("is no Raspberry Pi that boots over a network")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pi3B => "pi3b",
            Self::Pi3BPlus => "pi3b-plus",
            Self::Pi3APlus => "pi3a-plus",
            Self::Pi4B => "pi4b",
            Self::Pi400 => "pi400",
            Self::Pi5 => "pi5",
            Self::Pi500 => "pi500",
            Self::Cm4 => "cm4",
            Self::Cm5 => "cm5",
            Self::Zero2W => "zero2w",
            Self::UefiArm64 => "uefi-arm64",
            Self::VmAarch64 => "vm-aarch64",
            Self::VmX86_64 => "vm-x86_64",
            Self::Container => "container",
        })
    }
}

/// Something a device can do that not every device can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// It boots what a run offers it, and the agent in that answers. A scenario takes it for each device of which it
    /// asks more than power and console.
    Boot,
    /// Its power can be switched.
    Power,
    /// Its console is captured from before power-on.
    Console,
    /// Commands can be run on it without going through the agent.
    Ssh,
    /// It can restart by itself and come back.
    Reboot,
    /// State survives a reboot.
    PersistentState,
    /// Containers on it have a network, and their ports can be published.
    Network,
    /// All that runs on it is made by the lab. A scenario takes it where an image or a kernel is under test: what
    /// lies on a device's own card is neither.
    Image,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boot => "boot",
            Self::Power => "power",
            Self::Console => "console",
            Self::Ssh => "ssh",
            Self::Reboot => "reboot",
            Self::PersistentState => "persistent-state",
            Self::Network => "network",
            Self::Image => "image",
        })
    }
}

/// A device as the inventory describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id on the wire.
    pub id: DeviceId,
    /// How it exists.
    pub backend: Backend,
    /// Its model.
    pub model: Model,
    /// Free labels, for scenarios to choose by.
    pub labels: BTreeMap<String, String>,
    /// What it can do.
    pub capabilities: BTreeSet<Capability>,
}

impl Device {
    /// Whether it is of this model, if one is asked for, and has these labels.
    pub fn is_kind(&self, model: Option<Model>, labels: &BTreeMap<String, String>) -> bool {
        model.is_none_or(|model| model == self.model)
            && labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_is_written_with_one_name_and_read_with_two() {
        for (arch, name) in [(Arch::Aarch64, "aarch64"), (Arch::X86_64, "x86_64")] {
            for known in [name, arch.debian()] {
                assert_eq!(known.parse(), Ok(arch));
                assert_eq!(serde_json::from_str::<Arch>(&format!("{known:?}")).unwrap(), arch);
            }
            assert_eq!(serde_json::to_string(&arch).unwrap(), format!("{name:?}"));
        }
        assert!("riscv64".parse::<Arch>().is_err());
    }

    #[test]
    fn a_model_is_read_as_it_is_written_and_a_plus_as_people_write_it() {
        let read = |text: &str| serde_json::from_value::<Model>(text.into()).unwrap();
        for model in [Model::Pi3B, Model::Pi3BPlus, Model::Pi3APlus, Model::Pi400, Model::Cm5, Model::Zero2W]
        {
            assert_eq!(read(&model.to_string()), model);
            assert_eq!((model.arch(), model.backend()), (Some(Arch::Aarch64), Backend::Pi));
        }
        assert_eq!((read("pi3b+"), read("pi3a+")), (Model::Pi3BPlus, Model::Pi3APlus));
    }
}
