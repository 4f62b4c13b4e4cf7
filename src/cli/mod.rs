//! The command line: a plain NATS client of the coordinator.
