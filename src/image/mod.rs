//! Builds and verifies boot images.
