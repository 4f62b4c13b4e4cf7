//! Boot attempts and the stages a booting device passes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One power-on or reset of a device, from then to the next. Counts from 1; 0 is before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootAttempt(pub u64);

impl fmt::Display for BootAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a console tells of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootStage {
    /// The boot loader in ROM or EEPROM speaks.
    Bootloader,
    /// The VideoCore or UEFI firmware speaks.
    Firmware,
    /// The kernel runs.
    Kernel,
    /// Our initramfs runs.
    Initramfs,
    /// The initramfs has an address.
    Network,
    /// The initramfs has exchanged its ticket.
    Ticket,
    /// The root filesystem is mounted and init is about to run.
    SwitchRoot,
    /// systemd runs.
    Systemd,
    /// sshd can be reached.
    Sshd,
    /// The agent runs.
    Agent,
    /// A login prompt.
    Login,
    /// Kernel panic.
    Panic,
    /// The supply voltage is too low.
    UnderVoltage,
    /// A watchdog fired.
    Watchdog,
    /// The kernel killed a process for want of memory.
    OutOfMemory,
    /// The device restarts or powers down by itself.
    Restart,
}

impl BootStage {
    /// The name, as in scenario files and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bootloader => "bootloader",
            Self::Firmware => "firmware",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Network => "network",
            Self::Ticket => "ticket",
            Self::SwitchRoot => "switch-root",
            Self::Systemd => "systemd",
            Self::Sshd => "sshd",
            Self::Agent => "agent",
            Self::Login => "login",
            Self::Panic => "panic",
            Self::UnderVoltage => "under-voltage",
            Self::Watchdog => "watchdog",
            Self::OutOfMemory => "out-of-memory",
            Self::Restart => "restart",
        }
    }

    /// Whether only what the lab itself offers for booting shows the stage.
    pub fn is_ours(self) -> bool {
        match self {
            Self::Initramfs | Self::Network | Self::Ticket | Self::SwitchRoot | Self::Sshd | Self::Agent => {
                true
            }
            Self::Bootloader
            | Self::Firmware
            | Self::Kernel
            | Self::Systemd
            | Self::Login
            | Self::Panic
            | Self::UnderVoltage
            | Self::Watchdog
            | Self::OutOfMemory
            | Self::Restart => false,
        }
    }

    /// Whether the stage tells of trouble rather than of progress.
    pub fn is_trouble(self) -> bool {
        matches!(self, Self::Panic | Self::UnderVoltage | Self::Watchdog | Self::OutOfMemory)
    }
}

impl fmt::Display for BootStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
