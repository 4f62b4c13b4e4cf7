//! What a server and all its children have cost, by a control group of their own: children that nobody waits for count too.

#[path = "../shared/process.rs"]
#[allow(dead_code, reason = "the group counts the processor's time")]
mod process;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// A control group below the root's: of version 1 (`cpuacct`), or 2 where that is all there is.
pub(crate) struct Group {
    dir: PathBuf,
}

impl Group {
    /// With one process, and those that it starts from here on.
    pub(crate) fn of(pid: u32) -> Self {
        let first = Path::new("/sys/fs/cgroup/cpuacct");
        let above = if first.exists() { first } else { Path::new("/sys/fs/cgroup") };
        let dir = above.join(format!("pilab-bench-{pid}"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap();
        Self { dir }
    }

    /// Processor seconds so far.
    pub(crate) fn processor(&self) -> f64 {
        if let Ok(nanoseconds) = std::fs::read_to_string(self.dir.join("cpuacct.usage")) {
            return nanoseconds.trim().parse::<f64>().unwrap() / 1e9;
        }
        let stat = std::fs::read_to_string(self.dir.join("cpu.stat")).unwrap();
        let microseconds = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
        microseconds.parse::<f64>().unwrap() / 1e6
    }

    fn pids(&self) -> Vec<u32> {
        let pids = std::fs::read_to_string(self.dir.join("cgroup.procs")).unwrap();
        pids.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Proportional memory of its processes, in MiB.
    pub(crate) fn memory(&self) -> f64 {
        self.pids().into_iter().map(process::memory).sum::<u64>() as f64 / 1024.0
    }

    /// Ends what is left in it, and the group.
    pub(crate) async fn end(self) {
        while !self.pids().is_empty() {
            for pid in self.pids() {
                let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::fs::remove_dir(&self.dir).unwrap();
    }
}
