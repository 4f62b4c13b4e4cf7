//! What `pilab doctor` looks at on this machine: the lab file, and everything that it takes to run that lab.

mod netboot;
mod pins;

use super::image::{built, find_agent, host_agent};
use super::instance::state_root;
use crate::bus::server;
use crate::cli::doctor::Finding;
use crate::cli::error::CliError;
use crate::config::lab::Lab;
use crate::device::ports::PortError;
use crate::image::{Check, Store};
use crate::model::device::{Arch, Backend};
use crate::model::id::DeviceId;
use crate::model::wiring::PowerSwitch;
use crate::support::chain::Chain;
use crate::support::clock;
use crate::support::command::Command;
use crate::{power, serial, vm};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(15);
/// Room for an image's build, with its cache of packages, in bytes.
const ROOM: u64 = 4 << 30;
/// Room without which nothing is kept, in bytes.
const LEAST_ROOM: u64 = 256 << 20;
/// A wall clock before this is wrong: 2025-01-01 in milliseconds since 1970-01-01 UTC.
const BEFORE_NOW: u64 = 1_735_689_600_000;

/// What an image is built with, how it tells its version, and the packages that have it.
const BUILDERS: [(&str, &str, &str); 2] =
    [("mmdebstrap", "--version", "mmdebstrap"), ("mksquashfs", "-version", "squashfs-tools")];

/// Looks at all of it.
pub(super) async fn examine(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lab = match crate::config::lab::load(path, None, None) {
        Ok(lab) => {
            let count = lab.devices.len() + lab.containers.len() + lab.wired.len();
            findings.push(Finding::good("lab file", format!("lab {}, devices: {count}", lab.name)));
            Some(lab)
        }
        Err(error) => {
            findings.push(Finding::bad("lab file", Chain(&error).to_string(), None));
            None
        }
    };
    findings.push(nats_server().await);
    findings.push(clock());
    findings.push(room("state directory", state_root().map_err(|e| e.to_string())));
    findings.push(room("image store", Ok(Store::from_environment().root().to_owned())));
    if let Some(mut lab) = lab {
        if lab.backend(Some(Backend::Sim)).is_some() {
            simulated(&lab, &mut findings).await;
            lab.keep_wired(Backend::Pi);
        }
        if lab.backend(Some(Backend::Vm)).is_some() {
            machines(&lab, &mut findings).await;
        }
        if lab.backend(Some(Backend::Container)).is_some() {
            containers(&mut findings).await;
        }
        if lab.netbooted().next().is_some() {
            netboot::look(&lab, &mut findings).await;
            if lab.backend(Some(Backend::Vm)).is_none() {
                findings.push(image(&lab, Arch::Aarch64).await);
            }
        }
        wired(&lab, &mut findings).await;
        pins::after_a_restart(&lab, &mut findings).await;
    }
    findings
}

/// Simulated devices: what a virtual rack needs of this machine. Its network and its consoles it makes itself.
async fn simulated(lab: &Lab, findings: &mut Vec<Finding>) {
    if lab.netboot.as_ref().is_none_or(|netboot| netboot.address.is_loopback()) {
        return;
    }
    const PART: &str = "virtual rack";
    findings.push(if rustix::process::geteuid().is_root() {
        Finding::good(PART, "its wires can be made")
    } else {
        Finding::bad(PART, "its wires need root", Some("run the coordinator as root".to_owned()))
    });
    findings.push(tool("ip", &["-V"], "apt-get install iproute2").await);
    findings.push(tool("qemu-system-aarch64", &["--version"], "apt-get install qemu-system-arm").await);
    findings.push(image(lab, Arch::Aarch64).await);
}

/// Whether a program is there, and which.
async fn tool(name: &str, args: &[&str], hint: &str) -> Finding {
    let command = Command::new(name).args(args.iter().copied()).timeout(LOOK);
    match command.output().await {
        Ok(said) => {
            let said = String::from_utf8_lossy(&said);
            Finding::good(name, said.lines().next().unwrap_or("it is there").trim())
        }
        Err(error) => Finding::bad(name, Chain(&error).to_string(), Some(hint.to_owned())),
    }
}

async fn nats_server() -> Finding {
    const HINT: &str = "install the package nats-server; lab/setup does";
    match server::program() {
        Ok(path) => {
            Finding { part: server::PROGRAM.to_owned(), ..tool(&path.to_string_lossy(), &["-v"], HINT).await }
        }
        Err(error) => Finding::bad(server::PROGRAM, error.to_string(), error.hint()),
    }
}

fn clock() -> Finding {
    if clock::wall_ms() < BEFORE_NOW {
        let hint = "set it: credentials and leases go by it".to_owned();
        return Finding::bad("clock", "it stands before 2025", Some(hint));
    }
    if clock::is_synchronised() {
        return Finding::good("clock", "synchronised");
    }
    let hint = "enable systemd-timesyncd, or set PILAB_CLOCK=trusted where another service keeps it: until then \
                leases are frozen over a reboot, and bookings wait";
    Finding::doubtful("clock", "nothing says that it is synchronised", hint)
}

/// Whether a directory, or the one that it is to be made in, has room and can be written to.
fn room(part: &str, dir: Result<std::path::PathBuf, String>) -> Finding {
    let dir = match dir {
        Ok(dir) => dir,
        Err(error) => return Finding::bad(part, error, Some("set PILAB_STATE_DIR".to_owned())),
    };
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let shown = dir.display();
    if let Err(error) = rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
    {
        let hint = format!("give yourself the right to write to {}", there.display());
        return Finding::bad(part, format!("{shown}: {error}"), Some(hint));
    }
    match rustix::fs::statvfs(there) {
        Err(error) => Finding::bad(part, format!("{shown}: {error}"), None),
        Ok(told) => {
            let free = told.f_bavail.saturating_mul(told.f_frsize);
            let seen = format!("{shown}: {} MiB free", free >> 20);
            let hint = "make room: pilab image prune removes old images";
            if free < LEAST_ROOM {
                Finding::bad(part, seen, Some(hint.to_owned()))
            } else if free < ROOM {
                Finding::doubtful(part, seen, hint)
            } else {
                Finding::good(part, seen)
            }
        }
    }
}

