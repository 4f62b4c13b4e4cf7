//! What several integration tests need: a lab whose coordinator follows a script.

pub mod scripted;
