//! What `pilab device setup` changes on a device that boots from its own card: from what is there and what should be there,
//! to a list of changes. Nothing is looked at or changed here.

use crate::model::device::Arch;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The first version of podman that the agent is used with: Debian 12's.
const PODMAN: (u32, u32) = (4, 3);
/// What a Raspberry Pi's firmware is told for containers to have bounds of memory: it turns that off by itself.
const MEMORY_KEYS: &str = "cgroup_enable=memory cgroup_memory=1";
/// The most lines of an answer that are read.
const MAX_LINES: usize = 256;

/// A file as it should be on the device: root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its path.
    pub path: &'static str,
    /// SHA-256 of its content, hex.
    pub sha256: String,
    /// Its size in bytes.
    pub size: usize,
    /// Its permissions.
    pub mode: u32,
}

/// A file as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its permissions.
    pub mode: u32,
    /// Whether it is root's.
    pub roots: bool,
    /// SHA-256 of its content, hex.
    pub sha256: String,
}

/// What was seen on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// `uname -m`.
    pub machine: String,
    /// Its system, for people.
    pub os: String,
    /// Whether systemd is its first process.
    pub systemd: bool,
    /// The version of podman, if it has one.
    pub podman: Option<String>,
    /// Whether the kernel can bound the memory of containers.
    pub memory: bool,
    /// Where its kernel's arguments are written, where that is known.
    pub cmdline: Option<String>,
    /// The files that are there, of those that were asked for.
    pub files: BTreeMap<String, Found>,
    /// What is there besides of ours: what was broken off, and what the agent has written.
    pub left: Vec<String>,
}

impl Seen {
    /// Reads what the look at the device answered: lines of a word and what it stands for. What is not understood is
    /// passed over.
    pub fn read(text: &str) -> Self {
        let mut seen = Self::default();
        for line in text.lines().take(MAX_LINES) {
            let Some((word, rest)) = line.split_once(' ') else { continue };
            match word {
                "machine" => seen.machine = rest.to_owned(),
                "os" => seen.os = rest.to_owned(),
                "systemd" => seen.systemd = rest == "yes",
                "podman" => seen.podman = rest.split(' ').next_back().map(str::to_owned),
                "controllers" => seen.memory = rest.split(' ').any(|controller| controller == "memory"),
                "cmdline" => seen.cmdline = Some(rest.to_owned()),
                "left" => seen.left.push(rest.to_owned()),
                "file" => {
                    let fields: Vec<&str> = rest.splitn(4, ' ').collect();
                    let [mode, owner, sha256, path] = fields.as_slice() else { continue };
                    let Ok(mode) = u32::from_str_radix(mode, 8) else { continue };
                    let found = Found { mode, roots: *owner == "0:0", sha256: (*sha256).to_owned() };
                    seen.files.insert((*path).to_owned(), found);
                }
                _ => {}
            }
        }
        seen
    }

    /// Its architecture.
    pub fn arch(&self) -> Result<Arch, Unfit> {
        let arch = self.machine.parse();
        arch.map_err(|_| Unfit::Machine { machine: self.machine.clone() })
    }
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A package is installed, with what it needs.
    Install {
        /// Its name.
        package: String,
    },
    /// A file is made.
    Create {
        /// Its path.
        path: String,
        /// Its size in bytes.
        size: usize,
        /// Its permissions, octal.
        mode: String,
    },
    /// A file is replaced.
    Replace {
        /// Its path.
        path: String,
        /// In what it differs.
        differs: String,
    },
    /// It is removed, with all that is in it.
    Remove {
        /// Its path.
        path: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Install { package } => write!(f, "+ package {package}"),
            Self::Create { path, size, mode } => write!(f, "+ {path} ({size} bytes, mode {mode}, root)"),
            Self::Replace { path, differs } => write!(f, "~ {path} ({differs})"),
            Self::Remove { path } => write!(f, "- {path}"),
        }
    }
}

/// A device that the agent cannot be set up on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is no agent for such a machine.
    #[error("it is {machine:?}: there are agents for aarch64 and x86_64")]
    Machine {
        /// `uname -m`.
        machine: String,
    },
    /// Nothing that could run the agent's unit.
    #[error("its first process is not systemd")]
    Systemd,
    /// Nothing that could run containers.
    #[error("it has no podman")]
    Podman,
}

impl Unfit {
    /// What to try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Machine { .. } => "a Raspberry Pi of model 3 or later, with a 64-bit system on its card",
            Self::Systemd => "Debian 12 or 13, or Raspberry Pi OS of that age",
            Self::Podman => {
                "--install-podman lets apt-get install it; or on the device: apt-get install podman"
            }
        }
    }
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub changes: Vec<Change>,
    /// What its owner should know, one line each.
    pub notes: Vec<String>,
}

