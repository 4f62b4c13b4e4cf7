//! The device agent: observe, plan, act, report. Owns the port `ContainerRuntime`.
//!
//! ```text
//!  bus ──► feed ──offers──► reconciler ──watch──► reporter ──► bus (status)
//!            ▲  (durable,      │  ▲                 ▲  │
//!            └── what to read ─┘  │                 └──┴── outbox, while there is no bus
//!  bus ──► fleet (ping)           └── runtime events, timer, and what the store held
//!                              presence ──► bus        watchdog ──► service manager
//! ```
//!
//! Only the lab task (feed, fleet, presence) needs a connection: what runs on the device does not wait for it.
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
mod lab;
mod ledger;
mod outbox;
pub mod pace;
pub mod policy;
pub mod ports;
pub mod presence;
pub mod reconciler;
pub mod report;
pub mod run;
pub mod score;
pub mod store;
pub mod watchdog;
