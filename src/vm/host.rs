//! [`Host`]: this machine's libvirt, where devices are made and swept.

use super::capabilities::{self, Accelerator, GuestSupport};
use super::connection::Connection;
use super::device::VmDevice;
use super::domain::{NAMESPACE, Owner};
use super::error::VmError;
use super::parts::Parts;
use super::{HostOptions, VmSpec, naming, network};
use crate::model::device::Arch;
use crate::support::lock::lock;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys::{VIR_CONNECT_LIST_DOMAINS_ACTIVE, VIR_DOMAIN_METADATA_ELEMENT};

/// The directory of the consoles may be entered by all: QEMU runs as another user. What is made in it is of its own
/// group: libvirt, as root, makes the sockets for its user and group, and a coordinator need not be root to connect.
const RUN_DIR_MODE: u32 = 0o2711;

/// A libvirt that can run devices.
pub struct Host {
    connection: Connection,
    options: HostOptions,
    /// The label of the user that runs QEMU, where libvirt runs it as another user.
    qemu_user: Option<String>,
    cpuinfo: String,
    gateway: Ipv4Addr,
    devices: Mutex<Vec<Arc<VmDevice>>>,
    /// One save at a time is made: each takes as much of the host as a boot.
    saving: Arc<Semaphore>,
    /// The names of the devices that start from saved memory.
    slots: Arc<Mutex<BTreeSet<String>>>,
}

impl Host {
    /// Connects, and makes the network ready.
    pub async fn connect(options: HostOptions) -> Result<Self, VmError> {
        let connection = Connection::new(&options.uri);
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let system = options.uri.ends_with("/system");
        let qemu_user = system.then(|| capabilities::qemu_user(&passwd)).flatten();
        let gateway = network::ready(&connection, &options.network).await?;
        make_run_dir(&options.run_dir)
            .map_err(|source| VmError::RunDir { path: options.run_dir.clone(), source })?;
        let (devices, saving) = (Mutex::default(), Arc::new(Semaphore::new(1)));
        let slots = Arc::default();
        Ok(Self { connection, options, qemu_user, cpuinfo, gateway, devices, saving, slots })
    }

    /// This host's address on the guests' network.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Whether guests of `arch` can run here. To be asked before anything slow is done for them.
    pub async fn can_run(&self, arch: Arch) -> Result<(), VmError> {
        support(&self.connection, &self.cpuinfo, arch).await.map(drop)
    }

    /// A device of this host; it does not exist in libvirt before it is switched on.
    pub async fn device(&self, spec: VmSpec) -> Result<Arc<VmDevice>, VmError> {
        let support = support(&self.connection, &self.cpuinfo, spec.arch).await?;
        let name = naming::domain_name(&self.options.instance, &spec.id);
        let console =
            naming::console(&self.options.run_dir, &name).map_err(|path| VmError::SocketPath { path })?;
        let channel = console.with_extension("wake");
        let owner = Owner {
            instance: self.options.instance.clone(),
            device: spec.id.to_string(),
            lock: spec.owner_lock.clone(),
            kept: spec.lasting,
        };
        if spec.saves.is_some() {
            lock(&self.slots).insert(name.clone());
        }
        let device = Arc::new(VmDevice::new(Parts {
            mac: naming::mac(&name),
            name,
            console,
            owner,
            channel,
            processor: match support.accelerator {
                Accelerator::Kvm => capabilities::processor(&self.cpuinfo),
                Accelerator::Tcg => String::new(),
            },
            saving: Arc::clone(&self.saving),
            slots: Arc::clone(&self.slots),
            spec,
            support,
            qemu_user: self.qemu_user.clone(),
            network: self.options.network.clone(),
            uri: self.options.uri.clone(),
            connection: self.connection.clone(),
        }));
        device.find().await?;
        lock(&self.devices).push(Arc::clone(&device));
        Ok(device)
    }

    /// Removes what a crashed coordinator left behind: each domain of ours whose owner's lock is free or
    /// gone and that was not kept on request; nothing else. Answers their names.
    pub async fn sweep(&self) -> Result<Vec<String>, VmError> {
        self.connection.call("sweep domains whose owner is gone", sweep).await
    }

    /// Removes what is left of devices that this lab had and that its file names no more; nobody could switch them. To be asked
    /// when all devices are made. Answers their names.
    pub async fn remove_unnamed(&self) -> Result<Vec<String>, VmError> {
        let named: BTreeSet<String> =
            lock(&self.devices).iter().map(|device| device.domain_name().to_owned()).collect();
        let instance = self.options.instance.clone();
        let remove = move |connect: &Connect| {
            remove_where(connect, |name, owner| {
                (owner.instance == instance && !named.contains(name)).then_some(())
            })
        };
        self.connection.call("remove domains that the lab names no more", remove).await
    }

    /// The locks of the owners of our domains: who has one of them still has, or has kept, machines.
    pub async fn owner_locks(&self) -> Result<Vec<PathBuf>, VmError> {
        let locks = |connect: &Connect| {
            let domains = connect.list_all_domains(VIR_CONNECT_LIST_DOMAINS_ACTIVE)?;
            Ok(domains.iter().filter_map(owner).map(|owner| owner.lock).collect())
        };
        self.connection.call("list domains", locks).await
    }

    /// Removes every device of this host that was not kept. Dropping the host removes nothing, as a
    /// destructor cannot wait: what is left then is swept at the next start.
    pub async fn close(&self) -> Result<(), VmError> {
        let devices = std::mem::take(&mut *lock(&self.devices));
        let mut first = Ok(());
        for device in devices {
            first = first.and(device.close().await);
            if matches!(first, Err(VmError::Silent { .. })) {
                // It answers for the others no sooner.
                break;
            }
        }
        first
    }
}

