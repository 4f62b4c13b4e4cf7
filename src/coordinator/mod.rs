//! The lab coordinator: runs, steps, requests, credentials.
//!
//! ```text
//!  requests ──► service ──► run task ──► pool (devices, all or none)
//!                 │            │  ├────► bring-up (identity, boot, first ping)
//!                 │            │  └────► steps  (KV, fleet requests, console, SSH)
//!                 │            ▼
//!                 └──────► run log ──► lab.<lab>.run.<run>, replay on request, bundle
//! ```
//!
//! One task owns each run; its log is the only thing others read of it.

mod bringup;
mod bundle;
mod containers;
mod disturb;
mod expect;
mod follow;
pub mod ledger;
mod log;
mod operate;
pub mod operator;
pub mod parts;
mod pool;
mod runner;
pub mod service;
mod session;
mod steps;
mod verify;
