//! What crosses NATS: subjects, buckets, envelopes, requests.

pub mod fleet;
pub mod request;
pub mod subject;
