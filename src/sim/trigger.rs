//! Finds in what a board says the moment at which its fault begins.

use crate::model::boot::BootStage;

/// What tells of a stage, in the words of boot loaders, kernel and images. Any of them.
fn words(stage: BootStage) -> &'static [&'static str] {
    match stage {
        BootStage::Bootloader => &["RPi: BOOT", "Raspberry Pi Bootcode"],
        BootStage::Firmware => &["MESS:", "BL31:", "Starting start4.elf"],
        BootStage::Kernel => &["Linux version "],
        BootStage::Initramfs => &["pilab: initramfs"],
        BootStage::Network => &["pilab: network"],
        BootStage::Ticket => &["pilab: ticket ok"],
        BootStage::SwitchRoot => &["pilab: switch-root"],
        BootStage::Systemd => &["systemd[1]: systemd "],
        BootStage::Sshd => &["pilab: sshd ready"],
        BootStage::Agent => &["pilab: agent started"],
        BootStage::Login => &[" login: "],
        BootStage::Panic => &["Kernel panic"],
        BootStage::UnderVoltage => &["nder-voltage detected"],
        BootStage::Watchdog => &["soft lockup"],
        BootStage::OutOfMemory => &["Out of memory"],
        BootStage::Restart => &["reboot: "],
    }
}

/// The longest of the words above, in bytes.
const LONGEST: usize = 32;

/// The end of what a board has said.
#[derive(Debug, Default)]
pub(super) struct Ear {
    tail: Vec<u8>,
}

impl Ear {
    /// Hears more.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Heard<'_> {
        let keep = self.tail.len().saturating_sub(LONGEST);
        self.tail.drain(..keep);
        let before = self.tail.len();
        self.tail.extend(bytes);
        Heard { bytes: &self.tail, before }
    }
}

/// What was just said, and the words that it may end.
pub(super) struct Heard<'a> {
    bytes: &'a [u8],
    /// How much of it had been said before.
    before: usize,
}

impl Heard<'_> {
    /// Whether these words have just been said to their end.
    pub(super) fn says(&self, words: &str) -> bool {
        let mut windows = self.bytes.windows(words.len()).enumerate();
        windows.any(|(at, window)| window == words.as_bytes() && at + words.len() > self.before)
    }

    /// Whether this stage has just been shown.
    pub(super) fn shows(&self, stage: BootStage) -> bool {
        words(stage).iter().any(|words| self.says(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_are_heard_once_however_they_are_cut(cuts in prop::collection::vec(1..9_usize, 1..40)) {
            let text = b"...RPi: BOOTSYS\r\n[    0.0] Linux version 6.12\r\npilab: switch-root\r\nx";
            let (mut ear, mut rest, mut heard) = (Ear::default(), text.as_slice(), [0, 0]);
            for cut in cuts.into_iter().cycle() {
                let (now, after) = rest.split_at(cut.min(rest.len()));
                let said = ear.hear(now);
                heard[0] += u32::from(said.shows(BootStage::Kernel));
                heard[1] += u32::from(said.shows(BootStage::SwitchRoot));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(heard, [1, 1]);
        }
    }

    #[test]
    fn no_words_are_longer_than_what_is_kept() {
        for stage in [BootStage::Bootloader, BootStage::Initramfs, BootStage::UnderVoltage, BootStage::Agent]
        {
            assert!(words(stage).iter().all(|words| words.len() <= LONGEST));
        }
    }
}
