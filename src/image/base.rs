//! The base root and the kernel: Debian packages, installed by mmdebstrap and trimmed. This is the part
//! of a build that takes minutes and needs root; all the rest is laid over it.

use super::error::{At, ImageError};
use super::initramfs;
use super::manifest::{Lock, LockedPackage, Part, sha256};
use super::modules::Dependencies;
use super::progress::{Bootstrap, Sink, Stage};
use super::recipe::{KernelRecipe, Recipe, matches};
use super::store::{Store, hash_file, names};
use super::{sources, squash, tool, tree};
use crate::model::device::Arch;
use crate::support::command::{Command, CommandError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

/// Hooks of mmdebstrap.
const SETUP: &str = include_str!("../../firmware/base/setup");
const ESSENTIAL: &str = include_str!("../../firmware/base/essential");
const CUSTOMIZE: &str = include_str!("../../firmware/base/customize");

/// Counts up when this file changes what a base root is.
const REVISION: u32 = 1;

/// What every root is rid of: what the build itself left, and what must differ between devices.
const LEFT_OVERS: &[&str] = &[
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/preferences.d/pilab-lock",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/hostname",
    "etc/initramfs-tools",
    "etc/machine-id",
    "etc/resolv.conf",
    "etc/ssh/ssh_host_*",
    "etc/*-",
    "root/.cache",
    "run/*",
    "tmp/*",
    "var/cache/apt/*",
    "var/cache/debconf/*",
    "var/cache/ldconfig/*",
    "var/lib/apt/lists/*",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/*-old",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/catalog/database",
    "var/log/*",
    "var/log/apt/*",
    "var/tmp/*",
];

/// The parts that a recipe came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Base {
    pub(super) root: Part,
    pub(super) kernel: Part,
    /// The initramfs without our scripts.
    pub(super) kit: Part,
    /// Static, for the container images.
    pub(super) busybox: Part,
    pub(super) lock: Part,
    pub(super) kernel_release: String,
}

impl Base {
    pub(super) fn parts(&self) -> [&Part; 5] {
        [&self.root, &self.kernel, &self.kit, &self.busybox, &self.lock]
    }

    /// A record, if it is one: one that is not is like none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, ImageError> {
        match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            bytes => Ok(serde_json::from_slice(&bytes.at("read", path)?).ok()),
        }
    }
}

/// SHA-256 over all that a base root is made from.
pub(super) fn key(recipe: &Recipe, arch: Arch, lock: Option<&Lock>) -> Result<String, ImageError> {
    // Kernel arguments are in the manifest, not in the root.
    let kernel = KernelRecipe { cmdline: Vec::new(), ..recipe.kernel.clone() };
    let recipe = Recipe { kernel, ..recipe.clone() };
    let scripts = (SETUP, ESSENTIAL, CUSTOMIZE, LEFT_OVERS);
    let inputs = serde_json::to_vec(&(REVISION, recipe, arch, scripts, squash::EPOCH, lock));
    inputs.map(|bytes| sha256(&bytes)).map_err(|e| ImageError::io("encode", Path::new("recipe"), e.into()))
}

/// A base root being built.
pub(super) struct BaseBuild<'a> {
    pub(super) store: &'a Store,
    pub(super) recipe: &'a Recipe,
    pub(super) arch: Arch,
    pub(super) lock: Option<&'a Lock>,
    /// An empty directory of this build.
    pub(super) work: &'a Path,
    pub(super) sink: &'a Sink,
    pub(super) cancel: &'a CancellationToken,
}

impl BaseBuild<'_> {
    /// Builds it and puts its parts into the store.
    pub(super) async fn run(&self) -> Result<Base, ImageError> {
        if !rustix::process::geteuid().is_root() {
            return Err(ImageError::NotRoot);
        }
        let root = self.work.join("root");
        let cache = self.store.package_cache(&self.recipe.suite, self.arch);
        fs::create_dir_all(&cache).at("create", &cache)?;
        self.bootstrap(&root, &cache).await?;

        let lock = self.read_lock(&cache)?;
        if let Some((package, locked, found)) = self.lock.and_then(|wanted| wanted.difference(&lock)) {
            return Err(ImageError::LockMismatch { package, found, locked });
        }
        self.sink.tell(Stage::Base, Some(0.0), "kernel");
        let (release, kernel) = self.install_kernel(&root).await?;
        let kit = self.work.join("kit");
        let content = initramfs::kit(&root, &release, &self.recipe.kernel).await?;
        fs::write(&kit, content).at("write", &kit)?;
        let busybox = self.work.join("busybox");
        fs::copy(root.join("usr/bin/busybox"), &busybox).at("copy", &busybox)?;

        self.sink.tell(Stage::Base, Some(0.3), "trim");
        for pattern in self.recipe.remove.iter().map(String::as_str).chain(LEFT_OVERS.iter().copied()) {
            remove_matching(&root, pattern)?;
        }
        self.sink.tell(Stage::Base, Some(0.4), "pack");
        let packed = self.work.join("root.squashfs");
        squash::pack(&root, &packed, false, self.cancel).await?;

        let lock_file = self.work.join("lock");
        let json =
            serde_json::to_vec_pretty(&lock).map_err(|e| ImageError::io("encode", &lock_file, e.into()))?;
        fs::write(&lock_file, json).at("write", &lock_file)?;
        trim(&cache, &lock)?;
        let put = |file: &Path| self.store.put(file);
        Ok(Base {
            root: put(&packed)?,
            kernel: put(&kernel)?,
            kit: put(&kit)?,
            busybox: put(&busybox)?,
            lock: put(&lock_file)?,
            kernel_release: release,
        })
    }

    /// Runs mmdebstrap. It gets a PID and a mount namespace of its own, whose first process dies with
    /// us: however this process ends, no dpkg works on and no mount is left. Its process group is its own
    /// too: Ctrl-C on the terminal is for us to hear.
    async fn bootstrap(&self, root: &Path, cache: &Path) -> Result<(), ImageError> {
        self.sink.tell(Stage::Packages, None, "start");
        let lines = sources::lines(self.recipe, Path::new("/"))?;
        let write = |name: &str, content: &str| {
            let path = self.work.join(name);
            fs::write(&path, content).at("write", &path).map(|()| path)
        };
        let sources = write("sources.list", &format!("{}\n", lines.join("\n")))?;
        write("preferences", &self.lock.map(Lock::preferences).unwrap_or_default())?;
        write("setup", SETUP)?;
        write("essential", ESSENTIAL)?;
        write("customize", CUSTOMIZE)?;
        let packages = self.recipe.all_packages().join(",");
        // Without one apt chooses among all suites: updates and security fixes too.
        let pinned = if self.recipe.kernel.backports { self.recipe.kernel_suite() } else { String::new() };
        let command = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount",
                "--mount-proc",
            ])
            // Hooks and maintainer scripts make files without a word on their modes.
            .args(["sh", "-c", "umask 022; exec \"$0\" \"$@\""])
            .args(["mmdebstrap", "--verbose", "--mode=root", "--format=directory", "--variant=minbase"])
            .arg(format!("--architectures={}", self.arch.debian()))
            .arg(format!("--include={packages}"))
            .args(["--skip=download/empty,essential/unlink,cleanup/apt/cache", "--dpkgopt=force-unsafe-io"])
            .args(
                ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"]
                    .map(|path| format!("--dpkgopt=path-exclude={path}")),
            )
            .args(["--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Retries \"3\""])
            .args([
                r#"--setup-hook=sh "$PILAB_WORK/setup" "$1""#,
                r#"--essential-hook=sh "$PILAB_WORK/essential" "$1""#,
                r#"--customize-hook=sh "$PILAB_WORK/customize" "$1""#,
            ])
            .arg(&self.recipe.suite)
            .arg(root)
            .arg(&sources)
            .env("PILAB_WORK", self.work.to_string_lossy())
            .env("PILAB_APT_CACHE", cache.to_string_lossy())
            .env("PILAB_KERNEL", self.recipe.kernel_package(self.arch)?)
            .env("PILAB_KERNEL_SUITE", pinned)
            .env("SOURCE_DATE_EPOCH", squash::EPOCH)
            .env("LC_ALL", "C.UTF-8")
            .env("TMPDIR", self.work.to_string_lossy())
            .own_group();
        require("mmdebstrap", "mmdebstrap").await?;
        require("mksquashfs", "squashfs-tools").await?;
        require("depmod", "kmod").await?;

        let log = self.work.join("mmdebstrap.log");
        let (reader, writer) = std::io::pipe().at("open", &log)?;
        let other = writer.try_clone().at("open", &log)?;
        let mut process = command.build();
        process.stdout(Stdio::from(writer)).stderr(Stdio::from(other));
        let spawned = process.spawn();
        // The pipe ends only when nobody holds its writing side; `process` does.
        drop(process);
        let mut child = spawned
            .map_err(|e| ImageError::tool("start mmdebstrap", "util-linux", root, command.start_error(e)))?;
        let output = pipe::Receiver::from_owned_fd(reader.into()).at("read", &log)?;
        let mut output = BufReader::new(output).lines();

        let mut progress = Bootstrap::default();
        let mut tail: VecDeque<String> = VecDeque::new();
        loop {
            let line = tokio::select! {
                line = output.next_line() => line.at("read", &log)?,
                () = self.cancel.cancelled() => {
                    child.kill().await.at("stop", Path::new("mmdebstrap"))?;
                    // Until none of its namespace can write any more: each holds the pipe.
                    while output.next_line().await.at("read", &log)?.is_some() {}
                    return Err(ImageError::Cancelled);
                }
            };
            let Some(line) = line else { break };
            if let Some((fraction, message)) = progress.line(&line) {
                self.sink.tell(Stage::Packages, fraction, message);
            }
            tail.push_back(line);
            if tail.len() > TAIL_LINES {
                tail.pop_front();
            }
        }
        let status = child.wait().await.at("wait for", Path::new("mmdebstrap"))?;
        if status.success() {
            return Ok(());
        }
        let tail = tail.into_iter().collect::<Vec<_>>().join("\n");
        // strerror(3) of ENOSPC, and apt's own words for it.
        if tail.contains("No space left on device") || tail.contains("enough free space") {
            return Err(ImageError::DiskFull {
                operation: "install packages",
                path: self.store.root().to_owned(),
            });
        }
        Err(ImageError::Bootstrap { status, tail })
    }

    /// The lock, from the list of packages and the .deb files that apt fetched.
    fn read_lock(&self, cache: &Path) -> Result<Lock, ImageError> {
        let list = self.work.join("packages");
        let mut packages = Vec::new();
        for line in fs::read_to_string(&list).at("read", &list)?.lines() {
            let mut words = line.split(' ').map(str::to_owned);
            let (Some(name), Some(version), Some(arch)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let sha256 = hash_file(&cache.join(Lock::deb_name(&name, &version, &arch)))?;
            packages.push(LockedPackage { name, arch, version, sha256 });
        }
        packages.sort();
        Ok(Lock { packages })
    }

    /// Unpacks the kernel, moves the wanted modules into `root`; answers release and kernel file.
    async fn install_kernel(&self, root: &Path) -> Result<(String, PathBuf), ImageError> {
        let unpacked = self.work.join("kernel");
        let run = |package: &'static str, command: Command| {
            tool::run(command, "install the kernel", package, self.work, self.cancel)
        };
        let debs = self.work.join("kernel-debs");
        for deb in names(&debs)? {
            run("dpkg", Command::new("dpkg-deb").arg("-x").arg(debs.join(deb)).arg(&unpacked)).await?;
        }
        let missing = || ImageError::Incomplete { what: "kernel".to_owned() };
        // Debian 12 has its modules in /lib, Debian 13 in /usr/lib.
        let lib = ["usr/lib", "lib"]
            .map(|lib| unpacked.join(lib))
            .into_iter()
            .find(|lib| lib.join("modules").exists());
        let modules = lib.ok_or_else(missing)?.join("modules");
        let release = names(&modules)?.into_iter().next().ok_or_else(missing)?;
        let from = modules.join(&release);
        let to = root.join("usr/lib/modules").join(&release);
        tree::directory(&to)?;
        // depmod looks below <base>/lib.
        if !unpacked.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", unpacked.join("lib")).at("create", &unpacked)?;
        }
        run("kmod", Command::new("depmod").arg("-b").arg(&unpacked).arg(&release)).await?;

        let dep = from.join("modules.dep");
        let dep = fs::read_to_string(&dep).at("read", &dep)?;
        let kernel = &self.recipe.kernel;
        let named = [kernel.initramfs.as_slice(), &kernel.board].concat();
        for module in Dependencies::parse(&dep).keep(&kernel.modules, &named) {
            move_file(&from.join(module), &to.join(module))?;
        }
        for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            move_file(&from.join(list), &to.join(list))?;
        }
        initramfs::uncompress_modules(&to, self.cancel).await?;
        run("kmod", Command::new("depmod").arg("-b").arg(root).arg(&release)).await?;
        for name in names(&to)?.iter().filter(|name| name.starts_with("modules.")) {
            tree::mode(&to.join(name), 0o644)?;
        }
        // From Linux 7 on beside the modules.
        let places = [unpacked.join("boot").join(format!("vmlinuz-{release}")), from.join("vmlinuz")];
        let kernel = places.into_iter().find(|file| file.is_file()).ok_or_else(missing)?;
        Ok((release, kernel))
    }
}

/// How many of the last lines are kept for an error.
const TAIL_LINES: usize = 20;

/// Fails if `tool` of `package` cannot be started: better said before minutes of work than after.
async fn require(tool: &'static str, package: &'static str) -> Result<(), ImageError> {
    let probe = Command::new(tool).arg("--version").timeout(Duration::from_secs(10)).output().await;
    match probe {
        Err(error @ CommandError::Missing { .. }) => {
            Err(ImageError::tool("build", package, Path::new(""), error))
        }
        // Some answer --version with a failure; they are there.
        _ => Ok(()),
    }
}

fn move_file(from: &Path, to: &Path) -> Result<(), ImageError> {
    if let Some(parent) = to.parent() {
        tree::directory(parent)?;
    }
    fs::rename(from, to).at("write", to)
}

/// Removes what `pattern` matches below `root`. `*` stands for anything within a name; links are
/// removed, not followed.
fn remove_matching(root: &Path, pattern: &str) -> Result<(), ImageError> {
    let (directory, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let directory = root.join(directory);
    for name in names(&directory)?.into_iter().filter(|name| matches(last, name)) {
        let path = directory.join(name);
        let meta = fs::symlink_metadata(&path).at("read", &path)?;
        let removed = if meta.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.at("remove", &path)?;
    }
    Ok(())
}

/// Removes the packages that `lock` has not: what is kept for the next build is no more than it needs.
fn trim(cache: &Path, lock: &Lock) -> Result<(), ImageError> {
    let file = |p: &LockedPackage| Lock::deb_name(&p.name, &p.version, &p.arch);
    let needed: BTreeSet<String> = lock.packages.iter().map(file).collect();
    for name in names(cache)?.into_iter().filter(|name| !needed.contains(name)) {
        let path = cache.join(name);
        fs::remove_file(&path).at("remove", &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_did_not_take_is_kept_no_longer() {
        let cache = tempfile::tempdir().unwrap();
        for name in ["a_1_all.deb", "a_2_all.deb", "b_1%3a1_arm64.deb", "gone_1_arm64.deb"] {
            fs::write(cache.path().join(name), "").unwrap();
        }
        let package = |name: &str, arch: &str, version: &str| {
            let [name, arch, version] = [name, arch, version].map(str::to_owned);
            LockedPackage { name, arch, version, sha256: String::new() }
        };
        let lock = Lock { packages: vec![package("a", "all", "2"), package("b", "arm64", "1:1")] };
        trim(cache.path(), &lock).unwrap();
        let mut left = names(cache.path()).unwrap();
        left.sort();
        assert_eq!(left, ["a_2_all.deb", "b_1%3a1_arm64.deb"]);
    }

    #[test]
    fn the_mirror_and_the_lock_are_in_what_a_base_is_called() {
        let recipe = Recipe::built_in("trixie").unwrap();
        let lock = Lock::default();
        let mirrored = recipe.clone().with_mirror("http://m.example/debian").unwrap();
        let keys: BTreeSet<String> =
            [(&recipe, None), (&recipe, Some(&lock)), (&mirrored, None), (&mirrored, Some(&lock))]
                .into_iter()
                .map(|(recipe, lock)| key(recipe, Arch::Aarch64, lock).unwrap())
                .collect();
        assert_eq!(keys.len(), 4);
    }
}
