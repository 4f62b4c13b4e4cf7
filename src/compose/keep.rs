//! How a person enters and removes the devices that a run has kept.

use super::devices::{Machine, Machines};
use crate::device::DeviceHandle;
use crate::model::id::DeviceId;
use crate::ssh;
use crate::support::atomic_file;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// How to enter and to remove a device; its SSH keys are written to `dir` for that.
pub(super) fn lines(
    dir: PathBuf,
    handles: Vec<DeviceHandle>,
    machines: Machines,
) -> impl Fn(&DeviceId, &str) -> Vec<String> {
    move |id, key| {
        let machine = match machines.get(id) {
            Some(Machine::Vm(machine)) => machine,
            Some(Machine::Container(machine)) => {
                let keep = machine.keep_instructions();
                return vec![
                    format!("{id}: shell:   {}", keep.enter),
                    format!("{id}: remove:  {}", keep.remove),
                ];
            }
            Some(Machine::Wired { console }) => {
                return console.iter().map(|line| format!("{id}: console: {line}")).collect();
            }
            None => return Vec::new(),
        };
        let keep = machine.keep_instructions();
        let handle = handles.iter().find(|handle| handle.id() == id);
        let place = handle.and_then(|handle| {
            let state = handle.state();
            let state = state.borrow();
            state.address.zip(state.host_key.clone())
        });
        let mut lines = vec![format!("{id}: console: {}", keep.enter)];
        if let Some((address, host_key)) = place {
            match shell(&dir, id, address, &host_key, key) {
                Ok(command) => lines.push(format!("{id}: shell:   {command}")),
                Err(error) => {
                    tracing::warn!(%error, dir = %dir.display(), "the SSH keys of a kept machine were not written");
                }
            }
        }
        lines.push(format!("{id}: remove:  {}", keep.remove));
        lines
    }
}

/// Writes what is needed to enter a machine to `dir`; answers the command that does. It trusts the host key that
/// was issued to this machine and no other: the next one of the same address has another.
fn shell(dir: &Path, id: &DeviceId, address: IpAddr, host_key: &str, key: &str) -> std::io::Result<String> {
    let (identity, hosts) = (dir.join(format!("{id}.ssh-key")), dir.join(format!("{id}.known-hosts")));
    atomic_file::write(&identity, key.as_bytes(), 0o600)?;
    atomic_file::write(&hosts, format!("{address} {host_key}\n").as_bytes(), 0o600)?;
    let hosts = format!("UserKnownHostsFile={}", hosts.display());
    let words = ["ssh", "-i", &identity.to_string_lossy(), "-o", &hosts, "-o", "StrictHostKeyChecking=yes"];
    let words = words.iter().copied().chain(["-o", "IdentitiesOnly=yes"]).map(str::to_owned);
    Ok(ssh::quote::join(&words.chain([format!("root@{address}")]).collect::<Vec<_>>()))
}
