//! A lab file: which devices there are. `lab/laptop.toml` is the default.

use super::bundles::RawBundles;
use super::error::ConfigError;
use super::health::{Health, RawHealth};
use super::leases::{Leases, RawLeases};
use super::nats::{self, Nats, RawNats};
use super::netboot::{self, Netboot, RawNetboot};
use super::nightly::{self, Nightly, RawNightly};
use super::raw::{RawDuration, Source};
use super::server::{self, RawServer};
use super::simulate::{RawSimulated, Simulated};
use super::wiring::{self, RawDevice, WiredDevice};
use crate::model::bundle::Retention;
use crate::model::device::{Arch, Backend, Capability, Device, Model};
use crate::model::id::{DeviceId, LabName};
use crate::model::tls::ServedTls;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use toml::Spanned;

/// Memory of a virtual machine when the file does not say, in MiB: the image unpacks nothing and
/// podman's storage lies on tmpfs, so 1 GiB is what the smallest Pi that netboots has.
const DEFAULT_MEMORY_MIB: u32 = 1024;
/// Processors of a virtual machine when the file does not say.
const DEFAULT_VCPUS: u32 = 2;
/// Size of a virtual machine's data disk when the file does not say, in MiB. The file is sparse, so it costs what is
/// written: the agent's few files and podman's storage.
const DEFAULT_DATA_DISK_MIB: u32 = 512;
/// The longest kernel argument in bytes. All of them share the kernel's command line, which has 2048 bytes
/// (`COMMAND_LINE_SIZE` of arm64 and x86), with those of image and layers.
const MAX_KERNEL_ARG: usize = 256;
/// The most kernel arguments a lab may add.
const MAX_KERNEL_ARGS: usize = 16;
/// What each virtual machine can do; one with a data disk keeps its state besides.
const VM_CAPABILITIES: [Capability; 7] = [
    Capability::Boot,
    Capability::Image,
    Capability::Power,
    Capability::Console,
    Capability::Ssh,
    Capability::Reboot,
    Capability::Network,
];
/// What a container can do: `docs/decisions/0008-containers.md`.
const CONTAINER_CAPABILITIES: [Capability; 2] = [Capability::Boot, Capability::Image];
/// Pause between the power-ons of two wired devices when the file does not say: the inrush of a board and its
/// supply is over in less.
const DEFAULT_STAGGER: Duration = Duration::from_secs(1);
/// The longest such pause.
const MAX_STAGGER: Duration = Duration::from_secs(60);
/// The most devices one pool may have.
const MAX_POOL: u32 = 256;

/// A lab, checked.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Its name, the first part of each device's id.
    pub name: LabName,
    /// The image its devices boot: a recipe, or the id, or its beginning, of an image that is built.
    pub image: String,
    /// The libvirt network its virtual machines are on.
    pub network: String,
    /// How much memory those of them that start from saved memory have together at the most, in MiB; half of the host's when
    /// missing.
    pub warm_memory_mib: Option<u64>,
    /// How much of the disk all saved memory takes at the most, in MiB.
    pub warm_disk_mib: Option<u64>,
    /// Kernel arguments of all its devices, after those of the image.
    pub kernel_args: Vec<String>,
    /// The rules by which a coordinator lends them.
    pub leases: Leases,
    /// How far it trusts its devices.
    pub health: Health,
    /// Its virtual machines.
    pub devices: Vec<VmDevice>,
    /// Its devices that are containers on the coordinator's host.
    pub containers: Vec<Device>,
    /// Its real devices.
    pub wired: Vec<WiredDevice>,
    /// The least time between the power-ons of two real devices.
    pub stagger: Duration,
    /// How those of them are booted that boot from the lab.
    pub netboot: Option<Netboot>,
    /// What is run every night.
    pub nightly: Vec<Nightly>,
    /// What its simulated devices share.
    pub simulated: Simulated,
    /// How many bundles are kept, and for how long.
    pub bundles: Retention,
    /// The site's NATS servers; none for a server of the coordinator's own.
    pub nats: Option<Nats>,
    /// How that one speaks TLS, if it does.
    pub server_tls: Option<ServedTls>,
}

