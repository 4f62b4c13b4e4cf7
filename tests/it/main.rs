//! Tests against real parts: one binary, one module per part.

mod agent;
mod nats;
mod podman;
