//! How a device gets what it boots: an address by DHCP and its boot files by TFTP, where it is a Raspberry Pi, or by HTTP
//! as well, where it has UEFI; boot tickets and layers over HTTP for all.
//!
//! ```text
//!   Pi ── DHCP ──► dhcp    by MAC and serial number: an address, and where the files are
//!    ├─── TFTP ──► tftp ── pi_boot ── tree    by address or card, and prefix: firmware, config.txt, kernel
//!    └─── HTTP ──► office  layers; and the ticket, once; UEFI: http_files, the same files
//! ```
//!
//! [`dhcp`], [`tftp`] and [`tree`] decide without I/O; their thin parts hold the sockets. [`pi_boot::PiBoot`] is the port
//! `Boot` of one Pi; [`fact`] says what of all that belongs into whose journal. [`board`] has what each model needs, and why some cannot boot so.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/ticket`, body: the ticket's secret | 200, a tar archive of the grant's files and `time`; or 403 and one line saying why |
//! | `GET /v1/layer/<sha256>` | 200, the layer's bytes; or 404 |
//! | `GET /v1/boot/<prefix>/<path>` | 200, a file of the device's boot tree; or 404 |
//!
//! [`ticket::Book`] decides, without I/O; [`office::Office`] serves; [`neighbours`] tells whose
//! address a request comes from.

pub mod board;
pub mod connection;
pub mod dhcp;
pub mod fact;
pub mod http_files;
pub mod layers;
pub mod mac;
pub mod neighbours;
pub mod office;
pub mod pace;
pub mod pi_boot;
pub mod tftp;
pub mod ticket;
pub mod tree;
pub mod uki;

pub use http_files::HttpFiles;
pub use layers::LayerSource;
pub use office::{LayerSent, Office, OfficeOptions};
