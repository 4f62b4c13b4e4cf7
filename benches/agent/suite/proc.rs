//! What a process uses, as the kernel counts it: proc(5).

use std::fs;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::Instant;

/// A process at one moment.
pub(crate) struct Snapshot {
    pid: u32,
    at: Instant,
    cpu: Duration,
    /// Page faults of children that were waited for. No process runs without one, so this grows with each
    /// child, however short it lived.
    child_faults: u64,
    /// Children that are there now.
    children: usize,
    switches: u64,
}

/// What a process used between two moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) time: Duration,
    pub(crate) cpu: Duration,
    /// Whether it started a process.
    pub(crate) forked: bool,
    /// How often one of its threads gave up the processor: a wake-up each.
    pub(crate) wakeups: u64,
    /// Proportional set size in bytes, at the end.
    pub(crate) pss: u64,
    pub(crate) threads: usize,
}

impl Usage {
    /// Share of one processor, in percent.
    pub(crate) fn cpu_percent(&self) -> f64 {
        100.0 * self.cpu.as_secs_f64() / self.time.as_secs_f64()
    }
}

impl Snapshot {
    pub(crate) fn of(pid: u32) -> Self {
        let stat = read(pid, "stat");
        // The name, which may hold anything, ends with the last bracket.
        let fields: Vec<u64> = stat[stat.rfind(')').unwrap() + 2..]
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse().unwrap_or_default())
            .collect();
        // proc(5) counts from 1 with the name as the second; `fields` begins with the fourth.
        let field = |number: usize| fields[number - 4];
        let of_threads = |file: &str| -> Vec<String> {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
            threads.filter_map(|thread| fs::read_to_string(thread.path().join(file)).ok()).collect()
        };
        // In nanoseconds. The times in `stat` are counted where a tick of the clock finds the process at work, and timers
        // wake it at just these ticks: an idle process seems several times as busy as it is.
        let ran = |text: &String| text.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        let cpu = Duration::from_nanos(of_threads("schedstat").iter().map(ran).sum());
        let switches = of_threads("status").iter().map(|text| number(text, "voluntary_ctxt_switches:")).sum();
        let children = of_threads("children").iter().map(|text| text.split_whitespace().count()).sum();
        let child_faults = field(11) + field(13);
        Self { pid, at: Instant::now(), cpu, child_faults, children, switches }
    }

    pub(crate) fn until_now(&self) -> Usage {
        let now = Self::of(self.pid);
        Usage {
            time: now.at - self.at,
            cpu: now.cpu.saturating_sub(self.cpu),
            forked: now.child_faults != self.child_faults || now.children != self.children,
            wakeups: now.switches.saturating_sub(self.switches),
            pss: number(&read(self.pid, "smaps_rollup"), "Pss:") * 1024,
            threads: fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap().count(),
        }
    }
}

/// A thread that is woken so often within a time and does nothing: answers what that takes of a processor. On a virtual machine it
/// may be most of what an idle process seems to use.
#[expect(
    clippy::disallowed_methods,
    reason = "on a thread of its own, and to sleep is all that it is there for"
)]
pub(crate) fn woken(times: u64, within: Duration) -> JoinHandle<Duration> {
    std::thread::spawn(move || {
        let ran = || {
            let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
        };
        let before = ran();
        for _ in 0..times {
            std::thread::sleep(within / u32::try_from(times).unwrap());
        }
        ran() - before
    })
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

/// The number after a name at a line's start.
fn number(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}
