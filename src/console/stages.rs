//! Recognises boot stages in a byte stream. Pure and incremental: how the stream is cut into chunks
//! never changes what is found.
//!
//! [`Lines`] makes clean, bounded lines of the bytes; [`Detector`] matches them, and counts how often a device
//! boots in one boot attempt: a board that resets itself, or is reset by a failing supply, begins anew without
//! anybody's doing.

use super::lines::{Change, Lines};
use crate::model::boot::BootStage;
use regex::bytes::{Regex, RegexSet};
use std::collections::VecDeque;
use std::sync::LazyLock;

/// How many characters of a stage's line are kept.
const TEXT_LIMIT: usize = 200;
/// How often a stage of trouble is reported in one boot attempt; a board that browns out says so
/// hundreds of times.
const TROUBLE_LIMIT: usize = 16;
/// How many boots are counted in one boot attempt; a board whose supply is too weak begins one each second.
const BOOT_LIMIT: u32 = 16;

/// What tells of a stage, each pattern anywhere in a clean line. Sources: captured UART logs of the
/// Pi's loaders, Linux (printk texts are stable from 4.x to 7.x), systemd, and our own initramfs and
/// units for the lines that begin with `pilab:`.
const PATTERNS: &[(BootStage, &str)] = &[
    (BootStage::Bootloader, r"RPi: BOOTSYS release VERSION:"),
    (BootStage::Bootloader, r"RPi: BOOTLOADER release VERSION:"),
    (BootStage::Bootloader, r"Raspberry Pi Bootcode"),
    (BootStage::Firmware, r"MESS:\d\d:\d\d:\d\d\.\d+:\d: "),
    (BootStage::Firmware, r"Starting start4?\.elf @"),
    (BootStage::Firmware, r"NOTICE:  BL31:"),
    (BootStage::Firmware, r"UEFI firmware \(version "),
    (BootStage::Firmware, r"SeaBIOS \(version "),
    (BootStage::Kernel, r"Booting Linux on physical CPU"),
    (BootStage::Kernel, r"Linux version \d+\.\d+"),
    (BootStage::Initramfs, r"\bpilab: initramfs\b"),
    (BootStage::Network, r"\bpilab: network \S+"),
    (BootStage::Ticket, r"\bpilab: ticket ok\b"),
    (BootStage::SwitchRoot, r"\bpilab: switch-root\b"),
    (BootStage::Systemd, r"systemd\[1\]: systemd \d+"),
    (BootStage::Systemd, r"^Welcome to .*!"),
    (BootStage::Sshd, r"\bpilab: sshd ready\b"),
    (BootStage::Agent, r"\bpilab: agent started\b"),
    (BootStage::Panic, r"(?:^|[^d] |[^ ])Kernel panic - not syncing: "),
    (BootStage::UnderVoltage, r"[Uu]nder-?voltage detected"),
    (BootStage::Watchdog, r"watchdog: BUG: soft lockup"),
    (BootStage::Watchdog, r"[Ww]atchdog detected hard LOCKUP"),
    (BootStage::Watchdog, r"watchdog\d*: .*pretimeout"),
    (BootStage::Watchdog, r"systemd\[1\]: .*: Watchdog timeout"),
    (BootStage::OutOfMemory, r"[Oo]ut of memory: Killed process"),
    (BootStage::Restart, r"reboot: (?:Restarting system|Power down|System halted)"),
];

/// The end of a login prompt, which is no whole line: agetty(8) and busybox login write it and wait.
const PROMPT: &[u8] = b" login: ";

#[expect(clippy::expect_used, reason = "the patterns are constants; a test compiles them")]
static SET: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new(PATTERNS.iter().map(|(_, pattern)| pattern)).expect("stage patterns compile")
});

/// What stands before the text of a line: the kernel's `[    1.234567] `, also with its level, and the
/// `  2.40 ` of a Pi's bootloader.
#[expect(clippy::expect_used, reason = "the pattern is a constant; a test compiles it")]
static PREFIX: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:<\d+>)?(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?|\s*\d+\.\d\d )").expect("prefix compiles")
});

/// A line as text for people: at most 200 characters, invalid UTF-8 replaced.
pub(super) fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end().chars().take(TEXT_LIMIT).collect()
}

/// The line without the time stamp before it.
pub(super) fn without_prefix(line: &[u8]) -> &[u8] {
    let length = PREFIX.find(line).map_or(0, |found| found.end());
    &line[length..]
}

/// A stage found in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The stage.
    pub stage: BootStage,
    /// The line that showed it: at most 200 characters, without escape sequences.
    pub line: String,
    /// The absolute offset after the byte at which it was recognised.
    pub offset: u64,
    /// In which boot of the attempt, from 1.
    pub boot: u32,
}

