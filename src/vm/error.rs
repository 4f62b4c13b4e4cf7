//! What can go wrong with virtual machines, and what to try.

use crate::device::ports::PortError;
use crate::model::device::Arch;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What libvirt said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("libvirt: {message}")]
pub struct LibvirtError {
    /// In its words.
    pub message: String,
}

/// A virtual machine or its host could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// This build has no virtual machines.
    #[error("virtual machines are not enabled in this build")]
    NotEnabled,
    /// libvirt cannot be reached.
    #[error("cannot connect to libvirt at {uri}")]
    Connect {
        /// Where.
        uri: String,
        /// Why.
        source: LibvirtError,
    },
    /// A call to libvirt failed.
    #[error("cannot {operation}")]
    Call {
        /// What was tried.
        operation: String,
        /// Why.
        source: LibvirtError,
    },
    /// libvirt took a call and does not answer it.
    #[error("cannot {operation}: libvirt did not answer within {} s", waited.as_secs())]
    Silent {
        /// What was tried.
        operation: String,
        /// The bound.
        waited: Duration,
    },
    /// libvirt has no such network, or cannot start it.
    #[error("libvirt's network {network} is not there")]
    Network {
        /// Its name.
        network: String,
        /// Why.
        source: LibvirtError,
    },
    /// The network has no IPv4 address on the host, so guests cannot reach the coordinator.
    #[error("libvirt's network {network} has no IPv4 gateway")]
    NoGateway {
        /// Its name.
        network: String,
    },
    /// The network's bridge was removed from this machine, and libvirt still calls it active.
    #[error(
        "the bridge {bridge} of libvirt's network {network} is not there, though libvirt calls the network active"
    )]
    NoBridge {
        /// The network.
        network: String,
        /// Its bridge.
        bridge: String,
    },
    /// There is no emulator for the architecture.
    #[error("qemu-system-{arch} is not installed, or libvirt does not know of it")]
    NoEmulator {
        /// The architecture.
        arch: Arch,
        /// What libvirt says, where it says anything.
        source: Option<LibvirtError>,
    },
    /// The data disk cannot be made or removed.
    #[error("cannot make the data disk {}", path.display())]
    DataDisk {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The directory for console sockets cannot be made.
    #[error("cannot make {}", path.display())]
    RunDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A console socket's path would be too long for the kernel.
    #[error("the console socket's path {} is longer than {} bytes", path.display(), super::naming::MAX_SOCKET_PATH)]
    SocketPath {
        /// Which.
        path: PathBuf,
    },
    /// The machine was switched on with nothing to boot.
    #[error("nothing was offered to boot")]
    NothingOffered,
    /// It was offered what only a board can take.
    #[error("a virtual machine has no boot ROM that asks for files, and makes its own device tree")]
    NoBootRom,
    /// The saved memory of a device cannot be kept or read.
    #[error("cannot keep saved memory in {}", path.display())]
    Saves {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device cannot be saved.
    #[error("cannot save the device")]
    Save {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device could not be saved before.
    #[error("its memory could not be saved when that was tried last: {cause}")]
    NoSave {
        /// Why.
        cause: String,
    },
    /// libvirt makes the saves, as root, and for root alone.
    #[error("libvirt keeps saved memory for root alone, which this process is not")]
    SavesOfRoot,
    /// Another process makes, uses or removes the device's saved memory.
    #[error("the device's saved memory is in use by another process")]
    SavesInUse,
    /// The lab's kernel arguments choose what the device does after its boot.
    #[error(
        "the lab's kernel arguments have systemd.unit: a device that is saved waits in a unit of its own"
    )]
    OtherUnit,
    /// The device that was to be saved did not get to where it waits, or the one that was restored did not wake.
    #[error("the device did not {what}")]
    Channel {
        /// What it was to do.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A text cannot be written in a domain's description.
    #[error(transparent)]
    Text(#[from] super::xml::NotXml),
    /// Nobody connected to the console, so the machine was not let run.
    #[error("the console {} was not attached within {} s", path.display(), timeout.as_secs())]
    ConsoleNotAttached {
        /// Its socket.
        path: PathBuf,
        /// The bound.
        timeout: Duration,
    },
    /// The thread of a call to libvirt ended before the call.
    #[error("the call to libvirt was given up")]
    Abandoned,
}

impl VmError {
    /// What to try.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotEnabled => "build with `--features vm`".to_owned(),
            Self::Connect { source, .. } => connect_hint(&source.message, has_systemd()),
            Self::Silent { .. } => {
                let again = if has_systemd() {
                    "systemctl restart libvirtd"
                } else {
                    "end it and start `libvirtd -d`"
                };
                format!("see whether `virsh list` answers; if not, {again}: machines run on meanwhile")
            }
            Self::Network { network, .. } => format!(
                "see `virsh net-list --all`; `virsh net-start {network}` starts it; without `network` in the lab file the lab makes one of its own, `pilab`"
            ),
            Self::NoGateway { .. } => "choose a network of mode nat or route with an IPv4 address".to_owned(),
            Self::NoBridge { network, .. } => format!(
                "`virsh net-destroy {network} && virsh net-start {network}` makes it anew; machines that hang on it are cut off already"
            ),
            Self::NoEmulator { arch, .. } => {
                let package = match arch {
                    Arch::Aarch64 => "qemu-system-arm",
                    Arch::X86_64 => "qemu-system-x86",
                };
                format!("run lab/setup, or install the package {package} and restart libvirtd")
            }
            Self::DataDisk { .. } => {
                "lab/setup installs e2fsprogs, which has mkfs.ext4; room is needed too".to_owned()
            }
            Self::SocketPath { .. } => "choose a shorter state directory".to_owned(),
            Self::Call { source, .. } => call_hint(&source.message)?.to_owned(),
            Self::NoBootRom => "boot a kernel: --kernel, and --initrd with it".to_owned(),
            Self::Saves { .. } => {
                "a save takes as much room as the device has memory, at the most".to_owned()
            }
            Self::RunDir { .. }
            | Self::NothingOffered
            | Self::Save { .. }
            | Self::SavesInUse
            | Self::SavesOfRoot
            | Self::NoSave { .. }
            | Self::OtherUnit
            | Self::Channel { .. }
            | Self::Text(_)
            | Self::Abandoned => return None,
            Self::ConsoleNotAttached { .. } => {
                "its socket must be of the coordinator's group: that of the directory, which is made with mode 2711".to_owned()
            }
        };
        Some(hint)
    }

    /// As the port's error for `operation`.
    pub fn into_port(self, operation: String) -> PortError {
        if matches!(self, Self::NotEnabled) {
            return PortError::NotEnabled { part: "virtual machines (feature `vm`)" };
        }
        PortError::Failed { operation, hint: self.hint(), source: Box::new(self) }
    }
}

