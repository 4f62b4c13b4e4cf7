//! The device agent: observe, plan, act, report. Owns the port `ContainerRuntime`.
//!
//! ```text
//!  bus ──► feed ──offers──► reconciler ──watch──► reporter ──► bus (status)
//!            ▲  (durable,      │  ▲
//!            └── what to read ─┘  └── runtime events, timer
//!  bus ──► fleet (ping)        presence ──► bus
//! ```
//!
//! Each box is one task and owns its state. Whatever happens means only "look again": the plan is made
//! from what is wanted and what is seen (`plan::reconcile`).

pub mod act;
mod check;
mod effort;
pub mod facts;
pub mod feed;
pub mod fleet;
pub mod health;
pub mod intake;
mod judge;
mod ledger;
pub mod ports;
pub mod presence;
pub mod reconciler;
pub mod report;
pub mod run;
pub mod score;
pub mod store;
