//! The integration tests, one binary.

mod console;
mod device;
mod journal;
