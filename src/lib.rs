//! A hardware-in-the-loop lab for real Raspberry Pis.
//!
//! - [`model`]: plain data. [`plan`]: pure decisions. [`wire`]: what crosses NATS.
//! - [`support`]: no domain words. [`config`]: `lab/*.toml` and scenarios. [`bus`]: NATS.
//! - [`journal`], [`console`], [`device`]: one device's record, byte stream and actor.
//! - [`netboot`], [`power`], [`serial`], [`ssh`], [`vm`], [`container`]: adapters of the ports in [`console`] and
//!   [`device`]. `sim`: simulated parts of a lab.
//! - [`bundle`]: the evidence of runs. [`image`]: boot images. [`coordinator`]: runs on devices.
//! - [`agent`], [`podman`]: the device agent and its container runtime.
//! - [`testing`]: a lab's devices in the tests of other projects. [`cli`]: a NATS client. [`compose`]: joins ports to adapters.
//!
//! Which may import which: `docs/architecture.md`, enforced by `tests/tidy.rs`.

pub mod model;
pub mod plan;
pub mod support;
pub mod wire;

pub mod bus;

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod podman;

#[cfg(feature = "coordinator")]
pub mod bundle;
#[cfg(feature = "coordinator")]
pub mod cli;
#[cfg(feature = "coordinator")]
pub mod compose;
#[cfg(feature = "coordinator")]
pub mod config;
#[cfg(feature = "coordinator")]
pub mod console;
#[cfg(feature = "coordinator")]
pub mod container;
#[cfg(feature = "coordinator")]
pub mod coordinator;
#[cfg(feature = "coordinator")]
pub mod device;
#[cfg(feature = "coordinator")]
pub mod image;
#[cfg(feature = "coordinator")]
pub mod journal;
#[cfg(feature = "coordinator")]
pub mod netboot;
#[cfg(feature = "coordinator")]
pub mod power;
#[cfg(feature = "coordinator")]
pub mod serial;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "coordinator")]
pub mod ssh;
#[cfg(feature = "coordinator")]
pub mod testing;
#[cfg(feature = "coordinator")]
pub mod vm;