/// How guests of `arch` run here: on the processor where that works, else emulated. One kind of domain
/// is asked about at a time, since a list of all makes libvirt try each emulator with KVM, for seconds
/// where `/dev/kvm` is there and useless.
pub(super) async fn support(
    connection: &Connection,
    cpuinfo: &str,
    arch: Arch,
) -> Result<GuestSupport, VmError> {
    let kvm = capabilities::may_virtualize(arch, cpuinfo, Arch::host());
    let kinds = [("kvm", Accelerator::Kvm), ("qemu", Accelerator::Tcg)];
    let mut said = None;
    for (kind, accelerator) in kinds.into_iter().skip(usize::from(!kvm)) {
        let name = arch.to_string();
        let ask =
            move |connect: &Connect| connect.get_domain_capabilities(None, Some(&name), None, Some(kind), 0);
        // libvirt has no error of its own for "no such emulator".
        match connection.call("read what guests can do", ask).await {
            Ok(text) => {
                if let Some(emulator) = capabilities::emulator(&text) {
                    return Ok(GuestSupport { emulator, accelerator });
                }
            }
            Err(VmError::Call { source, .. }) => said = Some(source),
            Err(error) => return Err(error),
        }
    }
    Err(VmError::NoEmulator { arch, source: said })
}

fn make_run_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(RUN_DIR_MODE).create(path)?;
    // Whatever the umask.
    std::fs::set_permissions(path, Permissions::from_mode(RUN_DIR_MODE))
}

fn sweep(connect: &Connect) -> Result<Vec<String>, Error> {
    remove_where(connect, |_, owner| (!owner.kept).then(|| free_lock(&owner.lock)).flatten())
}

/// Removes our domains that `goes` answers for; what it answers is held until the domain is gone.
fn remove_where<T>(
    connect: &Connect,
    goes: impl Fn(&str, &Owner) -> Option<T>,
) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    for domain in connect.list_all_domains(VIR_CONNECT_LIST_DOMAINS_ACTIVE)? {
        let Some(owner) = owner(&domain) else { continue };
        let name = domain.get_name()?;
        let Some(_held) = goes(&name, &owner) else { continue };
        match domain.destroy() {
            Ok(()) => removed.push(name),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Whose the domain is; none when it is not ours, or is ending just now.
fn owner(domain: &Domain) -> Option<Owner> {
    let kind = i32::try_from(VIR_DOMAIN_METADATA_ELEMENT).ok()?;
    Owner::read(&domain.get_metadata(kind, Some(NAMESPACE), 0).ok()?)
}

/// A lock that nobody holds.
enum FreeLock {
    /// The file is gone.
    Missing,
    /// Held by us now, so that nobody takes it while its domain is removed.
    Taken { _file: File },
}

/// None when somebody holds the lock, or it cannot be known.
fn free_lock(path: &Path) -> Option<FreeLock> {
    match File::open(path) {
        Ok(file) => {
            rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).ok()?;
            Some(FreeLock::Taken { _file: file })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(FreeLock::Missing),
        Err(_) => None,
    }
}

/// Whether libvirt says that there is no such domain, or that it does not run.
pub(super) fn is_gone(error: &Error) -> bool {
    matches!(error.code(), ErrorNumber::NoDomain | ErrorNumber::OperationInvalid)
}

#[cfg(test)]
mod tests {
    use super::super::NETWORK;
    use super::*;
    use crate::model::id::DeviceId;
    use rustix::fs::{FlockOperation, flock};

    fn options(run_dir: &Path) -> HostOptions {
        let (uri, network) = ("test:///default".to_owned(), "default".to_owned());
        HostOptions { uri, network, ..HostOptions::new("test", run_dir) }
    }

    /// libvirt's in-memory driver has a network `default` and no QEMU.
    #[tokio::test]
    async fn a_host_without_an_emulator_says_which_one() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::connect(options(dir.path())).await.unwrap();
        assert_eq!(host.gateway(), Ipv4Addr::new(192, 168, 122, 1));
        let spec = VmSpec {
            id: DeviceId::new("lab-vm").unwrap(),
            arch: Arch::Aarch64,
            memory_mib: 64,
            vcpus: 1,
            data_disk_mib: None,
            owner_lock: dir.path().join("lock"),
            lasting: false,
            saves: None,
        };
        let error = host.device(spec).await.err().unwrap();
        assert!(error.to_string().starts_with("qemu-system-aarch64 is not installed"), "{error}");
        assert!(error.hint().unwrap().contains("lab/setup"));
        assert_eq!(host.sweep().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_network_of_ones_own_is_made_where_it_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let options = HostOptions { network: NETWORK.to_owned(), ..options(dir.path()) };
            assert_eq!(Host::connect(options).await.unwrap().gateway(), Ipv4Addr::new(192, 168, 171, 1));
        }
    }

    #[tokio::test]
    async fn a_missing_network_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let options = HostOptions { network: "nowhere".to_owned(), ..options(dir.path()) };
        let error = Host::connect(options).await.err().unwrap();
        assert!(matches!(&error, VmError::Network { network, .. } if network == "nowhere"), "{error:?}");
    }

    #[test]
    fn a_socket_that_root_makes_is_of_our_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lab");
        make_run_dir(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o2711);
    }

    #[test]
    fn a_lock_is_free_when_nobody_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(matches!(free_lock(&path), Some(FreeLock::Missing)));
        let held = File::create(&path).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        assert!(free_lock(&path).is_none());
        drop(held);
        assert!(matches!(free_lock(&path), Some(FreeLock::Taken { .. })));
    }
}