/// Finds stages: progress once per boot, trouble each time in the boot attempt, up to a bound.
#[derive(Debug, Default)]
pub struct Detector {
    lines: Lines,
    /// Progress of this boot, trouble of the whole attempt.
    seen: Vec<BootStage>,
    /// How many boots of the attempt came before this one.
    earlier: u32,
    /// The pattern that the last line of a boot loader in this boot matched, by its place.
    loader: Option<usize>,
    /// The kernel of this boot has panicked or gone down.
    ended: bool,
    /// The last complete lines, for people; see [`super::ConsoleHandle::last_lines`].
    recent: VecDeque<String>,
}

/// How many lines are kept for people.
const RECENT_LIMIT: usize = 200;

impl Detector {
    /// A new boot attempt begins: each stage may be found again, and what is left of a line is over.
    pub fn begin(&mut self, offset: u64) -> Vec<Found> {
        let found = self.flush(offset);
        self.seen.clear();
        (self.earlier, self.loader, self.ended) = (0, None, false);
        found
    }

    /// A stage of this attempt was found, in this of its boots, before this process began.
    pub fn recall(&mut self, stage: BootStage, boot: u32) {
        if boot > self.earlier + 1 {
            self.begin_boot(boot - 1);
        }
        self.see(stage);
    }

    /// Takes a chunk whose first byte has this offset.
    pub fn push(&mut self, offset: u64, chunk: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        for (index, &byte) in chunk.iter().enumerate() {
            let here = offset + index as u64;
            let mut change = self.lines.push(byte);
            if change == Change::EndedBefore {
                self.end_line(here, &mut found);
                change = self.lines.push(byte);
            }
            match change {
                Change::Ended => self.end_line(here + 1, &mut found),
                Change::Grew if byte == b' ' && is_prompt(self.lines.line()) => {
                    let text = text(self.lines.line());
                    self.report(BootStage::Login, text, here + 1, &mut found);
                }
                _ => {}
            }
        }
        found
    }

    /// The stream is interrupted: what there is of a line is all that will come.
    pub fn flush(&mut self, offset: u64) -> Vec<Found> {
        let mut found = Vec::new();
        self.end_line(offset, &mut found);
        self.lines = Lines::default();
        found
    }

    /// The last lines, oldest first, the unfinished one included.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let unfinished = Some(text(self.lines.line())).filter(|line| !line.is_empty());
        let all: Vec<&String> = self.recent.iter().chain(unfinished.as_ref()).collect();
        all[all.len().saturating_sub(count)..].iter().map(|line| (*line).clone()).collect()
    }

    fn end_line(&mut self, offset: u64, found: &mut Vec<Found>) {
        let line = self.lines.take();
        let text = text(&line);
        if text.is_empty() {
            return;
        }
        for index in SET.matches(without_prefix(&line)) {
            if self.begins_anew(index) && self.earlier + 1 < BOOT_LIMIT {
                self.begin_boot(self.earlier + 1);
            }
            if PATTERNS[index].0 == BootStage::Bootloader {
                self.loader = Some(index);
            }
            self.report(PATTERNS[index].0, text.clone(), offset, found);
        }
        if self.recent.len() == RECENT_LIMIT {
            self.recent.pop_front();
        }
        self.recent.push_back(text);
    }

    fn report(&mut self, stage: BootStage, line: String, offset: u64, found: &mut Vec<Found>) {
        let before = self.seen.iter().filter(|seen| **seen == stage).count();
        let limit = if stage.is_trouble() { TROUBLE_LIMIT } else { 1 };
        if before < limit {
            self.see(stage);
            found.push(Found { stage, line, offset, boot: self.earlier + 1 });
        }
    }

    fn see(&mut self, stage: BootStage) {
        self.seen.push(stage);
        self.ended |= matches!(stage, BootStage::Panic | BootStage::Restart);
    }

    fn begin_boot(&mut self, earlier: u32) {
        self.seen.retain(|stage| stage.is_trouble());
        (self.earlier, self.loader, self.ended) = (earlier, None, false);
    }

    /// Whether a line that matches this pattern begins another boot than the one that is under way. Errs on the side of
    /// no: a reset that shows no boot loader, of a system that is up, looks like somebody reading dmesg(1).
    fn begins_anew(&self, index: usize) -> bool {
        let progress = |stage: &&BootStage| !stage.is_trouble() && **stage != BootStage::Restart;
        let furthest = self.seen.iter().filter(progress).max();
        match PATTERNS[index].0 {
            // They come in the order of the patterns, each once.
            BootStage::Bootloader => {
                furthest.is_some_and(|stage| *stage > BootStage::Bootloader)
                    || self.loader.is_some_and(|last| last >= index)
            }
            BootStage::Kernel => {
                self.ended
                    || furthest
                        .is_some_and(|stage| (BootStage::Initramfs..=BootStage::SwitchRoot).contains(stage))
            }
            _ => false,
        }
    }
}

