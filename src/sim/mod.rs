//! Simulated parts of a lab, for its tests and for demonstrations: they behave as the real ones do, faults
//! included, and know nothing of the drivers that they are to try.

mod line;
mod plug;

pub use line::PtyLine;
pub use plug::{Plug, PlugFault, PlugKind, PlugOptions};
