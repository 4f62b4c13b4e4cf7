//! What the tests of this level share: a host, a kernel to boot, a console that keeps what it reads.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and say why they skip"
)]

use ::pilab::console::port::ByteStream;
use ::pilab::device::ports::BootOffer;
use ::pilab::model::boot::BootAttempt;
use ::pilab::model::device::Arch;
use ::pilab::model::id::DeviceId;
use ::pilab::model::lease::FencingToken;
use ::pilab::vm::{Host, HostOptions, VmDevice, VmSpec};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

/// Until then a guest must have done what a test waits for: booting takes seconds under emulation, a
/// busy machine takes ten times that.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn token(sequence: u64) -> FencingToken {
    FencingToken { epoch: 1, sequence }
}

/// Prints why a test of this level cannot run; fails it when the level is required.
pub(crate) fn skip(why: &str) {
    let required = std::env::var("PILAB_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|level| level == "vm"), "the vm level is required: {why}");
    eprintln!("skipped: {why}");
}

/// A kernel for an emulated Raspberry Pi: `PILAB_TEST_KERNEL`, else the newest in the image store.
pub(crate) fn kernel() -> Option<PathBuf> {
    if let Some(kernel) = std::env::var_os("PILAB_TEST_KERNEL") {
        return Some(kernel.into());
    }
    let store =
        std::env::var_os("PILAB_IMAGE_DIR").map_or_else(|| "/var/cache/pilab/images".into(), PathBuf::from);
    let modified = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).ok();
    files(store, 4).into_iter().filter(is_arm64_image).max_by_key(modified)
}

fn files(dir: PathBuf, depth: usize) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .flat_map(|path| match (path.is_dir(), depth) {
            (true, 0) => Vec::new(),
            (true, _) => files(path, depth - 1),
            (false, _) => vec![path],
        })
        .collect()
}

/// `ARM\x64` at offset 56 (Linux, Documentation/arch/arm64/booting.rst).
fn is_arm64_image(path: &PathBuf) -> bool {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 4];
    File::open(path).and_then(|file| file.read_exact_at(&mut magic, 56)).is_ok() && magic == *b"ARM\x64"
}

/// A host of its own for one test, with an owner lock that it holds.
pub(crate) struct Bench {
    pub(crate) host: Host,
    pub(crate) dir: tempfile::TempDir,
    instance: String,
    lock: Option<File>,
}

impl Bench {
    /// None, with the reason printed, when the level cannot run here.
    pub(crate) async fn new(instance: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        // QEMU runs as another user.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let instance = format!("test-{instance}-{}", std::process::id());
        let run_dir = dir.path().join("run");
        match Host::connect(HostOptions::new(&instance, run_dir)).await {
            Ok(host) => {
                let lock = File::create(dir.path().join("lock")).unwrap();
                flock(&lock, FlockOperation::LockExclusive).unwrap();
                Some(Self { host, dir, instance, lock: Some(lock) })
            }
            Err(error) => {
                skip(&format!("{error}: {}", error.hint().unwrap_or_default()));
                None
            }
        }
    }

    /// A second host, as a coordinator that starts later has it.
    pub(crate) async fn successor(&self) -> Host {
        let options = HostOptions::new(format!("{}-2", self.instance), self.dir.path().join("run2"));
        Host::connect(options).await.unwrap()
    }

    /// The same lab's in another process.
    pub(crate) async fn again(&self) -> Host {
        let options = HostOptions::new(self.instance.clone(), self.dir.path().join("run"));
        Host::connect(options).await.unwrap()
    }

    pub(crate) async fn device(&self) -> Arc<VmDevice> {
        self.device_with(None).await
    }

    pub(crate) async fn device_with(&self, data_disk_mib: Option<u32>) -> Arc<VmDevice> {
        self.host.device(self.spec(data_disk_mib)).await.unwrap()
    }

    pub(crate) fn spec(&self, data_disk_mib: Option<u32>) -> VmSpec {
        VmSpec {
            id: DeviceId::new("lab-vm").unwrap(),
            arch: Arch::Aarch64,
            memory_mib: 256,
            vcpus: 1,
            data_disk_mib,
            owner_lock: self.dir.path().join("lock"),
            lasting: false,
            saves: None,
        }
    }

    /// What happens when the process dies: the kernel lets go of its lock.
    pub(crate) fn release_lock(&mut self) {
        self.lock.take();
    }

    /// A boot of `kernel` with nothing in its initramfs: the kernel speaks, finds no root and panics.
    pub(crate) fn offer(&self, kernel: PathBuf, cmdline: &[&str]) -> BootOffer {
        let initramfs = self.dir.path().join("initramfs");
        std::fs::write(&initramfs, EMPTY_CPIO).unwrap();
        BootOffer {
            attempt: BootAttempt(1),
            kernel: Some(kernel),
            initramfs: Some(initramfs),
            cmdline: cmdline.iter().map(|&argument| argument.to_owned()).collect(),
            ..BootOffer::default()
        }
    }
}

/// A cpio archive (format newc, cpio(5)) that holds only its trailer.
const EMPTY_CPIO: &str = concat!(
    "070701",
    "00000000",
    "00000000",
    "00000000",
    "00000000",
    "00000001",
    "00000000",
    "00000000",
    "00000000",
    "00000000",
    "00000000",
    "00000000",
    "0000000B",
    "00000000",
    "TRAILER!!!\0\0\0\0"
);

/// All that a device's console has said, line after line as it opens and ends.
pub(crate) struct Console {
    said: watch::Receiver<Said>,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Said {
    text: String,
    ended: usize,
}

impl Console {
    #[expect(clippy::disallowed_methods, reason = "the handle is the owner: it aborts the task when dropped")]
    pub(crate) fn read(device: &Arc<VmDevice>) -> Self {
        let device = Arc::clone(device);
        let (say, said) = watch::channel(Said::default());
        let reader = tokio::spawn(async move {
            loop {
                let mut line = device.open().await.unwrap();
                let mut chunk = [0; 4096];
                loop {
                    let read = line.read(&mut chunk).await.unwrap_or(0);
                    let text = String::from_utf8_lossy(&chunk[..read]);
                    say.send_modify(|said| {
                        said.text.push_str(&text);
                        said.ended += usize::from(read == 0);
                    });
                    if read == 0 {
                        break;
                    }
                }
            }
        });
        Self { said, reader }
    }

    /// Waits until the console has said `text`; answers all it said.
    pub(crate) async fn wait_for(&mut self, text: &str) -> String {
        self.wait(text, |said| said.text.contains(text)).await
    }

    /// Waits until the console has said `text` so many times; answers all it said.
    pub(crate) async fn wait_for_times(&mut self, text: &str, times: usize) -> String {
        self.wait(text, |said| said.text.matches(text).count() >= times).await
    }

    /// Waits until the line has ended; answers all it said.
    pub(crate) async fn wait_for_end(&mut self) -> String {
        self.wait("the line to end", |said| said.ended > 0).await
    }

    async fn wait(&mut self, what: &str, is_so: impl Fn(&Said) -> bool) -> String {
        let waited = tokio::time::timeout(PATIENCE, self.said.wait_for(is_so));
        let text = waited.await.map(|said| said.unwrap().text.clone());
        text.unwrap_or_else(|_| {
            panic!("waited for {what:?} in vain; the console said:\n{}", self.said.borrow().text)
        })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
