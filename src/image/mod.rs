//! Builds and verifies boot images.
//!
//! An image is a kernel, an initramfs of our own and squashfs layers: the base root, made of Debian
//! packages and nothing else, and the device layer with the agent and all our settings. Every file is
//! named by its SHA-256 and an image by that of its manifest, so an image never changes.
//!
//! [`Recipe`] says what goes in; [`Store`] has what came out, and builds what is missing.

mod base;
mod build;
mod containers;
mod cpio;
mod error;
mod host;
mod initramfs;
mod layer;
mod manifest;
mod modules;
mod progress;
mod recipe;
mod removal;
mod sources;
mod squash;
mod store;
mod tool;
mod tree;

pub use build::BuildRequest;
pub use error::ImageError;
pub use host::write_container_store;
pub use manifest::{Image, Layer, Lock, LockedPackage, MANIFEST_VERSION, Manifest, Part};
pub use progress::{Progress, Sink, Stage};
pub use recipe::{BUILT_IN, KernelRecipe, Recipe};
pub use removal::{InUse, Pruned};
pub use store::{Check, DEFAULT_STORE, STORE_VARIABLE, Store, hash_file};
