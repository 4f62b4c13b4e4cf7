//! The parts against real ones: sockets, servers, processes.

mod ssh;
mod tickets;
