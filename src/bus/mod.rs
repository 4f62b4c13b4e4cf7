//! async-nats, wrapped: connect, publish and acknowledge, consume, keys, requests; the embedded server; the issuer.

pub mod connect;
pub mod consume;
pub mod error;
pub mod kv;
