//! Pure decisions: (state, input, now) in, (state, actions) out. No clock, no socket.

pub mod backoff;
pub mod boot;
pub mod compare;
pub mod enroll;
pub mod fallback;
pub mod health;
pub mod lease;
pub mod night;
pub mod noise;
pub mod operator;
pub mod place;
pub mod reconcile;
pub mod recovery;
pub mod restart;
pub mod retention;
pub mod retry;
pub mod rollout;
pub mod setup;
pub mod spec;
pub mod timeline;
pub mod trust;
pub mod turns;
pub mod verdict;
pub mod verify;
pub mod warm;
