//! Tests against real parts: one binary, one module per part.

mod console;
mod device;
mod journal;
mod nats;
