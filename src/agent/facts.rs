//! Who this agent is: version, hash of its own executable, boot of the device.

use crate::plan::spec::hex;
use crate::support::clock;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use tokio::sync::OnceCell;

/// Facts that stay the same as long as the agent runs.
#[derive(Debug, Default)]
pub struct Facts {
    sha256: OnceCell<String>,
    boot_id: OnceCell<String>,
}

impl Facts {
    /// The agent's version.
    pub const VERSION: &str = env!("CARGO_PKG_VERSION");

    /// SHA-256 of the running executable, hex; empty when it cannot be read. Computed once, off the
    /// runtime's thread: some tenths of a second on a slow device.
    pub async fn sha256(&self) -> &str {
        let compute = || async {
            match tokio::task::spawn_blocking(sha256_of_self).await {
                Ok(Ok(sha256)) => sha256,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot read the agent's own executable");
                    String::new()
                }
                Err(_) => String::new(),
            }
        };
        self.sha256.get_or_init(compute).await
    }

    /// The id of this boot of the device.
    pub async fn boot_id(&self) -> &str {
        self.boot_id.get_or_init(|| async { boot_id() }).await
    }
}

/// Where a device that was woken from saved memory has the id of its boot. It is mounted over the kernel's, which is that of the
/// save; but not for a process that has been there since before, and in a sandbox of its own, as the agent.
const WOKEN: &str = "/run/pilab.boot-id";

/// The id of this boot of the device.
pub(super) fn boot_id() -> String {
    let woken = fs::read_to_string(WOKEN).ok().map(|id| id.trim().to_owned());
    woken.filter(|id| !id.is_empty()).unwrap_or_else(clock::boot_id)
}

fn sha256_of_self() -> io::Result<String> {
    let mut file = File::open("/proc/self/exe")?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

/// Milliseconds since the device started, from /proc/uptime (proc(5)); 0 when it cannot be read.
pub fn uptime_ms() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    parse_uptime(&text).unwrap_or_default()
}

/// Reads `12345.67 …`: seconds with two decimals.
fn parse_uptime(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(hundredths.parse::<u64>().ok()? * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_read_from_proc() {
        assert_eq!(parse_uptime("12.34 99.00\n"), Some(12_340));
        assert_eq!(parse_uptime(""), None);
        assert!(uptime_ms() > 0);
    }

    #[tokio::test]
    async fn the_hash_is_that_of_the_executable() {
        let exe = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(Facts::default().sha256().await, hex(&Sha256::digest(exe)));
    }
}
