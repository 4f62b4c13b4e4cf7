//! Who is to be looked at first when nobody can say whose fault it is.

use crate::model::boot::BootStage;
use crate::model::run::Outcome;
use crate::model::scenario::UnderTest;

const OR_THE_PRODUCT: &str = "or what is under test";
const AGENT: &str = "the agent, or its way to the NATS server";

/// Who is to be looked at first when a boot stands still after `stage`.
pub(super) fn boot_suspect(stage: Option<BootStage>) -> &'static str {
    match stage {
        None => "power, or the console's wiring",
        Some(BootStage::Bootloader | BootStage::Firmware) => "the kernel or initramfs was not loaded",
        Some(BootStage::Kernel) => "the initramfs, or a driver",
        Some(BootStage::Initramfs) => "the network: no DHCP answer",
        Some(BootStage::Network) => "the boot ticket was not accepted, or the coordinator cannot be reached",
        Some(BootStage::Ticket) => "a layer of the image",
        Some(BootStage::SwitchRoot | BootStage::Systemd) => "the image's services",
        Some(BootStage::Sshd | BootStage::Agent | BootStage::Login) => AGENT,
        Some(BootStage::Restart) => "the device, which restarted by itself",
        Some(BootStage::Panic | BootStage::UnderVoltage | BootStage::Watchdog | BootStage::OutOfMemory) => {
            "the device, which is in trouble"
        }
    }
}

/// Whether a time-out is one for which the device is suspected: neither the lab, nor what is under test may have done it.
pub fn suspects_the_device(under_test: UnderTest, outcome: &Outcome) -> bool {
    let others = |suspect: &str| {
        suspect.starts_with("the lab") || suspect.ends_with(OR_THE_PRODUCT) || suspect == AGENT
    };
    let boots_the_product = matches!(under_test, UnderTest::Image | UnderTest::Kernel);
    outcome.suspect.as_deref().is_some_and(|suspect| !boots_the_product && !others(suspect))
}
