//! Builds images: what is in the store is taken from there, what is missing is made.

use super::base::{Base, BaseBuild, key};
use super::error::{At, ImageError};
use super::manifest::{Image, Lock, MANIFEST_VERSION, Manifest, Part, sha256};
use super::progress::{Sink, Stage};
use super::recipe::Recipe;
use super::store::{Check, Store, StoreLock, hash_file, names};
use super::{initramfs, layer, squash, tree};
use crate::model::device::Arch;
use crate::support::atomic_file;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// From what.
    pub recipe: Recipe,
    /// For which architecture.
    pub arch: Arch,
    /// The agent's executable, for that architecture.
    pub agent: PathBuf,
    /// Exactly these packages, instead of today's.
    pub lock: Option<Lock>,
}

/// An image before it is in the store.
struct Composed {
    manifest: Manifest,
    /// The file of the device layer.
    device: PathBuf,
    initramfs: Vec<u8>,
}

/// How often to look whether another build has ended.
const LOCK_POLL: Duration = Duration::from_millis(200);

impl Store {
    /// Builds an image, or what of it is missing, and verifies all of it. Takes minutes and root's
    /// rights when the base root is missing or corrupt, seconds when only the agent is new, and next to nothing,
    /// neither a lock nor the right to write, when nothing is. Killed at any instant, it leaves no image,
    /// and the next build sweeps up.
    pub async fn build(
        &self,
        request: &BuildRequest,
        sink: &Sink,
        cancel: &CancellationToken,
    ) -> Result<Image, ImageError> {
        let agent = tokio::fs::read(&request.agent).await.at("read", &request.agent)?;
        if let Some(image) = self.existing(request, &agent, cancel).await? {
            sink.tell(Stage::Verify, None, "hash what has changed");
            match self.verify(&image, Check::Changed).await {
                Err(error @ (ImageError::PartCorrupt { .. } | ImageError::PartMissing { .. })) => {
                    tracing::warn!(%error, "making it anew");
                }
                verified => return verified.map(|()| image),
            }
        }
        let image = self.build_locked(request, &agent, sink, cancel).await?;
        sink.tell(Stage::Verify, None, "hash what has changed");
        self.verify(&image, Check::Changed).await?;
        Ok(image)
    }

