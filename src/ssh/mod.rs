//! Adapter of the port `Reach` over SSH.

pub mod key;
pub mod quote;
pub mod reach;
mod session;

pub use key::{KeyPair, generate_key};
pub use reach::{SshError, SshReach};
