//! Who has lost a device, or the lab, does nothing to it any more, wherever it stood still in between.

mod fake;
mod interleavings;
