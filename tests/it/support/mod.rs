//! What several integration tests need: calls of the program itself, a lab whose coordinator follows a script, a real
//! coordinator over fake devices, a console, a podman that follows a script, a registry, a script, the boot ROM of a Raspberry Pi,
//! a store of images.

#![expect(unreachable_pub, reason = "shared by the modules of one test binary")]

pub mod console;
pub mod coordinator;
pub mod fake_lab;
pub mod libpod;
pub mod machine;
pub mod pi;
pub mod program;
pub mod registry;
pub mod script;
pub mod scripted;
pub mod store;
