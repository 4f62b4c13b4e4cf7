//! async-nats, wrapped: connect, publish and acknowledge, consume, keys, requests; the embedded server; the issuer.

pub mod connect;
pub mod consume;
#[cfg(feature = "coordinator")]
pub mod deployments;
pub mod error;
#[cfg(feature = "coordinator")]
pub mod gate;
#[cfg(feature = "coordinator")]
pub mod issuer;
#[cfg(feature = "coordinator")]
pub mod jwt;
pub mod kv;
#[cfg(feature = "coordinator")]
mod leader;
#[cfg(feature = "coordinator")]
pub mod observe;
#[cfg(feature = "coordinator")]
pub mod provision;
mod read;
#[cfg(feature = "coordinator")]
pub mod server;
pub mod servers;
#[cfg(feature = "coordinator")]
pub mod sole_writer;
#[cfg(feature = "coordinator")]
pub mod tls;
