//! What crosses NATS: subjects, buckets, envelopes, requests.

// Agents have no base64, and no use for it.
#[cfg(feature = "coordinator")]
mod base64;
#[cfg(feature = "coordinator")]
pub mod boot;
#[cfg(feature = "coordinator")]
pub mod console;
pub mod deploying;
pub mod fleet;
pub mod lending;
pub mod request;
pub mod subject;
pub mod training;
#[cfg(feature = "coordinator")]
pub mod tunnel;
