//! The command line: a NATS client of a coordinator. It reaches what only this machine can do (the
//! embedded lab, images) through the trait in [`local`], and has no other private path.
//!
//! ```text
//! args ─► dispatch ─► run ─► client (requests) ─► coordinator
//!                      │ ◄── events (live, replayed: follow puts them in order)
//!                      ├─► progress (screen)          while it runs
//!                      └─► summary, timings, junit, bundle, exit   when it ends
//! ```

pub mod args;
pub mod boot;
pub mod bundle;
pub mod check;
pub mod client;
pub mod compare;
pub mod console;
pub mod coordinator;
pub mod deploying;
pub mod deployments;
pub mod device;
pub mod dispatch;
pub mod doctor;
pub mod enroll;
pub mod error;
pub mod exit;
pub mod follow;
pub mod forward;
pub mod image;
pub mod junit;
mod labs;
pub mod lending;
pub mod local;
pub mod login;
pub mod logs;
mod nats;
pub mod nightly;
pub mod pin;
pub mod power;
pub mod progress;
pub mod replay;
pub mod reserve;
pub mod run;
mod schema;
mod setup;
pub mod ssh;
pub mod summary;
pub mod table;
pub mod timings;
mod train;
mod tunnel;
pub mod ui;
pub mod view;
pub mod watch;

pub use dispatch::main;