/// Whether an unfinished line is a login prompt: `<host> login: `, but not the `Last login: ` that
/// login(1) greets with.
fn is_prompt(line: &[u8]) -> bool {
    line.strip_suffix(PROMPT)
        .is_some_and(|host| !host.is_empty() && host != b"Last" && !host.iter().any(u8::is_ascii_whitespace))
}

#[cfg(test)]
mod tests {
    use super::super::lines::LINE_LIMIT;
    use super::*;
    use proptest::prelude::*;

    fn stages(bytes: &[u8]) -> Vec<(BootStage, String)> {
        let mut detector = Detector::default();
        let mut found = detector.push(0, bytes);
        found.extend(detector.flush(bytes.len() as u64));
        found.into_iter().map(|found| (found.stage, found.line)).collect()
    }

    const BOOT: &[u8] = b"\xff\xfe\0\0  2.40 RPi: BOOTLOADER release VERSION:26826259 DATE: 2025/09/23\r\r\n\
        \x1b[2J\x1b[0;1mMESS:00:00:06.144571:0: arasan: arasan_emmc_open\x1b[m\r\n\
        [    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]\r\n\
        [    0.000000] Linux version 6.1.0-18-arm64 (debian-kernel@lists.debian.org)\r\n\
        [    2.101000] pilab: initramfs\r\n\
        pilab: network 192.168.122.44\r\n\
        <6>[    4.1] pilab: ticket ok\r\n\
        pilab: switch-root\n\
        [    6.000000][    T1] systemd[1]: systemd 252.22-1~deb12u1 running in system mode (+PAM)\r\n\
        \r\nWelcome to \x1b[1mDebian GNU/Linux 12 (bookworm)\x1b[0m!\r\n\
        Last login: Mon Nov 23 10:00:00 UTC 2026 on ttyAMA0\r\n\
        pilab: sshd ready\r\npilab: agent started\r\n\
        [   20.5] hwmon hwmon1: Undervoltage detected!\r\n\
        Debian GNU/Linux 12 pi ttyAMA0\r\n\r\npi login: ";

    #[test]
    fn a_whole_boot_passes_each_stage_once() {
        let found = stages(BOOT);
        let names: Vec<_> = found.iter().map(|(stage, _)| stage.name()).collect();
        assert_eq!(
            names,
            [
                "bootloader",
                "firmware",
                "kernel",
                "initramfs",
                "network",
                "ticket",
                "switch-root",
                "systemd",
                "sshd",
                "agent",
                "under-voltage",
                "login"
            ]
        );
        assert_eq!(found[1].1, "MESS:00:00:06.144571:0: arasan: arasan_emmc_open");
        assert_eq!(found[4].1, "pilab: network 192.168.122.44");
        assert_eq!(found[11].1, "pi login:");
    }

