//! What differs between two consoles of the same by itself: times, addresses, process ids, hashes. Pure, and a scanner of
//! its own, since the agent links what is here.

/// The line with a name in place of each of these.
pub fn normalised(line: &str) -> String {
    let mut rest = without_kernel_time(line.trim());
    let mut out = String::with_capacity(rest.len());
    while let Some(first) = rest.chars().next() {
        let word: &str = rest.find(|c| !in_word(c)).map_or(rest, |end| &rest[..end]);
        if word.is_empty() {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        rest = &rest[word.len()..];
        let core = word.trim_end_matches(['.', ':', '-']);
        out.push_str(&named(core));
        out.push_str(&word[core.len()..]);
        // `sshd[123]`: the process's id.
        if let Some((pid, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
            && !pid.is_empty()
            && pid.bytes().all(|b| b.is_ascii_digit())
        {
            out.push_str("[<pid>]");
            rest = after;
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | ':' | '-' | '_')
}

/// `[    1.234567] text`: the kernel's clock.
fn without_kernel_time(line: &str) -> &str {
    let time = |time: &str| {
        time.trim().contains('.') && time.trim().bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    match line.strip_prefix('[').and_then(|line| line.split_once(']')) {
        Some((stamp, text)) if time(stamp) => text.trim_start(),
        _ => line,
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn named(word: &str) -> String {
    if let Some(name) = name(word) {
        return name.to_owned();
    }
    // Names that are made of several: `pilab-3f9c2a1b.service`.
    let mut out = String::new();
    let mut part = String::new();
    for c in word.chars() {
        if matches!(c, '-' | '_' | '.' | ':') {
            out.push_str(if is_hash(&part) { "<hex>" } else { &part });
            out.push(c);
            part.clear();
        } else {
            part.push(c);
        }
    }
    out.push_str(if is_hash(&part) { "<hex>" } else { &part });
    out
}

fn is_hash(text: &str) -> bool {
    text.len() >= 8 && hex(text) && text.bytes().any(|b| b.is_ascii_digit())
}

fn name(word: &str) -> Option<&'static str> {
    let groups = |separator: char| word.split(separator).collect::<Vec<_>>();
    let (colons, dots, dashes) = (groups(':'), groups('.'), groups('-'));
    if word.strip_prefix("0x").is_some_and(hex) {
        return Some("<hex>");
    }
    if dashes.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && dashes.iter().all(|group| hex(group)) {
        return Some("<uuid>");
    }
    if colons.len() == 6 && colons.iter().all(|group| group.len() == 2 && hex(group)) {
        return Some("<mac>");
    }
    let address = |word: &str| {
        let parts: Vec<_> = word.split('.').collect();
        parts.len() == 4 && parts.iter().all(|part| part.len() <= 3 && digits(part))
    };
    if address(colons.first().copied().unwrap_or_default()) && colons.len() <= 2 {
        return Some("<address>");
    }
    let date = |word: &str| {
        let parts: Vec<_> = word.split('-').collect();
        parts.iter().map(|part| part.len()).eq([4, 2, 2]) && parts.iter().all(|part| digits(part))
    };
    if word.get(..10).is_some_and(date) && (word.len() == 10 || word[10..].starts_with('T')) {
        return Some("<time>");
    }
    if colons.len() == 3 && colons.iter().take(2).all(|part| part.len() <= 2 && digits(part)) {
        return Some("<time>");
    }
    if colons.len() >= 3 && colons.iter().all(|part| part.is_empty() || (part.len() <= 4 && hex(part))) {
        return Some("<address>");
    }
    if is_hash(word) && !digits(word) {
        return Some("<hex>");
    }
    if dots.len() <= 2 {
        let number = word.trim_end_matches(|c: char| c.is_alphabetic());
        let unit = &word[number.len()..];
        let parts: Vec<_> = number.split('.').collect();
        let has_unit = [
            "ms", "us", "ns", "s", "sec", "min", "h", "kB", "KB", "KiB", "MB", "MiB", "GB", "GiB", "K", "M",
            "G",
        ];
        let counts = parts.len() == 2 || has_unit.contains(&unit) || number.len() >= 5;
        if parts.iter().all(|part| digits(part)) && (unit.is_empty() || has_unit.contains(&unit)) && counts {
            return Some("<n>");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_changes_by_itself_has_a_name() {
        for (line, wanted) in [
            ("[    0.000000] Linux version 6.1.0-18-arm64", "Linux version 6.1.0-18-arm64"),
            ("[   12.345678] eth0: link is up", "eth0: link is up"),
            ("[12] not a time", "[12] not a time"),
            ("sshd[1234]: listening on 10.0.2.15:22.", "sshd[<pid>]: listening on <address>."),
            ("Memory at 0xffff8000100c0000", "Memory at <hex>"),
            ("id 0f3c2a51-9d0e-4b6a-8c11-00000000beef", "id <uuid>"),
            ("link/ether 52:54:00:ab:cd:ef", "link/ether <mac>"),
            ("at 12:34:56 on 2026-11-28, 2026-11-28T01:02:03Z", "at <time> on <time>, <time>"),
            ("answered in 12 ms after 1.5s and 300ms", "answered in 12 ms after <n> and <n>"),
            ("Started pilab-3f9c2a1b.service", "Started pilab-<hex>.service"),
            ("sha256 7d7f1a5a2c2b0f5e7d7f1a5a2c2b0f5e", "sha256 <hex>"),
            ("addr fe80::5054:ff:feab:cdef", "addr <address>"),
            ("4 CPUs, 98304 pages", "4 CPUs, <n> pages"),
            ("deadbeef", "deadbeef"),
            ("  many   blanks ", "many blanks"),
            ("grün [x", "grün [x"),
            ("", ""),
        ] {
            assert_eq!(normalised(line), wanted, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_can_be_taken_and_nothing_is_named_twice(line in any::<String>()) {
            let once = normalised(&line);
            prop_assert_eq!(normalised(&once).len() <= once.len() + 8, true);
        }

        #[test]
        fn another_time_process_and_address_make_no_difference(
            a in 0.0_f64..1e5, b in 0.0_f64..1e5, pid in 1_u32..99999, host in 1_u8..254,
        ) {
            let line = |time: f64, pid: u32, host: u8| format!("[{time:12.6}] dhcpcd[{pid}]: 10.0.2.{host} leased");
            prop_assert_eq!(normalised(&line(a, pid, host)), normalised(&line(b, 7, 9)));
        }
    }
}
