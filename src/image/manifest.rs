//! Manifests: which files an image is made of. The SHA-256 of the manifest is the image's id.

use super::error::{At, ImageError};
use super::recipe::word;
use crate::model::device::Arch;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The version of [`Manifest`] that this build reads and writes.
pub const MANIFEST_VERSION: u32 = 1;

/// One file of an image. It lies in the store under its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// SHA-256 of its bytes, 64 lower-case hex digits.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// Debian's code name, with `-backports` when the kernel is from there.
    pub suite: String,
    /// For which architecture.
    pub arch: Arch,
    /// SHA-256 over the recipe, with all that it does not say but that goes into the base root.
    pub recipe: String,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel_release: String,
    /// Kernel arguments that belong to the image.
    pub cmdline: Vec<String>,
    /// The kernel.
    pub kernel: Part,
    /// The initramfs.
    pub initramfs: Part,
    /// The squashfs layers, bottom first: base root, device layer.
    pub layers: Vec<Part>,
    /// SHA-256 of the agent's executable.
    pub agent_sha256: String,
    /// The lock: [`Lock`] as JSON.
    pub lock: Part,
}

impl Manifest {
    /// The bytes that are stored.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// All files with their roles, for people.
    pub fn parts(&self) -> Vec<(String, &Part)> {
        let mut parts = vec![
            ("kernel".to_owned(), &self.kernel),
            ("initramfs".to_owned(), &self.initramfs),
            ("lock".to_owned(), &self.lock),
        ];
        let names = ["base root", "device layer"];
        for (n, layer) in self.layers.iter().enumerate() {
            parts.push((names.get(n).map_or_else(|| format!("layer {n}"), |name| (*name).to_owned()), layer));
        }
        parts
    }
}

/// The packages that went into a base root and kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Sorted by name and architecture.
    pub packages: Vec<LockedPackage>,
}

/// One package, exactly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Its name.
    pub name: String,
    /// Its architecture; `all` for those that have none.
    pub arch: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the .deb.
    pub sha256: String,
}

impl Lock {
    /// A lock in a file, as a build wrote it, for a build of `arch`.
    pub fn load(file: &Path, arch: Arch) -> Result<Self, ImageError> {
        let wrong = |message: String| ImageError::LockFile { file: file.to_owned(), message };
        let text = std::fs::read(file).at("read", file)?;
        let lock: Self = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        if lock.packages.is_empty() {
            return Err(wrong("key `packages`: at least one is needed".to_owned()));
        }
        for package in &lock.packages {
            if let Some(wrong_word) = [&package.name, &package.version].into_iter().find(|text| !word(text)) {
                return Err(wrong(format!("key `packages`: {wrong_word:?} is no package's name or version")));
            }
            if package.arch != "all" && package.arch != arch.debian() {
                let message = format!(
                    "key `packages`: {} is for {}, and the image is to be for {}",
                    package.name,
                    package.arch,
                    arch.debian()
                );
                return Err(wrong(message));
            }
        }
        Ok(lock)
    }

    /// The file name of a package in apt's cache.
    pub(super) fn deb_name(name: &str, version: &str, arch: &str) -> String {
        format!("{name}_{}_{arch}.deb", version.replace(':', "%3a"))
    }

    /// apt_preferences(5) that make apt take these versions and no others.
    pub(super) fn preferences(&self) -> String {
        let pin = |p: &LockedPackage| {
            format!("Package: {}\nPin: version {}\nPin-Priority: 1001\n\n", p.name, p.version)
        };
        self.packages.iter().map(pin).collect()
    }

    /// The first package in which `self`, the lock, differs from what was built: name, locked, built.
    pub(super) fn difference(&self, built: &Lock) -> Option<(String, String, String)> {
        let tell = |p: Option<&LockedPackage>| {
            p.map_or_else(|| "absent".to_owned(), |p| format!("{} (SHA-256 {})", p.version, p.sha256))
        };
        let key = |p: &LockedPackage| (p.name.clone(), p.arch.clone());
        self.packages.iter().chain(&built.packages).find_map(|p| {
            let find = |lock: &Lock| lock.packages.iter().find(|q| key(q) == key(p)).cloned();
            let (locked, found) = (find(self), find(built));
            (locked != found).then(|| (p.name.clone(), tell(locked.as_ref()), tell(found.as_ref())))
        })
    }
}

/// An image in the store, ready to boot.
#[derive(Debug, Clone)]
pub struct Image {
    /// SHA-256 of the manifest, hex.
    pub id: String,
    /// What it is.
    pub manifest: Manifest,
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initramfs' file.
    pub initramfs: PathBuf,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
}

/// One layer of an image: a read-only squashfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Layer {
    /// The kernel argument by which our initramfs finds this layer; one for each, bottom first.
    pub fn argument(&self) -> String {
        format!("pilab.layer={}:{}", self.sha256, self.size)
    }
}

/// SHA-256, hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> LockedPackage {
        let [name, version, arch, sha256] = [name, version, "arm64", "aa"].map(str::to_owned);
        LockedPackage { name, arch, version, sha256 }
    }

    #[test]
    fn a_lock_s_file_is_checked_before_anything_is_built() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lock.json");
        let good = Lock {
            packages: vec![
                package("a", "1:2~x+b1"),
                LockedPackage { arch: "all".into(), ..package("b", "2") },
            ],
        };
        std::fs::write(&file, serde_json::to_vec(&good).unwrap()).unwrap();
        assert_eq!(Lock::load(&file, Arch::Aarch64).unwrap(), good);
        let told = |arch| Lock::load(&file, arch).unwrap_err().to_string();
        assert!(told(Arch::X86_64).ends_with("a is for arm64, and the image is to be for amd64"));
        for (content, wanted) in [
            ("{\"packages\": []}", "at least one"),
            ("{\"package\": []}", "unknown field `package`"),
            ("", "EOF"),
        ] {
            std::fs::write(&file, content).unwrap();
            let told = told(Arch::Aarch64);
            assert!(
                told.starts_with(&format!("{} is not a lock", file.display())) && told.contains(wanted),
                "{told}"
            );
        }
        let sly = Lock { packages: vec![package("a", "1\nPin-Priority: 1")] };
        std::fs::write(&file, serde_json::to_vec(&sly).unwrap()).unwrap();
        assert!(told(Arch::Aarch64).contains("is no package's name or version"));
        assert!(matches!(Lock::load(&dir.path().join("none"), Arch::Aarch64), Err(ImageError::Io { .. })));
    }

    #[test]
    fn a_lock_pins_and_compares() {
        let lock = Lock { packages: vec![package("a", "1"), package("b", "1:2")] };
        assert_eq!(lock.difference(&lock), None);
        let built = Lock { packages: vec![package("a", "1"), package("b", "1:3")] };
        assert_eq!(lock.difference(&built).map(|d| d.0), Some("b".to_owned()));
        let more = Lock { packages: vec![package("a", "1"), package("b", "1:2"), package("c", "1")] };
        assert_eq!(lock.difference(&more).map(|d| d.1), Some("absent".to_owned()));
        assert_eq!(Lock::deb_name("b", "1:2", "arm64"), "b_1%3a2_arm64.deb");
        assert!(lock.preferences().contains("Package: b\nPin: version 1:2\nPin-Priority: 1001\n"));
    }
}
