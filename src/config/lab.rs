//! A lab file: which devices there are. `lab/laptop.toml` is the default.

use super::error::ConfigError;
use super::raw::Source;
use crate::model::device::{Arch, Backend, Capability, Device, Model};
use crate::model::id::{DeviceId, LabName};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use toml::Spanned;

/// Memory of a virtual machine when the file does not say, in MiB: the image unpacks nothing and
/// podman's storage lies on tmpfs, so 1 GiB is what the smallest Pi that netboots has.
const DEFAULT_MEMORY_MIB: u32 = 1024;
/// Processors of a virtual machine when the file does not say.
const DEFAULT_VCPUS: u32 = 2;
/// The longest kernel argument in bytes. All of them share the kernel's command line, which has 2048 bytes
/// (`COMMAND_LINE_SIZE` of arm64 and x86), with those of image and layers.
const MAX_KERNEL_ARG: usize = 256;
/// The most kernel arguments a lab may add.
const MAX_KERNEL_ARGS: usize = 16;
/// The most devices one pool may have.
const MAX_POOL: u32 = 256;

/// A lab, checked.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Its name, the first part of each device's id.
    pub name: LabName,
    /// The image recipe its devices boot.
    pub image: String,
    /// The libvirt network its virtual machines are on.
    pub network: String,
    /// Kernel arguments of all its devices, after those of the image.
    pub kernel_args: Vec<String>,
    /// Its devices.
    pub devices: Vec<VmDevice>,
}

/// A virtual machine of a lab.
#[derive(Debug, Clone)]
pub struct VmDevice {
    /// What scenarios see.
    pub device: Device,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLab {
    name: LabName,
    #[serde(default = "default_image")]
    image: String,
    #[serde(default = "default_network")]
    network: String,
    #[serde(default)]
    kernel_args: Vec<Spanned<String>>,
    pools: Vec<Spanned<RawPool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    name: String,
    backend: Backend,
    #[serde(default = "default_arch")]
    arch: Arch,
    count: u32,
    #[serde(default = "default_memory")]
    memory_mib: u32,
    #[serde(default = "default_vcpus")]
    vcpus: u32,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

fn default_image() -> String {
    "trixie".to_owned()
}

fn default_network() -> String {
    "default".to_owned()
}

fn default_arch() -> Arch {
    Arch::Aarch64
}

fn default_memory() -> u32 {
    DEFAULT_MEMORY_MIB
}

fn default_vcpus() -> u32 {
    DEFAULT_VCPUS
}

/// Reads and checks a lab file. `arch` and `image`, when given, take the place of what the file says.
pub fn load(path: &Path, arch: Option<Arch>, image: Option<&str>) -> Result<Lab, ConfigError> {
    let source = Source::read(path)?;
    let raw: RawLab = source.parse()?;
    let kernel_args = kernel_args(&source, raw.kernel_args)?;
    let mut devices = Vec::new();
    let mut names = BTreeSet::new();
    for (index, pool) in raw.pools.iter().enumerate() {
        let error =
            |field: &str, cause: String| source.value(&pool.span(), format!("pools[{index}].{field}"), cause);
        let pool = pool.get_ref();
        if pool.backend != Backend::Vm {
            return Err(error("backend", "only \"vm\" can be a pool".to_owned()));
        }
        if !(1..=MAX_POOL).contains(&pool.count) {
            return Err(error("count", format!("{} is not between 1 and {MAX_POOL}", pool.count)));
        }
        if !(256..=65536).contains(&pool.memory_mib) {
            return Err(error("memory_mib", format!("{} is not between 256 and 65536", pool.memory_mib)));
        }
        if !(1..=64).contains(&pool.vcpus) {
            return Err(error("vcpus", format!("{} is not between 1 and 64", pool.vcpus)));
        }
        if !names.insert(&pool.name) {
            return Err(error("name", format!("{:?} is the name of an earlier pool", pool.name)));
        }
        for number in 1..=pool.count {
            let id = DeviceId::new(format!("{}-{}-{number}", raw.name, pool.name))
                .map_err(|cause| error("name", cause.to_string()))?;
            devices.push(VmDevice {
                device: Device {
                    id,
                    backend: pool.backend,
                    model: Model::vm(arch.unwrap_or(pool.arch)),
                    labels: pool.labels.clone(),
                    capabilities: [Capability::Power, Capability::Console, Capability::Ssh].into(),
                },
                memory_mib: pool.memory_mib,
                vcpus: pool.vcpus,
            });
        }
    }
    let image = image.map_or(raw.image, str::to_owned);
    Ok(Lab { name: raw.name, image, network: raw.network, kernel_args, devices })
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
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let table = [
            ("name = \"l\"\npools = []\ncolour = 1\n", "/lab.toml:3:1: unknown field `colour`"),
            ("name = \"L\"\npools = []\n", "/lab.toml:1:8: lab name \"L\" is not valid"),
            ("name = \"l\"\npools = []\nimage = 3\n", "/lab.toml:3:9: invalid type: integer `3`"),
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
            load_text("name = \"l\"\npools = []\nkernel_args = [\"quiet\", \"a=\\\"b\\\"\"]\n").unwrap();
        assert_eq!(lab.kernel_args, ["quiet", "a=\"b\""]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Path::new("no/such.toml"), None, None).unwrap_err();
        assert_eq!(error.to_string(), "cannot read no/such.toml");
    }
}
