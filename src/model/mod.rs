//! Plain data of the lab: ids, devices, leases, scenarios, runs, workloads, events. serde, no I/O.

pub mod boot;
pub mod bundle;
pub mod deployment;
pub mod device;
pub mod event;
pub mod health;
pub mod id;
pub mod identity;
pub mod lease;
pub mod ledger;
pub mod netboot;
pub mod night;
pub mod power;
pub mod relay;
pub mod report;
pub mod role;
pub mod run;
pub mod scenario;
pub mod simulation;
pub mod ssh_key;
pub mod state_note;
pub mod time;
pub mod tls;
pub mod upload;
pub mod wiring;
pub mod workload;