impl Lab {
    /// On which backend its devices are: the one asked for, else virtual machines where it has some. Real
    /// devices are there beside the others. None when it has no such devices.
    pub fn backend(&self, asked: Option<Backend>) -> Option<Backend> {
        let has = |backend: &Backend| match backend {
            Backend::Vm => !self.devices.is_empty(),
            Backend::Container => !self.containers.is_empty(),
            Backend::Pi => self.wired.iter().any(|wired| wired.simulation.is_none()),
            Backend::Sim => self.wired.iter().any(|wired| wired.simulation.is_some()),
        };
        match asked {
            Some(backend) => Some(backend).filter(has),
            None => [Backend::Vm, Backend::Container, Backend::Pi, Backend::Sim].into_iter().find(has),
        }
    }

    /// Leaves of its wired devices those that are of this backend.
    pub fn keep_wired(&mut self, backend: Backend) {
        self.wired.retain(|wired| wired.device.backend == backend);
    }

    /// Those of its real devices that it boots.
    pub fn netbooted(&self) -> impl Iterator<Item = &WiredDevice> {
        self.wired.iter().filter(|wired| wired.netboot.is_some())
    }
}

/// A virtual machine of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDevice {
    /// What scenarios see.
    pub device: Device,
    /// Its architecture.
    pub arch: Arch,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
    /// Size of its data disk in MiB; none when it keeps all in memory.
    pub data_disk_mib: Option<u32>,
    /// Whether it starts from saved memory.
    pub warm: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLab {
    name: LabName,
    #[serde(default = "default_image")]
    image: String,
    #[serde(default = "default_network")]
    network: String,
    warm_memory_mib: Option<u64>,
    warm_disk_mib: Option<u64>,
    #[serde(default)]
    kernel_args: Vec<Spanned<String>>,
    #[serde(default)]
    leases: RawLeases,
    #[serde(default)]
    health: RawHealth,
    #[serde(default)]
    pools: Vec<Spanned<RawPool>>,
    #[serde(default)]
    devices: Vec<Spanned<RawDevice>>,
    stagger: Option<Spanned<RawDuration>>,
    netboot: Option<RawNetboot>,
    #[serde(default)]
    nightly: Vec<Spanned<RawNightly>>,
    #[serde(default)]
    simulate: RawSimulated,
    #[serde(default)]
    bundles: RawBundles,
    nats: Option<RawNats>,
    server: Option<Spanned<RawServer>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    name: String,
    backend: Backend,
    arch: Option<Arch>,
    count: u32,
    memory_mib: Option<u32>,
    vcpus: Option<u32>,
    /// 0 means none.
    data_disk_mib: Option<u32>,
    warm: Option<RawWarm>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// How many of a pool start from saved memory.
#[derive(Deserialize, Clone, Copy)]
#[serde(untagged, expecting = "`warm` is true, false or a number of devices")]
enum RawWarm {
    All(bool),
    First(u32),
}

fn default_image() -> String {
    "trixie".to_owned()
}

fn default_network() -> String {
    "pilab".to_owned()
}

/// Reads and checks a lab file. `arch` and `image`, when given, take the place of what the file says.
pub fn load(path: &Path, arch: Option<Arch>, image: Option<&str>) -> Result<Lab, ConfigError> {
    let source = Source::read(path)?;
    let raw: RawLab = source.parse()?;
    let kernel_args = kernel_args(&source, raw.kernel_args)?;
    let leases = raw.leases.check(&source)?;
    let (mut devices, mut containers) = (Vec::new(), Vec::new());
    let mut names = BTreeSet::new();
    for (index, pool) in raw.pools.iter().enumerate() {
        let error =
            |field: &str, cause: String| source.value(&pool.span(), format!("pools[{index}].{field}"), cause);
        let pool = pool.get_ref();
        if matches!(pool.backend, Backend::Pi | Backend::Sim) {
            return Err(error(
                "backend",
                "only \"vm\" and \"container\" can be a pool: real devices are [[devices]]".to_owned(),
            ));
        }
        if pool.backend == Backend::Container {
            let given = [
                ("arch", pool.arch.is_some()),
                ("memory_mib", pool.memory_mib.is_some()),
                ("vcpus", pool.vcpus.is_some()),
                ("data_disk_mib", pool.data_disk_mib.is_some()),
                ("warm", pool.warm.is_some()),
            ];
            if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
                return Err(error(field, "containers have that of the host".to_owned()));
            }
        }
        let (memory_mib, vcpus) =
            (pool.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB), pool.vcpus.unwrap_or(DEFAULT_VCPUS));
        let arch = arch.or(pool.arch).unwrap_or(Arch::Aarch64);
        if !(1..=MAX_POOL).contains(&pool.count) {
            return Err(error("count", format!("{} is not between 1 and {MAX_POOL}", pool.count)));
        }
        if !(256..=65536).contains(&memory_mib) {
            return Err(error("memory_mib", format!("{memory_mib} is not between 256 and 65536")));
        }
        if !(1..=64).contains(&vcpus) {
            return Err(error("vcpus", format!("{vcpus} is not between 1 and 64")));
        }
        let data_disk_mib = Some(pool.data_disk_mib.unwrap_or(DEFAULT_DATA_DISK_MIB)).filter(|mib| *mib > 0);
        if data_disk_mib.is_some_and(|mib| !(64..=65536).contains(&mib)) {
            return Err(error(
                "data_disk_mib",
                "is neither 0, for none, nor between 64 and 65536".to_owned(),
            ));
        }
        let warm = match pool.warm {
            None | Some(RawWarm::All(false)) => 0,
            Some(RawWarm::All(true)) => pool.count,
            Some(RawWarm::First(first)) if first <= pool.count => first,
            Some(RawWarm::First(first)) => {
                return Err(error("warm", format!("{first} is more than the pool has: {}", pool.count)));
            }
        };
        if !names.insert(&pool.name) {
            return Err(error("name", format!("{:?} is the name of an earlier pool", pool.name)));
        }
        for number in 1..=pool.count {
            let id = DeviceId::new(format!("{}-{}-{number}", raw.name, pool.name))
                .map_err(|cause| error("name", cause.to_string()))?;
            let labels = pool.labels.clone();
            let (model, capabilities) = match pool.backend {
                Backend::Container => (Model::Container, CONTAINER_CAPABILITIES.into()),
                Backend::Pi | Backend::Sim | Backend::Vm => {
                    let state = data_disk_mib.map(|_| Capability::PersistentState);
                    (Model::vm(arch), VM_CAPABILITIES.into_iter().chain(state).collect())
                }
            };
            let device = Device { id, backend: pool.backend, model, labels, capabilities };
            match pool.backend {
                Backend::Container => containers.push(device),
                Backend::Pi | Backend::Sim | Backend::Vm => {
                    let warm = number <= warm;
                    devices.push(VmDevice { device, arch, memory_mib, vcpus, data_disk_mib, warm });
                }
            }
        }
    }
    let stagger = stagger(&source, raw.stagger)?;
    let taken =
        devices.iter().map(|machine| &machine.device).chain(&containers).map(|device| device.id.clone());
    let netboot = raw.netboot.map(|raw| netboot::check(&source, raw)).transpose()?;
    let wired = wiring::check(&source, &raw.name, raw.devices, taken.collect(), netboot.as_ref())?;
    if devices.is_empty() && containers.is_empty() && wired.is_empty() {
        let cause = "a lab has devices: at least one of [[pools]] and [[devices]]";
        return Err(source.value(&(0..0), "pools", cause));
    }
    let ids = devices.iter().map(|machine| &machine.device).chain(&containers);
    let ids = ids.chain(wired.iter().map(|wired| &wired.device)).map(|device| device.id.clone());
    let health = raw.health.check(&source, &raw.name, &ids.collect())?;
    let nightly = nightly::check(&source, raw.nightly)?;
    let simulated = raw.simulate.check(&source)?;
    let nats = raw.nats.map(|raw| nats::check(&source, raw)).transpose()?;
    let server_tls = server::check(&source, raw.server, nats.is_some())?;
    let image = image.map_or(raw.image, str::to_owned);
    Ok(Lab {
        name: raw.name,
        image,
        network: raw.network,
        warm_memory_mib: raw.warm_memory_mib,
        warm_disk_mib: raw.warm_disk_mib,
        kernel_args,
        leases,
        health,
        devices,
        containers,
        wired,
        stagger,
        netboot,
        nightly,
        simulated,
        bundles: raw.bundles.check(&source)?,
        nats,
        server_tls,
    })
}