/// Whether systemd runs this host (sd_booted(3)).
fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn connect_hint(message: &str, systemd: bool) -> String {
    let message = message.to_ascii_lowercase();
    if ["permission denied", "authentication", "polkit", "access denied"]
        .iter()
        .any(|sign| message.contains(sign))
    {
        return "add your user to the group libvirt and log in again".to_owned();
    }
    let start = if systemd { "systemctl start libvirtd" } else { "virtlogd -d; libvirtd -d" };
    format!("is libvirtd running? Start it with `{start}`; lab/setup installs it")
}

fn call_hint(message: &str) -> Option<&'static str> {
    let message = message.to_ascii_lowercase();
    if message.contains("permission denied") {
        Some(
            "the user that runs QEMU must be able to read the image: each directory above it needs mode 0711 or more",
        )
    } else if message.contains("virtlogd") {
        Some(
            "is virtlogd running? Start it with `systemctl start virtlogd`, or `virtlogd -d` without systemd",
        )
    } else if message.contains("cannot allocate memory") {
        Some("the host has too little free memory for another machine")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_tell_what_to_start_on_this_kind_of_host() {
        let missing =
            "Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory";
        assert!(connect_hint(missing, true).contains("systemctl start libvirtd"));
        assert!(connect_hint(missing, false).contains("virtlogd -d; libvirtd -d"));
        let denied = "Failed to connect socket to '/var/run/libvirt/libvirt-sock': Permission denied";
        assert!(connect_hint(denied, true).contains("group libvirt"));
    }
}
