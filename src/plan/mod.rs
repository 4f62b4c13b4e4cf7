//! Pure decisions: (state, input, now) in, (state, actions) out. No clock, no socket.

pub mod backoff;
pub mod boot;
pub mod enroll;
pub mod fallback;
pub mod health;
pub mod lease;
pub mod night;
pub mod operator;
pub mod place;
pub mod reconcile;
pub mod retry;
pub mod rollout;
pub mod spec;
pub mod trust;
pub mod verdict;
pub mod verify;
pub mod warm;
