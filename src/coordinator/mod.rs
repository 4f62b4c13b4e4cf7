//! The lab coordinator: leases, handover, runs, steps, requests, credentials.
//!
//! ```text
//!  requests ──► intake ──► service ──► desk (people) ──► lending ──► ledger (devices, all or none), handover
//!                            ├──────► run task ──────────────┘
//!                            │            │  ├────► bring-up (identity, boot, first ping)
//!                            │            │  └────► steps  (KV, fleet requests, console, SSH)
//!                            │            ▼
//!                            └──────► run log ──► lab.<lab>.run.<run>, replay on request, bundle
//! ```
//!
//! One task owns each run; its log is the only thing others read of it. A run outlives its coordinator: `runs` keeps it,
//! `recover` ends what another coordinator began, `adopt` goes on with boots.

mod adopt;
mod answers;
mod boot_desk;
mod booting;
mod bringup;
mod bundle;
mod cables;
mod care;
mod check;
mod console;
mod containers;
mod deploying;
mod desk;
mod disturb;
mod evidence;
mod expect;
mod fallback;
mod findings;
mod follow;
mod handover;
mod intake;
mod keys;
pub mod ledger;
mod lending;
mod log;
mod operate;
pub mod operator;
pub mod parts;
mod people;
mod phases;
mod recover;
mod refusal;
mod reload;
mod runner;
mod running;
mod runs;
pub mod service;
mod session;
mod steps;
mod training;
mod transfer;
mod tunnel;
mod uploads;
mod verify;
