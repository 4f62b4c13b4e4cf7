//! The integration tests, one binary.

mod console;
mod device;
mod journal;
//! Tests against real parts: one binary, one module per part.

mod nats;
