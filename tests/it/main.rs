//! Tests against real parts: one binary, one module per part.
//! The integration tests, one binary.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod console;
mod device;
mod journal;
mod nats;
