//! The lab coordinator: leases, handover, runs, steps, requests, credentials.
//!
//! ```text
//!  requests ──► service ──► desk (people) ──► lending ──► ledger (devices, all or none), handover
//!                 ├──────► run task ──────────────┘
//!                 │            │  ├────► bring-up (identity, boot, first ping)
//!                 │            │  └────► steps  (KV, fleet requests, console, SSH)
//!                 │            ▼
//!                 └──────► run log ──► lab.<lab>.run.<run>, replay on request, bundle
//! ```
//!
//! One task owns each run; its log is the only thing others read of it.

mod bringup;
mod bundle;
mod console;
mod containers;
mod deploying;
mod desk;
mod disturb;
mod expect;
mod follow;
mod handover;
mod keys;
pub mod ledger;
mod lending;
mod log;
mod operate;
pub mod operator;
pub mod parts;
mod people;
mod refusal;
mod reload;
mod requests;
mod runner;
pub mod service;
mod session;
mod steps;
mod tunnel;
mod verify;
