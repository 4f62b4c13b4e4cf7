//! Who is to be looked at first when nobody can say whose fault it is.

use crate::model::boot::BootStage;

/// Who is to be looked at first.
pub(super) enum Suspect {
    /// The device, unless the product is what it boots.
    Device(String),
    /// The product, the lab, or nobody alone.
    Other(String),
}

/// Who it is when a boot stands still after `stage`.
pub(super) fn boot_suspect(stage: Option<BootStage>) -> Suspect {
    let words = match stage {
        None => "power, or the console's wiring",
        Some(BootStage::Bootloader | BootStage::Firmware) => "the kernel or initramfs was not loaded",
        Some(BootStage::Kernel) => "the initramfs, or a driver",
        Some(BootStage::Initramfs) => "the network: no DHCP answer",
        Some(BootStage::Network) => "the boot ticket was not accepted, or the coordinator cannot be reached",
        Some(BootStage::Ticket) => "a layer of the image",
        Some(BootStage::SwitchRoot | BootStage::Systemd) => "the image's services",
        Some(BootStage::Sshd | BootStage::Agent | BootStage::Login) => {
            return Suspect::Other("the agent, or its way to the NATS server".to_owned());
        }
        Some(BootStage::Restart) => "the device, which restarted by itself",
        Some(BootStage::Panic | BootStage::UnderVoltage | BootStage::Watchdog | BootStage::OutOfMemory) => {
            "the device, which is in trouble"
        }
    };
    Suspect::Device(words.to_owned())
}
