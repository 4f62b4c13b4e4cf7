//! Tests against real parts: one binary, one module per part.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod agent;
mod backends;
mod bench;
mod cli;
mod console;
mod container;
mod coordinator;
mod device;
mod dhcp;
mod doctor;
mod faults;
mod fuzz;
mod image;
mod journal;
mod leases;
mod ledger;
mod missing;
mod nats;
mod nats_attacks;
mod operator;
mod podman;
mod podman_canned;
mod podman_host;
mod podman_inits;
mod podman_killed;
mod podman_services;
mod podman_verbs;
mod power;
mod serial;
mod ssh;
mod support;
mod tftp;
mod tickets;
mod unit;
mod wired;
