//! Adapter of the port `Reach` over SSH.