/// What makes the device one that has the agent. `install` lets a package manager be used.
pub fn install(seen: &Seen, wanted: &[Wanted], install: bool) -> Result<Plan, Unfit> {
    seen.arch()?;
    if !seen.systemd {
        return Err(Unfit::Systemd);
    }
    let (mut changes, mut notes) = (Vec::new(), Vec::new());
    match &seen.podman {
        None if !install => return Err(Unfit::Podman),
        None => changes.push(Change::Install { package: "podman".to_owned() }),
        Some(version) if is_old(version) => {
            notes.push(format!("podman {version} is older than 4.3, with which the agent is tried"));
        }
        Some(_) => {}
    }
    if !seen.memory {
        let place = seen.cmdline.as_deref().unwrap_or("the kernel's arguments");
        notes.push(format!(
            "the kernel does not bound the memory of containers: add `{MEMORY_KEYS}` to {place} and restart the device"
        ));
    }
    changes.extend(seen.left.iter().filter(|path| path.ends_with(UNFINISHED)).map(removal));
    for Wanted { path, sha256, size, mode } in wanted {
        let path = (*path).to_owned();
        let Some(found) = seen.files.get(&path) else {
            changes.push(Change::Create { path, size: *size, mode: format!("{mode:04o}") });
            continue;
        };
        let mut differs = Vec::new();
        if found.sha256 != *sha256 {
            differs.push(format!("content: SHA-256 {} becomes {}", short(&found.sha256), short(sha256)));
        }
        if found.mode != *mode {
            differs.push(format!("mode: {:04o} becomes {mode:04o}", found.mode));
        }
        if !found.roots {
            differs.push("owner: becomes root".to_owned());
        }
        if !differs.is_empty() {
            changes.push(Change::Replace { path, differs: differs.join("; ") });
        }
    }
    Ok(Plan { changes, notes })
}

/// What makes it one that never had it.
pub fn remove(seen: &Seen) -> Plan {
    let files = seen.files.keys().chain(&seen.left);
    Plan { changes: files.map(removal).collect(), notes: Vec::new() }
}

/// What the name of a file ends with that has not arrived whole.
pub const UNFINISHED: &str = ".pilab-new";

fn removal(path: impl Into<String>) -> Change {
    Change::Remove { path: path.into() }
}

fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

fn is_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < PODMAN
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: &str = "machine aarch64\nos Debian GNU/Linux 12 (bookworm)\nsystemd yes\npodman podman version 4.3.1\n\
        controllers cpuset cpu io memory pids\ncmdline /boot/firmware/cmdline.txt\n";

    fn wanted() -> Vec<Wanted> {
        let file = |path, sha256: &str, mode| Wanted { path, sha256: sha256.repeat(64), size: 7, mode };
        vec![file("/a/agent", "a", 0o755), file("/a/unit", "b", 0o644)]
    }

    fn told(plan: &Plan) -> Vec<String> {
        plan.changes.iter().map(ToString::to_string).chain(plan.notes.iter().cloned()).collect()
    }

    fn file(mode: &str, owner: &str, sha256: &str, path: &str) -> String {
        format!("file {mode} {owner} {} {path}\n", sha256.repeat(64))
    }

    #[test]
    fn what_is_missing_is_made_what_differs_replaced_and_what_is_right_left_alone() {
        let plan =
            |more: &str| told(&install(&Seen::read(&format!("{LOOK}{more}")), &wanted(), false).unwrap());
        assert_eq!(
            plan(""),
            ["+ /a/agent (7 bytes, mode 0755, root)", "+ /a/unit (7 bytes, mode 0644, root)"]
        );
        let right = file("755", "0:0", "a", "/a/agent") + &file("644", "0:0", "b", "/a/unit");
        assert_eq!(plan(&right), Vec::<String>::new());
        let other = file("700", "1000:0", "c", "/a/agent") + &file("644", "0:0", "b", "/a/unit");
        assert_eq!(
            plan(&other),
            [
                "~ /a/agent (content: SHA-256 cccccccccccc becomes aaaaaaaaaaaa; mode: 0700 becomes 0755; owner: becomes root)"
            ]
        );
        let broken_off = format!("{right}left /a/agent.pilab-new\nleft /var/lib/pilab\n");
        assert_eq!(plan(&broken_off), ["- /a/agent.pilab-new"], "the agent's state is the agent's");
    }

    #[test]
    fn what_a_device_lacks_is_told_or_refused() {
        let seen = Seen::read(LOOK);
        let without = |change: fn(&mut Seen), podman| {
            let mut seen = seen.clone();
            change(&mut seen);
            install(&seen, &[], podman)
        };
        assert_eq!(without(|seen| seen.systemd = false, true), Err(Unfit::Systemd));
        assert_eq!(without(|seen| seen.podman = None, false), Err(Unfit::Podman));
        let machine = "armv7l".to_owned();
        assert_eq!(without(|seen| seen.machine = "armv7l".to_owned(), true), Err(Unfit::Machine { machine }));
        assert_eq!(told(&without(|seen| seen.podman = None, true).unwrap()), ["+ package podman"]);
        let notes = without(|seen| seen.memory = false, false).unwrap().notes;
        assert!(notes[0].contains("`cgroup_enable=memory cgroup_memory=1` to /boot/firmware/cmdline.txt"));
        let old = without(|seen| seen.podman = Some("3.4.4".to_owned()), false).unwrap().notes;
        assert!(old[0].contains("podman 3.4.4 is older"), "{old:?}");
        assert_eq!(without(|_| {}, false).unwrap(), Plan { changes: Vec::new(), notes: Vec::new() });
    }

    #[test]
    fn all_that_is_ours_is_removed_and_nonsense_is_passed_over() {
        let text =
            file("755", "0:0", "a", "/a/agent") + "left /var/lib/pilab\nfile what\nfile 9 0:0 x /y\nnoise\n";
        assert_eq!(told(&remove(&Seen::read(&text))), ["- /a/agent", "- /var/lib/pilab"]);
        assert_eq!(remove(&Seen::default()).changes, []);
    }
}
