//! Tests on real parts, one binary.

mod agent;
mod podman;
