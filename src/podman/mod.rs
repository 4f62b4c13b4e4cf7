//! Adapter of the port `ContainerRuntime` over podman's libpod socket.

mod access;
mod api;
mod container;
mod create;
pub mod http;
pub mod images;
mod init;
mod inspect;
mod logs;
mod look;
mod monitor;
pub mod topology;
