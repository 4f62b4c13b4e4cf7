//! One device's byte stream: the task that owns the line, boot stages, waiters, the writer.

pub mod port;
