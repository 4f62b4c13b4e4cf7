//! Tests against real parts: one binary, one module per part.

mod cli;
mod console;
mod device;
mod journal;
mod nats;
mod support;
