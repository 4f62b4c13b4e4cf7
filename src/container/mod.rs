//! Adapter of the ports `Power`, `Boot`, `Reach`, `TicketOffice` and `ByteStream` over podman on this host:
//! a device is its agent in a container, and the containers that this agent makes.
//!
//! ```text
//!            set(On): identity on disk, `podman run` of the agent, its output to the console
//!    absent ──────────────────────────────────────────────────────────────────────────────► running
//!      ▲                                                                                       │
//!      └── set(Off): the agent's container, then all that carries the device's label ──────────┘
//! ```
//!
//! Each lab has a podman store and a podman service of its own ([`Host`]); the user's own podman is neither
//! read nor touched, and what a lab leaves is one directory: `docs/decisions/0008-containers.md`.
//!
//! What such a device cannot do is not in its capabilities, so a scenario that takes it is skipped: there
//! is no power to switch, no console before the agent speaks, no shell, no restart, and its containers
//! have no network but their own loopback.

mod device;
mod error;
mod host;
mod podman;
mod root;
mod service;

pub use device::ContainerDevice;
pub use error::ContainerError;
pub use host::{DIR, Host, HostOptions, Kept, is_here, is_kept, sweep};
