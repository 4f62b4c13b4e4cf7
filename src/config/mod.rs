//! `lab/*.toml` and scenario files: raw, then checked; errors name file, key and line.

pub mod bundles;
pub mod deployment;
pub mod error;
pub mod health;
pub mod lab;
pub mod leases;
pub mod login;
mod matrix;
pub mod nats;
pub mod netboot;
pub mod nightly;
pub mod raw;
pub mod scenario;
mod server;
pub mod simulate;
pub mod standby;
mod steps;
pub mod wiring;