    #[test]
    fn single_lines() {
        let panic =
            b"[    1.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n\
            [    1.9] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---\r\n";
        let cases: &[(&[u8], &[BootStage])] = &[
            (panic, &[BootStage::Panic]),
            (
                b"systemd-shutdown[1]: x\n[ 9.1] Kernel panic - not syncing: Attempted to kill init!",
                &[BootStage::Panic],
            ),
            (b"Memory cgroup out of memory: Killed process 77 (x)\n", &[BootStage::OutOfMemory]),
            (b"watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n", &[BootStage::Watchdog]),
            (b"watchdog: watchdog0: watchdog did not stop!\n", &[]),
            (b"[ 3.0] reboot: Restarting system\n", &[BootStage::Restart]),
            (b"[ 3.0] reboot: Power down\n", &[BootStage::Restart]),
            (b"Last login: ", &[]),
            (b"enter your login: ", &[]),
            (b"loading 10%\rloading 20%\rpilab: initramfs\r", &[BootStage::Initramfs]),
            (b"\x1b]0;title\x07\x1b(Bpilab: ticket ok\n", &[BootStage::Ticket]),
            (b"\x1b[6npi\x1b[0m login: ", &[BootStage::Login]),
            (b"Welcome to nowhere\n", &[]),
        ];
        for (bytes, expected) in cases {
            let found: Vec<_> = stages(bytes).into_iter().map(|(stage, _)| stage).collect();
            assert_eq!(found, *expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn trouble_is_reported_each_time_up_to_a_bound_and_lines_are_bounded() {
        let found = stages(&b"Under-voltage detected!\n".repeat(100));
        assert_eq!(found.len(), TROUBLE_LIMIT);
        let mut long = vec![b'x'; 10 * LINE_LIMIT];
        long.extend(b"\npilab: initramfs\n");
        assert_eq!(stages(&long).len(), 1);
        let mut detector = Detector::default();
        detector.push(0, &long);
        assert!(detector.last_lines(9).iter().all(|line| line.len() <= TEXT_LIMIT));
    }

    #[test]
    fn a_new_attempt_finds_stages_again() {
        let mut detector = Detector::default();
        assert_eq!(detector.push(0, b"Linux version 6.1\n").len(), 1);
        assert_eq!(detector.push(18, b"Linux version 6.1\n").len(), 0);
        detector.begin(36);
        assert_eq!(detector.push(36, b"Linux version 6.1\n").len(), 1);
    }

    #[test]
    fn a_board_that_boots_again_by_itself_is_counted() {
        let boots = |stream: &[&[u8]]| {
            let mut detector = Detector::default();
            let found = detector.push(0, &stream.concat());
            found.into_iter().map(|found| (found.stage.name(), found.boot)).collect::<Vec<_>>()
        };
        let loader = b"RPi: BOOTSYS release VERSION:1\r\nRPi: BOOTLOADER release VERSION:1\r\n".as_slice();
        let kernel = b"Booting Linux on physical CPU 0x0\r\n[ 0.0] Linux version 6.1\r\n".as_slice();
        let ours = b"pilab: initramfs\r\n".as_slice();
        let login = b"pi login: ".as_slice();
        // A weak supply: it gets no further than its boot loader.
        let weak = [("bootloader", 1), ("bootloader", 2), ("bootloader", 3)];
        assert_eq!(boots(&[loader, loader, loader]), weak);
        let reset = [("bootloader", 1), ("kernel", 1), ("bootloader", 2), ("kernel", 2), ("login", 2)];
        assert_eq!(boots(&[loader, kernel, loader, kernel, login]), reset);
        let early = [("kernel", 1), ("initramfs", 1), ("kernel", 2), ("initramfs", 2)];
        assert_eq!(boots(&[kernel, ours, kernel, ours]), early);
        let panic = b"Kernel panic - not syncing: x\r\n".as_slice();
        assert_eq!(boots(&[kernel, panic, kernel]), [("kernel", 1), ("panic", 1), ("kernel", 2)]);
        let down = b"reboot: Restarting system\r\n".as_slice();
        let restart = [("kernel", 1), ("login", 1), ("restart", 1), ("kernel", 2), ("login", 2)];
        assert_eq!(boots(&[kernel, login, down, kernel, login]), restart);
        assert_eq!(boots(&[kernel, login, kernel]), [("kernel", 1), ("login", 1)], "dmesg");
        let many = boots(&[loader].repeat(1000));
        assert_eq!(many.last(), Some(&("bootloader", BOOT_LIMIT)));
        assert_eq!(many.len(), BOOT_LIMIT as usize);
    }

    #[test]
    fn what_was_found_before_a_restart_of_this_process_counts() {
        let mut detector = Detector::default();
        for (stage, boot) in [(BootStage::Kernel, 1), (BootStage::Kernel, 2), (BootStage::Panic, 2)] {
            detector.recall(stage, boot);
        }
        let found = detector.push(0, b"Linux version 6.1\n");
        assert_eq!(
            found.iter().map(|found| (found.stage, found.boot)).collect::<Vec<_>>(),
            [(BootStage::Kernel, 3)]
        );
        detector.begin(18);
        assert_eq!(detector.push(18, b"Linux version 6.1\n")[0].boot, 1);
    }

    /// Bytes that are likely to hit the line machine's corners, mixed with real text.
    fn noise() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\r".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\x1b[".to_vec()),
            Just(b"\x1b]".to_vec()),
            Just(b"\x07".to_vec()),
            Just(b"pi login: ".to_vec()),
            Just(b"pilab: network 10.0.0.1".to_vec()),
            Just(b"Kernel panic - not syncing: x".to_vec()),
            Just(b"Linux version 6.1".to_vec()),
            Just(b"RPi: BOOTLOADER release VERSION:1".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..8),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(bytes in noise(), boots in 0..3_usize, cuts in proptest::collection::vec(0..2700_usize, 0..16)) {
            let stream = [BOOT.repeat(boots), bytes].concat();
            let mut whole = Detector::default();
            let mut expected = whole.push(5, &stream);
            expected.extend(whole.flush(5 + stream.len() as u64));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let mut pieces = Detector::default();
            let mut found = Vec::new();
            for cut in cuts.windows(2) {
                found.extend(pieces.push(5 + cut[0] as u64, &stream[cut[0]..cut[1]]));
            }
            found.extend(pieces.flush(5 + stream.len() as u64));
            prop_assert_eq!(found, expected);
            prop_assert_eq!(pieces.last_lines(500), whole.last_lines(500));
        }
    }
}