fn stagger(source: &Source, raw: Option<Spanned<RawDuration>>) -> Result<Duration, ConfigError> {
    let Some(raw) = raw else { return Ok(DEFAULT_STAGGER) };
    match raw.get_ref().0 {
        stagger if stagger <= MAX_STAGGER => Ok(stagger),
        stagger => {
            let cause = format!("{stagger:?} is more than {MAX_STAGGER:?}");
            Err(source.value(&raw.span(), "stagger", cause))
        }
    }
}

/// One argument is one word: a blank would make several of it, and none may end the command line.
fn kernel_args(source: &Source, raw: Vec<Spanned<String>>) -> Result<Vec<String>, ConfigError> {
    let fits = |arg: &str| {
        (1..=MAX_KERNEL_ARG).contains(&arg.len()) && arg.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let check = |(index, arg): (usize, Spanned<String>)| {
        let cause = if index >= MAX_KERNEL_ARGS {
            format!("there are more than {MAX_KERNEL_ARGS}")
        } else if !fits(arg.get_ref()) {
            format!("{:?} is not one word of 1 to {MAX_KERNEL_ARG} printable ASCII characters", arg.get_ref())
        } else {
            return Ok(arg.into_inner());
        };
        Err(source.value(&arg.span(), format!("kernel_args[{index}]"), cause))
    };
    raw.into_iter().enumerate().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Lab, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        std::fs::write(&path, text).unwrap();
        load(&path, None, None).map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), ""))
    }

    #[test]
    fn a_pool_becomes_numbered_devices() {
        let lab = load_text("name = \"l\"\n[[pools]]\nname = \"vm\"\nbackend = \"vm\"\ncount = 2\n").unwrap();
        let ids: Vec<_> = lab.devices.iter().map(|d| d.device.id.as_str()).collect();
        assert_eq!(ids, ["l-vm-1", "l-vm-2"]);
        assert_eq!(lab.image, "trixie");
        assert_eq!(lab.devices[0].data_disk_mib, Some(DEFAULT_DATA_DISK_MIB));
        assert!(lab.devices[0].device.capabilities.contains(&Capability::PersistentState));
    }

    #[test]
    fn a_machine_without_a_data_disk_keeps_nothing() {
        let pool = "name = \"l\"\n[[pools]]\nname = \"vm\"\nbackend = \"vm\"\ncount = 1\ndata_disk_mib = ";
        let lab = load_text(&format!("{pool}0\n")).unwrap();
        assert_eq!(lab.devices[0].data_disk_mib, None);
        assert!(!lab.devices[0].device.capabilities.contains(&Capability::PersistentState));
        let error = load_text(&format!("{pool}8\n")).unwrap_err();
        assert!(error.starts_with("/lab.toml:2: pools[0].data_disk_mib: is neither 0"), "{error}");
    }

    #[test]
    fn a_pool_says_how_many_of_it_start_from_saved_memory() {
        let pool = "name = \"l\"\n[[pools]]\nname = \"vm\"\nbackend = \"vm\"\ncount = 3\n";
        for (line, expected) in
            [("", 0), ("warm = false", 0), ("warm = true", 3), ("warm = 2", 2), ("warm = 0", 0)]
        {
            let lab = load_text(&format!("{pool}{line}\n")).unwrap();
            let warm: Vec<bool> = lab.devices.iter().map(|device| device.warm).collect();
            assert_eq!(warm, [1, 2, 3].map(|number| number <= expected), "{line}");
        }
        let error = load_text(&format!("{pool}warm = 4\n")).unwrap_err();
        assert_eq!(error, "/lab.toml:2: pools[0].warm: 4 is more than the pool has: 3");
        let error = load_text(&format!("{pool}warm = \"yes\"\n")).unwrap_err();
        assert!(error.contains("`warm` is true, false or a number of devices"), "{error}");
    }

    #[test]
    fn a_lab_has_virtual_machines_unless_containers_are_asked_for() {
        let pool = |name: &str, backend: &str| {
            format!("[[pools]]\nname = \"{name}\"\nbackend = \"{backend}\"\ncount = 2\n")
        };
        let container = load_text(&format!("name = \"l\"\n{}", pool("c", "container"))).unwrap();
        assert_eq!(container.containers[1].id.as_str(), "l-c-2");
        assert_eq!(container.containers[1].capabilities, CONTAINER_CAPABILITIES.into());
        assert_eq!(container.backend(None), Some(Backend::Container));
        assert_eq!(container.backend(Some(Backend::Vm)), None);
        let both = format!("name = \"l\"\n{}{}", pool("c", "container"), pool("vm", "vm"));
        let both = load_text(&both).unwrap();
        assert_eq!(both.backend(None), Some(Backend::Vm));
        assert_eq!(both.backend(Some(Backend::Container)), Some(Backend::Container));
        assert_eq!(both.backend(Some(Backend::Pi)), None);
        let error = load_text(&format!("name = \"l\"\n{}vcpus = 2\n", pool("c", "container")));
        assert_eq!(error.unwrap_err(), "/lab.toml:2: pools[0].vcpus: containers have that of the host");
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let table = [
            ("name = \"l\"\npools = []\ncolour = 1\n", "/lab.toml:3:1: unknown field `colour`"),
            ("name = \"L\"\npools = []\n", "/lab.toml:1:8: name: lab name \"L\" is not valid"),
            ("name = \"l\"\npools = []\nimage = 3\n", "/lab.toml:3:9: image: invalid type: integer `3`"),
            (
                "name = \"l\"\n[[pools]]\nname = \"vm\"\nbackend = \"vm\"\ncount = 0\n",
                "/lab.toml:2: pools[0].count: 0 is not between 1 and 256",
            ),
            (
                "name = \"l\"\n[[pools]]\nname = \"v.m\"\nbackend = \"vm\"\ncount = 1\n",
                "/lab.toml:2: pools[0].name: device id \"l-v.m-1\" is not valid",
            ),
            ("name = \n", "/lab.toml:1:8: "),
            (
                "name = \"l\"\npools = []\n[leases]\nmax = \"soon\"\n",
                "/lab.toml:4: leases.max: \"soon\" is no time such as \"90m\": ",
            ),
            (
                "name = \"l\"\npools = []\n[leases]\nmax = \"30m\"\n",
                "/lab.toml:4: leases.max: the usual lease is longer than the longest",
            ),
            (
                "name = \"l\"\npools = []\n[leases]\nmaximum = \"30m\"\n",
                "/lab.toml:4:1: unknown field `maximum`",
            ),
            (
                "name = \"l\"\npools = []\nkernel_args = [\n  \"quiet\",\n  \"a b\",\n]\n",
                "/lab.toml:5: kernel_args[1]: \"a b\" is not one word of 1 to 256 printable",
            ),
            (
                "kernel_args = [\"a\\nb\"]\nname = \"l\"\npools = []\n",
                "/lab.toml:1: kernel_args[0]: \"a\\nb\" is not one word",
            ),
        ];
        for (text, expected) in table {
            let error = load_text(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}, not {expected:?}");
        }
    }

    #[test]
    fn kernel_arguments_are_those_of_all_devices() {
        let lab =
            load_text("name = \"l\"\nkernel_args = [\"quiet\", \"a=\\\"b\\\"\"]\n[[pools]]\nname = \"p\"\nbackend = \"vm\"\ncount = 1\n").unwrap();
        assert_eq!(lab.kernel_args, ["quiet", "a=\"b\""]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Path::new("no/such.toml"), None, None).unwrap_err();
        assert_eq!(error.to_string(), "cannot read no/such.toml");
    }
}
