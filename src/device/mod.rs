//! One device as an actor, and the ports through which it acts: power, boot, reach, tickets.

pub mod ports;
