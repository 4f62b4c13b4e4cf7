//! How a device gets what it boots: boot tickets and layers over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/ticket`, body: the ticket's secret | 200, a tar archive of the grant's files and `time`; or 403 and one line saying why |
//! | `GET /v1/layer/<sha256>` | 200, the layer's bytes; or 404 |
//!
//! [`ticket::Book`] decides, without I/O; [`office::Office`] serves; [`neighbours`] tells whose
//! address a request comes from.

pub mod board;
pub mod connection;
pub mod dhcp;
pub mod layers;
pub mod mac;
pub mod neighbours;
pub mod office;
pub mod pi_boot;
pub mod tftp;
pub mod ticket;
pub mod tree;

pub use layers::LayerSource;
pub use office::{Office, OfficeOptions};
