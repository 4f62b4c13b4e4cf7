//! Adapter of the port `ContainerRuntime` over podman's libpod socket.

pub mod api;
pub mod http;
pub mod topology;
