//! What processes have cost so far.

/// Processor seconds of a process and of its children, also of those that have ended and were waited for.
pub(crate) fn processor(pid: u32) -> f64 {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = read("stat");
    // After the name in parentheses: utime, stime, cutime and cstime are the fields 14 to 17, in hundredths of a second (proc(5)).
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11).take(4);
    let own = fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0;
    own + children(pid).into_iter().map(processor).sum::<f64>()
}

/// Its children.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // A child belongs to the thread that made it.
    let lists =
        threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// `Pss` of `/proc/PID/smaps_rollup`, in KiB: pages that are shared with other processes count in part.
#[allow(dead_code, reason = "not each bench asks for it")]
pub(crate) fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
