//! Tests against real parts: one binary, one module per part.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod cli;
mod console;
mod device;
mod journal;
mod agent;
mod nats;
mod podman;
//! The parts against real ones: sockets, servers, processes.

mod ssh;
mod tickets;
mod support;
