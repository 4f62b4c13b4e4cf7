//! Who has lost a device, or the lab, does nothing to it any more, wherever it stood still in between.

mod away;
mod deposed;
mod desired;
mod fake;
mod health;
mod interleavings;
mod stopped;