    /// The image that `build` would come to, if it is here with all its parts.
    async fn existing(
        &self,
        request: &BuildRequest,
        agent: &[u8],
        cancel: &CancellationToken,
    ) -> Result<Option<Image>, ImageError> {
        let Some(base) = self.base(&self.base_record(request)?)? else { return Ok(None) };
        let work = tempfile::tempdir().at("create a directory in", &std::env::temp_dir())?;
        let manifest = match self.compose(request, base, agent, work.path(), cancel).await {
            Err(ImageError::BaseCorrupt { .. }) => return Ok(None),
            composed => composed?.manifest,
        };
        let whole = manifest.parts().iter().all(|(_, part)| self.has(part));
        let id = sha256(&self.encode(&manifest)?);
        match self.get(&id) {
            Ok(image) if whole => Ok(Some(image)),
            // What is damaged is written anew.
            Ok(_) | Err(ImageError::NoImage { .. } | ImageError::Manifest { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn build_locked(
        &self,
        request: &BuildRequest,
        agent: &[u8],
        sink: &Sink,
        cancel: &CancellationToken,
    ) -> Result<Image, ImageError> {
        // Known before anything is written: that the store cannot be written to would hide it.
        if self.base(&self.base_record(request)?)?.is_none() && !rustix::process::geteuid().is_root() {
            return Err(ImageError::NotRoot);
        }
        let _lock = self.lock(sink, cancel).await?;
        self.sweep()?;
        let work = self.root().join("work").join(std::process::id().to_string());
        tree::directory(&work)?;
        let built = self.build_in(request, agent, &work, sink, cancel).await;
        let swept = self.sweep();
        let image = built?;
        swept?;
        Ok(image)
    }

    async fn build_in(
        &self,
        request: &BuildRequest,
        agent: &[u8],
        work: &Path,
        sink: &Sink,
        cancel: &CancellationToken,
    ) -> Result<Image, ImageError> {
        let BuildRequest { recipe, arch, lock, .. } = request;
        let record = self.base_record(request)?;
        let base = match self.base(&record)? {
            Some(base) if self.is_sound(&base).await? => base,
            _ => {
                let work = work.join("base");
                tree::directory(&work)?;
                let build = BaseBuild {
                    store: self,
                    recipe,
                    arch: *arch,
                    lock: lock.as_ref(),
                    work: &work,
                    sink,
                    cancel,
                };
                let base = build.run().await?;
                let json = serde_json::to_vec_pretty(&base)
                    .map_err(|e| ImageError::io("encode", &record, e.into()))?;
                atomic_file::write(&record, &json, 0o644).at("write", &record)?;
                base
            }
        };
        sink.tell(Stage::Device, None, "agent and settings");
        let composed = self.compose(request, base, agent, work, cancel).await?;
        self.put(&composed.device)?;
        self.put_bytes(&composed.initramfs)?;
        self.publish(&composed.manifest)
    }

    /// What lies over `base`, in the directory `work`, and the manifest of it all.
    async fn compose(
        &self,
        request: &BuildRequest,
        base: Base,
        agent: &[u8],
        work: &Path,
        cancel: &CancellationToken,
    ) -> Result<Composed, ImageError> {
        let BuildRequest { recipe, arch, .. } = request;
        let tree = work.join("device");
        tree::directory(&tree)?;
        let busybox = self.read_part(&base.busybox)?;
        layer::write(&tree, arch.debian(), agent, &busybox)?;
        let device = work.join("device.squashfs");
        squash::pack(&tree, &device, true, cancel).await?;

        let mut initramfs = self.read_part(&base.kit)?;
        initramfs.extend(initramfs::scripts()?);
        let size = fs::metadata(&device).at("read", &device)?.len();
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            suite: recipe.kernel_suite(),
            arch: *arch,
            recipe: key(recipe, *arch, None)?,
            kernel_release: base.kernel_release,
            cmdline: recipe.kernel.cmdline.clone(),
            kernel: base.kernel,
            initramfs: Part { sha256: sha256(&initramfs), size: initramfs.len() as u64 },
            layers: vec![base.root, Part { sha256: hash_file(&device)?, size }],
            agent_sha256: sha256(agent),
            lock: base.lock,
        };
        Ok(Composed { manifest, device, initramfs })
    }

    /// Where it is written which parts the recipe came to.
    fn base_record(&self, request: &BuildRequest) -> Result<PathBuf, ImageError> {
        let key = key(&request.recipe, request.arch, request.lock.as_ref())?;
        Ok(self.root().join("bases").join(format!("{key}.json")))
    }

    /// The base root that a record tells of, if all its parts are here.
    fn base(&self, record: &Path) -> Result<Option<Base>, ImageError> {
        Ok(Base::read(record)?.filter(|base| base.parts().iter().all(|part| self.has(part))))
    }

    fn has(&self, part: &Part) -> bool {
        fs::metadata(self.part_path(&part.sha256)).is_ok_and(|meta| meta.len() == part.size)
    }

    /// Whether all that a base is made of is what was built. What is not is removed, for a base that has all its
    /// parts is taken as it is. The caller holds the lock.
    async fn is_sound(&self, base: &Base) -> Result<bool, ImageError> {
        let (store, base) = (self.clone(), base.clone());
        let checked = tokio::task::spawn_blocking(move || {
            let mut sound = true;
            for part in base.parts() {
                // These are small, and they get into the new image as they are read.
                let read = part == &base.kit || part == &base.busybox;
                let check = if read { Check::All } else { Check::Changed };
                if store.mismatch(part, check)?.is_some() {
                    let path = store.part_path(&part.sha256);
                    fs::remove_file(&path).at("remove", &path)?;
                    sound = false;
                }
            }
            Ok(sound)
        });
        checked.await.map_err(|e| ImageError::io("verify", self.root(), std::io::Error::other(e)))?
    }

    /// A part's bytes, which are those of its name: what gets into an image has been compared.
    fn read_part(&self, part: &Part) -> Result<Vec<u8>, ImageError> {
        let path = self.part_path(&part.sha256);
        let bytes = fs::read(&path).at("read", &path)?;
        let found = sha256(&bytes);
        if found == part.sha256 { Ok(bytes) } else { Err(ImageError::BaseCorrupt { path, found }) }
    }

    /// Waits until nobody else changes the store.
    async fn lock(&self, sink: &Sink, cancel: &CancellationToken) -> Result<StoreLock, ImageError> {
        loop {
            match self.try_lock() {
                Err(ImageError::Io { operation: "lock", source, .. })
                    if source.kind() == std::io::ErrorKind::WouldBlock => {}
                taken => return taken,
            }
            sink.tell(Stage::Waiting, None, "another process builds or removes an image");
            let waited = cancel.run_until_cancelled(tokio::time::sleep(LOCK_POLL)).await;
            waited.ok_or(ImageError::Cancelled)?;
        }
    }

    /// Removes what earlier builds left. The caller holds the lock.
    fn sweep(&self) -> Result<(), ImageError> {
        let work = self.root().join("work");
        // A build's mounts die with its mount namespace. Should one be here all the same, removing
        // through it would remove from what is mounted: rather stop.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = format!(" {}/", work.display());
        if let Some(mount) = mounts.lines().find(|line| line.contains(&below)) {
            let path = PathBuf::from(mount.split(' ').nth(1).unwrap_or_default());
            return Err(ImageError::io(
                "remove, it is mounted:",
                &path,
                std::io::ErrorKind::ResourceBusy.into(),
            ));
        }
        for name in names(&work)? {
            let path = work.join(name);
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Pruned;
    use crate::support::command::Command;
    use crate::support::skip::skip;
    use tempfile::TempDir;

    /// A store that has a base root already, a small one, so that a build takes a second.
    struct Small {
        store: Store,
        request: BuildRequest,
        /// Of the agent, and of the store unless it lies elsewhere.
        dir: TempDir,
    }

    impl Small {
        /// None, with the reason printed, where there is no mksquashfs.
        async fn new(store: Option<&Path>) -> Option<Self> {
            if Command::new("mksquashfs").arg("-version").build().output().await.is_err() {
                skip("vm", "mksquashfs is not installed");
                return None;
            }
            let dir = tempfile::tempdir().unwrap();
            let agent = dir.path().join("agent");
            fs::write(&agent, "agent 1").unwrap();
            let recipe = Recipe::built_in("trixie").unwrap();
            let request = BuildRequest { recipe, arch: Arch::Aarch64, agent, lock: None };
            let store = Store::new(store.map_or_else(|| dir.path().join("store"), Path::to_owned));
            let lock = store.try_lock().unwrap();
            let base = Base {
                root: store.put_bytes(b"root").unwrap(),
                kernel: store.put_bytes(b"kernel").unwrap(),
                kit: store.put_bytes(b"kit!").unwrap(),
                busybox: store.put_bytes(b"busybox").unwrap(),
                lock: store.put_bytes(b"{}").unwrap(),
                kernel_release: "6.12.0".to_owned(),
            };
            let record = key(&request.recipe, request.arch, None).unwrap();
            let record = store.root().join("bases").join(format!("{record}.json"));
            fs::write(record, serde_json::to_vec(&base).unwrap()).unwrap();
            drop(lock);
            Some(Self { store, request, dir })
        }

        async fn build(&self) -> Result<Image, ImageError> {
            self.store.build(&self.request, &Sink::silent(), &CancellationToken::new()).await
        }
    }

    #[tokio::test]
    async fn a_new_agent_changes_the_device_layer_alone() {
        let Some(mut small) = Small::new(None).await else { return };
        let first = small.build().await.unwrap();
        let again = small.build().await.unwrap();
        assert_eq!(first.id, again.id, "equal input, equal bytes");
        assert_eq!(small.store.ls().unwrap().len(), 1);

        small.request.agent = small.dir.path().join("agent-2");
        fs::write(&small.request.agent, "agent 2").unwrap();
        let second = small.build().await.unwrap();
        assert_ne!(first.id, second.id);
        assert_ne!(first.layers.get(1), second.layers.get(1));
        assert_eq!(first.layers.first(), second.layers.first());
        assert_eq!(first.initramfs, second.initramfs);
        let found = small.store.find(&small.request.recipe, Arch::Aarch64).unwrap().unwrap();
        assert_eq!(found.manifest.recipe, second.manifest.recipe);
        assert!(small.store.find(&small.request.recipe, Arch::X86_64).unwrap().is_none());

        // Removing one leaves the other whole; removing both leaves nothing.
        small.store.rm(&first.id).unwrap();
        small.store.verify(&second, Check::All).await.unwrap();
        assert!(matches!(small.store.get(&first.id), Err(ImageError::NoImage { .. })));
        small.store.rm(second.id.get(..12).unwrap()).unwrap();
        for directory in ["images", "parts", "bases", "seen", "work"] {
            assert_eq!(
                names(&small.store.root().join(directory)).unwrap(),
                Vec::<String>::new(),
                "{directory}"
            );
        }
    }

    #[tokio::test]
    async fn old_images_are_pruned_and_the_newest_stays_whole() {
        let Some(mut small) = Small::new(None).await else { return };
        let mut built = Vec::new();
        for n in 0..3 {
            fs::write(&small.request.agent, format!("agent {n}")).unwrap();
            let image = small.build().await.unwrap();
            // File systems count in ticks of some milliseconds: the order is given.
            let path = small.store.root().join("images").join(format!("{}.json", image.id));
            let made = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000 + n);
            fs::File::options().write(true).open(path).unwrap().set_modified(made).unwrap();
            built.push(image.id);
        }
        small.request.arch = Arch::X86_64;
        let key = |arch| key(&small.request.recipe, arch, None).unwrap();
        let bases = small.store.root().join("bases");
        let record = |arch| bases.join(format!("{}.json", key(arch)));
        fs::copy(record(Arch::Aarch64), record(Arch::X86_64)).unwrap();
        let other = small.build().await.unwrap();

        let Pruned { removed, freed, .. } = small.store.prune(1).unwrap();
        let removed: Vec<&String> = removed.iter().map(|image| &image.id).collect();
        assert_eq!(removed, [&built[1], &built[0]], "newest first, of the one that has several");
        assert!(freed > 0);
        small.store.verify(&small.store.get(&built[2]).unwrap(), Check::All).await.unwrap();
        small.store.verify(&other, Check::All).await.unwrap();
        assert!(small.store.prune(1).unwrap().removed.is_empty());
    }

    #[tokio::test]
    async fn one_wrong_byte_is_found_and_named() {
        let Some(small) = Small::new(None).await else { return };
        let image = small.build().await.unwrap();
        small.store.verify(&image, Check::Changed).await.unwrap();
        let layer = &image.layers.get(1).unwrap().path;
        let mut bytes = fs::read(layer).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(layer, bytes).unwrap();
        match small.store.verify(&image, Check::Changed).await {
            Err(ImageError::PartCorrupt { part, path, .. }) => {
                assert_eq!((part.as_str(), &path), ("device layer", layer));
            }
            other => panic!("{other:?}"),
        }
        fs::remove_file(&image.kernel).unwrap();
        let missing =
            small.store.verify(&Image { layers: Vec::new(), ..image.clone() }, Check::Changed).await;
        assert!(matches!(missing, Err(ImageError::PartMissing { .. } | ImageError::PartCorrupt { .. })));
    }

    #[tokio::test]
    async fn a_manifest_that_was_changed_is_refused() {
        let Some(small) = Small::new(None).await else { return };
        let image = small.build().await.unwrap();
        let path = small.store.root().join("images").join(format!("{}.json", image.id));
        let text = fs::read_to_string(&path).unwrap().replace("6.12.0", "6.12.1");
        fs::write(&path, text).unwrap();
        assert!(matches!(small.store.get(&image.id), Err(ImageError::Manifest { source: None, .. })));
    }

    #[tokio::test]
    async fn what_a_killed_build_left_is_swept() {
        let Some(small) = Small::new(None).await else { return };
        let left = small.store.root().join("work/1/base/root/etc");
        fs::create_dir_all(&left).unwrap();
        assert!(small.store.ls().unwrap().is_empty());
        small.build().await.unwrap();
        assert!(names(&small.store.root().join("work")).unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_second_build_waits_and_can_be_cancelled() {
        let Some(small) = Small::new(None).await else { return };
        let held = small.store.try_lock().unwrap();
        let cancel = CancellationToken::new();
        let (told, seen) = (cancel.clone(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
        let stages = seen.clone();
        let sink = Sink::new(move |progress| {
            stages.lock().unwrap().push(progress.stage);
            told.cancel();
        });
        let built = small.store.build(&small.request, &sink, &cancel).await;
        assert!(matches!(built, Err(ImageError::Cancelled)), "{built:?}");
        assert_eq!(seen.lock().unwrap().as_slice(), [Stage::Waiting]);
        drop(held);
        small.build().await.unwrap();
        let _held = small.store.try_lock().unwrap();
        small.build().await.expect("what is there needs no lock");
    }

    #[tokio::test]
    async fn a_part_that_was_lost_is_made_again() {
        let Some(small) = Small::new(None).await else { return };
        let image = small.build().await.unwrap();
        fs::remove_file(&image.layers.get(1).unwrap().path).unwrap();
        assert_eq!(small.build().await.unwrap().id, image.id);
        small.store.verify(&image, Check::All).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_is_said_and_leaves_no_image() {
        let mount = tempfile::tempdir().unwrap();
        let path = mount.path().to_string_lossy().into_owned();
        let tmpfs = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs", &path]);
        if tmpfs.output().await.is_err() {
            return skip("vm", "only root can mount a small disk");
        }
        let result = async {
            let mut small = Small::new(Some(mount.path())).await?;
            // What does not compress does not fit.
            small.request.agent = small.dir.path().join("large");
            let random = fs::File::open("/dev/urandom").unwrap();
            let mut large = fs::File::create(&small.request.agent).unwrap();
            std::io::copy(&mut std::io::Read::take(random, 4 << 20), &mut large).unwrap();
            Some((small.build().await, small.store.ls().unwrap().len()))
        };
        let result = result.await;
        Command::new("umount").arg(&path).output().await.unwrap();
        let Some((built, images)) = result else { return };
        assert!(matches!(built, Err(ImageError::DiskFull { .. })), "{built:?}");
        assert_eq!(images, 0);
    }

    /// Changes a byte of a file in place; its time stays, as where a disk loses a bit.
    fn flip(path: &Path) {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }

    impl Small {
        fn part(&self, content: &[u8]) -> PathBuf {
            self.store.part_path(&sha256(content))
        }

        /// A build that begins to install packages, as one does whose base root is not there, and gets no further.
        async fn build_begins_with_packages(&self) {
            let cancel = CancellationToken::new();
            let told = cancel.clone();
            let sink = Sink::new(move |progress| {
                if progress.stage == Stage::Packages {
                    told.cancel();
                }
            });
            let built = self.store.build(&self.request, &sink, &cancel).await;
            assert!(built.is_err(), "{built:?}");
        }
    }

    #[tokio::test]
    async fn a_flipped_byte_of_the_base_gets_into_no_image() {
        let Some(small) = Small::new(None).await else { return };
        let first = small.build().await.unwrap();
        for (n, content) in [b"kit!".as_slice(), b"busybox"].into_iter().enumerate() {
            fs::write(&small.request.agent, format!("another agent {n}")).unwrap();
            flip(&small.part(content));
            small.build_begins_with_packages().await;
            assert!(!small.part(content).exists(), "set aside, for the next build");
            assert!(small.store.ls().unwrap().iter().all(|image| image.id == first.id));
            small.store.put_bytes(content).unwrap();
        }
        let second = small.build().await.unwrap();
        small.store.verify(&second, Check::All).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_corrupt_and_shared_is_made_anew_after_the_hint_was_followed() {
        let Some(small) = Small::new(None).await else { return };
        let first = small.build().await.unwrap();
        fs::write(&small.request.agent, "agent 2").unwrap();
        let second = small.build().await.unwrap();
        for removed in [true, false] {
            flip(&small.part(b"root"));
            let found = small.store.verify(&second, Check::All).await;
            assert!(
                matches!(&found, Err(error @ ImageError::PartCorrupt { .. }) if error.hint().is_some()),
                "{found:?}"
            );
            if removed {
                small.store.rm(&second.id).unwrap();
                assert!(small.part(b"root").exists(), "the first has it too");
            }
            small.build_begins_with_packages().await;
            assert!(!small.part(b"root").exists());
            small.store.put_bytes(b"root").unwrap();
            assert_eq!(small.build().await.unwrap().id, second.id);
            small.store.verify(&first, Check::All).await.unwrap();
            small.store.verify(&second, Check::All).await.unwrap();
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_read_is_no_reason_to_do_without_the_others() {
        let Some(small) = Small::new(None).await else { return };
        let image = small.build().await.unwrap();
        let path = |id: &str| small.store.root().join("images").join(format!("{id}.json"));
        let of_tomorrow = small.store.put_bytes(b"of another version's image").unwrap().sha256;
        let (damaged, later) = ("d".repeat(64), "1".repeat(64));
        fs::write(path(&damaged), "{").unwrap();
        fs::write(path(&later), format!("{{\"version\": 2, \"disk\": \"{of_tomorrow}\"}}")).unwrap();

        let ids = |images: Vec<Image>| images.into_iter().map(|image| image.id).collect::<Vec<_>>();
        assert_eq!(ids(small.store.ls().unwrap()), vec![image.id.clone()]);
        let found = small.store.find(&small.request.recipe, small.request.arch).unwrap();
        assert_eq!(found.unwrap().id, image.id);
        assert_eq!(small.build().await.unwrap().id, image.id);
        let Pruned { removed, .. } = small.store.prune(1).unwrap();
        assert_eq!(ids(removed), [""; 0]);
        assert!(small.store.part_path(&of_tomorrow).exists());
        match small.store.get("ddd") {
            Err(error @ ImageError::Manifest { .. }) => assert!(error.hint().unwrap().contains("image rm")),
            other => panic!("{other:?}"),
        }
        small.store.rm("ddd").unwrap();
        small.store.rm("111").unwrap();
        assert!(!path(&damaged).exists() && !path(&later).exists());
        assert!(!small.store.part_path(&of_tomorrow).exists());

        // The one that a build comes to is written anew.
        fs::write(path(&image.id), "{").unwrap();
        assert_eq!(small.build().await.unwrap().id, image.id);
    }

    #[tokio::test]
    async fn what_somebody_boots_stays() {
        let Some(small) = Small::new(None).await else { return };
        let first = small.build().await.unwrap();
        fs::write(&small.request.agent, "agent 2").unwrap();
        let second = small.build().await.unwrap();
        let held = [&first, &second].map(|image| small.store.hold(image).unwrap());
        let again = small.store.hold(&first).unwrap();
        match small.store.rm(&first.id) {
            Err(error @ ImageError::InUse { .. }) => assert!(error.hint().is_some()),
            other => panic!("{other:?}"),
        }
        let pruned = small.store.prune(0).unwrap();
        assert_eq!((pruned.removed.len(), pruned.in_use.len()), (0, 2));
        drop(held);
        let pruned = small.store.prune(0).unwrap();
        assert_eq!(pruned.removed.len(), 1);
        assert_eq!(pruned.in_use.first().unwrap().id, first.id);
        small.store.verify(&first, Check::All).await.unwrap();
        assert!(matches!(small.store.hold(&second), Err(ImageError::NoImage { .. })));
        // A build of what is there leaves the lock where it is.
        fs::remove_file(&first.layers.get(1).unwrap().path).unwrap();
        fs::write(&small.request.agent, "agent 1").unwrap();
        small.build().await.unwrap();
        assert!(matches!(small.store.rm(&first.id), Err(ImageError::InUse { .. })));
        drop(again);
        small.store.rm(&first.id).unwrap();
    }

    #[tokio::test]
    async fn packages_go_with_the_last_image_of_their_suite() {
        let Some(small) = Small::new(None).await else { return };
        let first = small.build().await.unwrap();
        fs::write(&small.request.agent, "agent 2").unwrap();
        let second = small.build().await.unwrap();
        let cache = |suite, arch| small.store.package_cache(suite, arch);
        let (own, other) = (cache("trixie", Arch::Aarch64), cache("bookworm", Arch::Aarch64));
        for cache in [&own, &other] {
            fs::create_dir(cache).unwrap();
            fs::write(cache.join("a_1_all.deb"), "a package").unwrap();
        }
        small.store.rm(&first.id).unwrap();
        assert!(own.join("a_1_all.deb").exists() && !other.exists());
        let parts = small.store.root().join("parts");
        let sizes =
            || names(&parts).unwrap().iter().map(|n| parts.join(n).metadata().unwrap().len()).sum::<u64>();
        let before = sizes();
        assert_eq!(small.store.rm(&second.id).unwrap(), before + "a package".len() as u64);
        assert!(!own.exists());
    }

    #[tokio::test]
    async fn another_mirror_or_lock_is_another_base() {
        let Some(mut small) = Small::new(None).await else { return };
        small.build().await.unwrap();
        let recipe = small.request.recipe.clone();
        small.request.recipe = recipe.clone().with_mirror("http://m.example/debian").unwrap();
        small.build_begins_with_packages().await;
        small.request.recipe = recipe;
        small.request.lock = Some(Lock::default());
        small.build_begins_with_packages().await;
        assert_eq!(small.store.ls().unwrap().len(), 1);
    }
}
