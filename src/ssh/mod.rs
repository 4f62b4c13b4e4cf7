//! Adapter of the port `Reach` over SSH, and of all ports of a device that boots from its own card.

pub mod card;
pub mod key;
pub mod quote;
pub mod reach;
pub mod remote;
mod session;

pub use card::{Card, CardParts};
pub use key::{KeyPair, generate_key};
pub use reach::{SshError, SshReach};
pub use remote::{HostKey, Remote, Way};
