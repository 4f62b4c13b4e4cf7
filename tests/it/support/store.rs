//! A store of images with one in it that no machine could boot: some bytes under their names.

use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// The store, and the image's id.
pub struct Store {
    pub root: PathBuf,
    pub image: String,
}

/// What its parts hold.
pub const KERNEL: &[u8] = b"a kernel";
pub const INITRAMFS: &[u8] = b"an initramfs";
pub const LAYER: &[u8] = b"a layer of the root";

impl Store {
    /// Makes it in `root`.
    pub fn new(root: &Path) -> Self {
        Self::with_agent(root, &sha256(b"agent"))
    }

    /// The same with an agent of this SHA-256.
    pub fn with_agent(root: &Path, agent_sha256: &str) -> Self {
        for dir in ["images", "parts", "seen"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let part = |bytes: &[u8]| {
            fs::write(root.join("parts").join(sha256(bytes)), bytes).unwrap();
            json!({ "sha256": sha256(bytes), "size": bytes.len() })
        };
        let manifest = json!({
            "version": 1,
            "suite": "trixie",
            "arch": "aarch64",
            "recipe": sha256(b"recipe"),
            "kernel_release": "6.12.0",
            "cmdline": ["panic=5"],
            "kernel": part(KERNEL),
            "initramfs": part(INITRAMFS),
            "layers": [part(LAYER)],
            "agent_sha256": agent_sha256,
            "lock": part(b"{}"),
        });
        let manifest = serde_json::to_vec_pretty(&manifest).unwrap();
        let image = sha256(&manifest);
        fs::write(root.join("images").join(format!("{image}.json")), manifest).unwrap();
        Self { root: root.to_owned(), image }
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
