//! What several integration tests need: a lab whose coordinator follows a script, a real coordinator, a podman that follows one, a registry.

#![expect(unreachable_pub, reason = "shared by the modules of one test binary")]

pub mod coordinator;
pub mod libpod;
pub mod registry;
pub mod scripted;
