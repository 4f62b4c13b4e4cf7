//! Console bytes to the detector of boot stages. The first byte says how they are cut into pieces.

use pilab::console::{Detector, Found};

/// The most characters of a line that are kept.
const TEXT: usize = 200;
/// The most lines that are kept, with the unfinished one.
const LINES: usize = 201;

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let boot = b"\x40\0\0\xffRPi: BOOTLOADER release VERSION:1\r\nMESS:00:00:05.0:0: x\r\nStarting start4.elf @ 0\r\r\n\
        [    0.000000] Booting Linux on physical CPU 0x0\r\n[    0.000000] Linux version 6.12.1 (x)\n\
        \x1b[32mpilab: initramfs\x1b[0m\npilab: network 10.0.0.2\npilab: ticket ok\npilab: switch-root\n\
        systemd[1]: systemd 252.39 running\nWelcome to Debian!\npilab: sshd ready\npilab: agent started\n\npi login: ";
    let trouble = b"\x03hwmon hwmon1: Undervoltage detected!\nwatchdog: BUG: soft lockup - CPU#0\nOut of memory: Killed process 1\n\
        [ 9.1] Kernel panic - not syncing: Attempted to kill init!\nreboot: Restarting system\n";
    let escapes =
        b"\x01\x1b]0;title\x1b\\\x1b[999;999H\x1bP\x1b[\x1b(B\x1b\x1b\x07\r\r\rabc\rdef\n\xc3\x28\xff\0";
    vec![
        boot.to_vec(),
        trouble.to_vec(),
        escapes.to_vec(),
        boot.repeat(3),
        [&[7][..], &[b'a'; 5000], b"\n", &[b' '; 3000], &[0xff; 100]].concat(),
        [&[9][..], &b"\x1b]".repeat(400)].concat(),
    ]
}

pub(crate) fn run(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let (mut whole, mut pieces) = (Detector::default(), Detector::default());
    let mut expected = whole.push(5, bytes);
    let mut found: Vec<Found> = Vec::new();
    let mut offset = 5;
    for piece in bytes.chunks(usize::from(*cut) + 1) {
        found.extend(pieces.push(offset, piece));
        offset += piece.len() as u64;
    }
    assert_eq!(pieces.last_lines(500), whole.last_lines(500));
    let (end, lines) = (offset, whole.last_lines(500));
    expected.extend(whole.flush(end));
    found.extend(pieces.flush(end));
    assert_eq!(found, expected, "how it is cut does not matter");
    assert!(lines.len() <= LINES && lines.iter().all(|line| line.chars().count() <= TEXT));
    for Found { line, offset, boot, .. } in found {
        assert!(line.chars().count() <= TEXT && (5..=end).contains(&offset) && (1..=16).contains(&boot));
    }
}
