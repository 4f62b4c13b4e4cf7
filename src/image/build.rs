//! Builds images: what is in the store is taken from there, what is missing is made.

use super::base::{Base, BaseBuild, key};
use super::error::{At, ImageError};
use super::manifest::{Image, Lock, MANIFEST_VERSION, Manifest, Part};
use super::progress::{Sink, Stage};
use super::recipe::{Arch, Recipe};
use super::store::{Check, Store, StoreLock, names};
use super::{initramfs, layer, squash};
use crate::support::atomic_file;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
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

/// How often to look whether another build has ended.
const LOCK_POLL: Duration = Duration::from_millis(200);

impl Store {
    /// Builds an image, or what of it is missing, and verifies all of it. Takes minutes and root's
    /// rights when the base root is missing, seconds when only the agent is new, and next to nothing
    /// when nothing is. Killed at any instant, it leaves no image, and the next build sweeps up.
    pub async fn build(
        &self,
        request: &BuildRequest,
        sink: &Sink,
        cancel: &CancellationToken,
    ) -> Result<Image, ImageError> {
        let agent = tokio::fs::read(&request.agent).await.at("read", &request.agent)?;
        let _lock = self.lock(sink, cancel).await?;
        self.sweep()?;
        let work = self.root().join("work").join(std::process::id().to_string());
        fs::DirBuilder::new().mode(0o755).create(&work).at("create", &work)?;
        let built = self.build_in(request, &agent, &work, sink, cancel).await;
        let swept = self.sweep();
        let image = built?;
        swept?;
        sink.tell(Stage::Verify, None, "hash what has changed");
        self.verify(&image, Check::Changed).await?;
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
        let record = self.root().join("bases").join(format!("{}.json", key(recipe, *arch, lock.as_ref())?));
        let base = match Base::read(&record)?.filter(|base| base.parts().iter().all(|part| self.has(part))) {
            Some(base) => base,
            None => {
                let work = work.join("base");
                fs::create_dir(&work).at("create", &work)?;
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
        let device = self.device_layer(&base, *arch, agent, work, cancel).await?;
        let mut content = self.read_part(&base.kit)?;
        content.extend(initramfs::scripts()?);
        let initramfs = self.put_bytes(&content)?;
        self.publish(&Manifest {
            version: MANIFEST_VERSION,
            suite: recipe.suite.clone(),
            arch: *arch,
            recipe: key(recipe, *arch, None)?,
            kernel_release: base.kernel_release,
            cmdline: recipe.kernel.cmdline.clone(),
            kernel: base.kernel,
            initramfs,
            layers: vec![base.root, device],
            agent_sha256: super::manifest::sha256(agent),
            lock: base.lock,
        })
    }

    async fn device_layer(
        &self,
        base: &Base,
        arch: Arch,
        agent: &[u8],
        work: &Path,
        cancel: &CancellationToken,
    ) -> Result<Part, ImageError> {
        let tree = work.join("device");
        fs::create_dir(&tree).at("create", &tree)?;
        let busybox = self.read_part(&base.busybox)?;
        layer::write(&tree, arch.debian(), agent, &busybox)?;
        let file = work.join("device.squashfs");
        let packed = cancel.run_until_cancelled(squash::pack(&tree, &file, true)).await;
        packed.unwrap_or(Err(ImageError::Cancelled))?;
        self.put(&file)
    }

    fn has(&self, part: &Part) -> bool {
        fs::metadata(self.part_path(&part.sha256)).is_ok_and(|meta| meta.len() == part.size)
    }

    fn read_part(&self, part: &Part) -> Result<Vec<u8>, ImageError> {
        let path = self.part_path(&part.sha256);
        fs::read(&path).at("read", &path)
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
