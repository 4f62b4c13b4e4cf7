//! A byte stream between a user and a port of a device that she holds, through the coordinator, and the key that opens
//! the device to her. Her way to the device is NATS alone.
//!
//! Both directions go by offset, as consoles do: what is sent twice is taken once, and what was answered and lost is
//! answered again. So a NATS server that dies and comes back costs no stream.
//!
//! ```text
//!  TUNNEL_OPEN ─► id     TUNNEL_SEND {offset, bytes, end} ─► next       TUNNEL_RECEIVE {offset} ─► bytes, end
//!                                                                       (held back until there are some)
//! ```

use crate::model::id::DeviceId;
use crate::model::ssh_key::SshPublicKey;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;

/// Let a key log in to a device while its holder has it. Body: [`Admit`]. Answer: [`Admitted`].
pub const ADMIT: &str = "admit";
/// Connect to a port of a device. Body: [`TunnelOpen`]. Answer: [`TunnelId`].
pub const TUNNEL_OPEN: &str = "tunnel-open";
/// Bytes to the device. Body: [`TunnelSend`]. Answer: [`TunnelSent`].
pub const TUNNEL_SEND: &str = "tunnel-send";
/// Bytes from the device. Body: [`TunnelReceive`]. Answer: [`TunnelPiece`].
pub const TUNNEL_RECEIVE: &str = "tunnel-receive";
/// End a tunnel. Body: [`TunnelId`]. Answer: nothing.
pub const TUNNEL_CLOSE: &str = "tunnel-close";

/// The most bytes of one request or answer. In base64 it is a sixth of a NATS message (1 MB by default): small
/// enough that a key pressed meanwhile does not wait long behind a file.
pub const PIECE: usize = 128 * 1024;

/// Body of [`ADMIT`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Admit {
    /// Which device.
    pub device: DeviceId,
    /// It replaces the key that was admitted before.
    pub key: SshPublicKey,
}

/// Answer to [`ADMIT`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Admitted {
    /// Whom to log in as.
    pub user: String,
    /// The host key of the device's current boot attempt.
    pub host_key: SshPublicKey,
}

/// Body of [`TUNNEL_OPEN`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TunnelOpen {
    /// Which device.
    pub device: DeviceId,
    /// A TCP port of its own address.
    pub port: NonZeroU16,
}

/// Names a tunnel. Only whoever opened it may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TunnelId {
    /// Random.
    pub tunnel: u64,
}

/// Body of [`TUNNEL_SEND`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TunnelSend {
    /// Which.
    #[serde(flatten)]
    pub id: TunnelId,
    /// How many bytes were sent before these.
    pub offset: u64,
    /// The bytes, at most [`PIECE`].
    #[serde(with = "super::base64")]
    pub bytes: Vec<u8>,
    /// There will be no more.
    pub end: bool,
}

/// Answer to [`TUNNEL_SEND`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSent {
    /// How many bytes the device has taken in all. Fewer than were sent when it takes its time: the rest is sent again.
    pub next: u64,
}

/// Body of [`TUNNEL_RECEIVE`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct TunnelReceive {
    /// Which.
    #[serde(flatten)]
    pub id: TunnelId,
    /// How many bytes have been received. What came before is forgotten.
    pub offset: u64,
}

/// Answer to [`TUNNEL_RECEIVE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelPiece {
    /// The bytes at the offset, at most [`PIECE`]; none when there are none for now.
    #[serde(with = "super::base64")]
    pub bytes: Vec<u8>,
    /// There will be no more after these.
    pub end: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_flat() {
        let id = TunnelId { tunnel: u64::MAX };
        let sent = TunnelSend { id, offset: 3, bytes: vec![0, 255], end: false };
        let text = r#"{"tunnel":18446744073709551615,"offset":3,"bytes":"AP8=","end":false}"#;
        assert_eq!(serde_json::to_string(&sent).unwrap(), text);
        assert_eq!(serde_json::from_str::<TunnelSend>(text).unwrap().bytes, [0, 255]);
        assert_eq!(serde_json::from_str::<TunnelReceive>(text).unwrap().id, id);
        let open = serde_json::from_str::<TunnelOpen>(r#"{"device":"l-1","port":0}"#);
        assert!(open.is_err(), "there is no port 0");
    }
}