async fn machines(lab: &Lab, findings: &mut Vec<Finding>) {
    let mut options = vm::HostOptions::new("doctor", std::env::temp_dir());
    options.network.clone_from(&lab.network);
    let archs: BTreeSet<Arch> = lab.devices.iter().map(|device| device.arch).collect();
    match vm::look(&options, &archs).await {
        Err(error) => findings.push(Finding::bad("libvirt", Chain(&error).to_string(), error.hint())),
        Ok(vm::Seen { gateway, guests }) => {
            let seen = match gateway {
                Some(gateway) => format!("network {} has {gateway}", lab.network),
                None => format!("network {} is made when a lab starts", lab.network),
            };
            findings.push(Finding::good("libvirt", seen));
            for (arch, runs) in guests {
                let part = format!("guests of {arch}");
                findings.push(match runs {
                    Ok(true) => Finding::good(part, "they run on this machine's processor (KVM)"),
                    Ok(false) => Finding::good(part, "they are emulated (TCG), some ten times slower"),
                    Err(error) => Finding::bad(part, Chain(&error).to_string(), error.hint()),
                });
            }
        }
    }
    if lab.devices.iter().any(|machine| machine.data_disk_mib.is_some()) {
        findings.push(tool("mkfs.ext4", &["-V"], "apt-get install e2fsprogs").await);
    }
    if archs.iter().any(|&arch| matches!(built(&lab.image, arch), Ok(None))) {
        for (name, version, package) in BUILDERS {
            findings.push(tool(name, &[version], &format!("apt-get install {package}")).await);
        }
    }
    for arch in archs {
        findings.push(image(lab, arch).await);
        findings.push(agent(format!("agent for {arch}"), find_agent(arch)));
    }
}

/// Whether the image that the lab boots is there, every byte as its manifest says.
async fn image(lab: &Lab, arch: Arch) -> Finding {
    let part = format!("image {} {arch}", lab.image);
    let store = Store::from_environment();
    let found = built(&lab.image, arch);
    let build = format!("pilab image build --recipe {} --arch {arch}", lab.image);
    match found {
        Err(error) => Finding::bad(part, Chain(&error).to_string(), error.hint().map(str::to_owned)),
        Ok(None) => Finding::doubtful(part, "not built yet: the first run does, in minutes", build),
        Ok(Some(image)) => match store.verify(&image, Check::All).await {
            Ok(()) => Finding::good(part, "every file is as its manifest says"),
            Err(error) => {
                let hint =
                    format!("pilab image rm {}, then {build}", image.id.get(..12).unwrap_or(&image.id));
                Finding::bad(part, Chain(&error).to_string(), Some(hint))
            }
        },
    }
}

async fn containers(findings: &mut Vec<Finding>) {
    findings.push(tool("podman", &["--version"], "install podman; lab/setup does").await);
    findings.push(match Arch::host() {
        Some(arch) => agent("agent for containers".to_owned(), host_agent(arch)),
        None => Finding::bad("agent for containers", "agents are built for aarch64 and x86_64 only", None),
    });
}

fn agent(part: String, found: Result<std::path::PathBuf, CliError>) -> Finding {
    match found {
        Ok(path) => Finding::good(part, path.display().to_string()),
        Err(error) => {
            let hint = error.hint().map(str::to_owned);
            Finding::bad(part, Chain(&error).to_string(), hint)
        }
    }
}

/// Real devices: what their switches say, and whether their lines can be opened. Nothing is switched.
async fn wired(lab: &Lab, findings: &mut Vec<Finding>) {
    for device in &lab.wired {
        let id = &device.device.id;
        let part = format!("power of {id}");
        findings.push(match &device.power {
            // To open one is to take it.
            PowerSwitch::Gpio(gpio) => pins::look(part, gpio),
            switch => power(part, id, switch).await,
        });
        let Some(line) = &device.console else { continue };
        let part = format!("console of {id}");
        let opened = tokio::time::timeout(LOOK, serial::line(line.clone()).open()).await;
        findings.push(match opened {
            Ok(Ok(_)) => Finding::good(part, format!("{line} can be opened")),
            Ok(Err(error)) => {
                let hint = "look whether it is plugged in, who has it open (fuser), and whether you are in the \
                            group dialout";
                Finding::bad(part, format!("{line}: {}", Chain(&error)), Some(hint.to_owned()))
            }
            Err(_) => Finding::bad(part, format!("{line}: not open within {} s", LOOK.as_secs()), None),
        });
    }
}

/// What a switch says.
async fn power(part: String, device: &DeviceId, switch: &PowerSwitch) -> Finding {
    match power::open(device.clone(), switch.clone()) {
        Err(error) => Finding::bad(part, Chain(&error).to_string(), error.hint()),
        Ok(switch) => match tokio::time::timeout(LOOK, switch.get()).await {
            Ok(Ok(reading)) => Finding::good(part, reading.to_string()),
            Ok(Err(error)) => {
                let hint = if let PortError::Failed { hint, .. } = &error { hint.clone() } else { None };
                Finding::bad(part, Chain(&error).to_string(), hint)
            }
            Err(_) => Finding::bad(part, format!("no answer within {} s", LOOK.as_secs()), None),
        },
    }
}
