//! What several integration tests need: a lab whose coordinator follows a script, and a podman that does.

#![expect(unreachable_pub, reason = "shared by the modules of one test binary")]

pub mod libpod;
pub mod scripted;
