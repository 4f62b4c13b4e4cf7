//! A right to act that ends by itself unless it is renewed in time.
//!
//! ```text
//!  nothing yet ──begin──► from … until ──(not renewed)──► lapsed ──renew──► from … until
//!                                    └──end──► ended, for good
//! ```
//!
//! Whoever acts asks [`Term::check`] right before, with no wait in between: a process that stood still for
//! long finds its term over when it goes on.

use super::lock::lock;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;

/// The longest pause between two looks at a clock that nothing tells of.
const LOOK: Duration = Duration::from_millis(100);

/// Tells the time, in nanoseconds of a clock that is never set.
pub type Nanos = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The right. Clones share it.
#[derive(Clone)]
pub struct Term {
    /// None for one that is always held.
    clock: Option<Nanos>,
    span: Arc<Mutex<Span>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Span {
    from: u64,
    until: u64,
    ended: bool,
}

/// Nothing may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lapsed {
    /// The one before may still act.
    #[error("whoever had the right to act before may still use it for {} s", .left.as_secs() + 1)]
    NotYet {
        /// For how long.
        left: Duration,
    },
    /// It was not renewed in time.
    #[error("the right to act has lapsed and is not renewed yet")]
    Over,
    /// Another has it.
    #[error("the right to act is another's now")]
    Ended,
}

impl Term {
    /// One that nobody holds before [`Self::begin`] and [`Self::renew`].
    pub fn new(clock: Nanos) -> Self {
        Self { clock: Some(clock), span: Arc::default() }
    }

    /// One that is always held: where nobody else could have it.
    pub fn endless() -> Self {
        Self { clock: None, span: Arc::default() }
    }

    /// Whether it is held now.
    pub fn check(&self) -> Result<(), Lapsed> {
        let Some(clock) = &self.clock else { return Ok(()) };
        let Span { from, until, ended } = *lock(&self.span);
        let now = clock();
        if ended {
            Err(Lapsed::Ended)
        } else if now >= until {
            Err(Lapsed::Over)
        } else if now < from {
            Err(Lapsed::NotYet { left: Duration::from_nanos(from - now) })
        } else {
            Ok(())
        }
    }

    /// Not to be used before `from`, in nanoseconds of its clock.
    pub fn begin(&self, from: u64) {
        lock(&self.span).from = from;
    }

    /// Holds until `until`, if that is later than it held already.
    pub fn renew(&self, until: u64) {
        let mut span = lock(&self.span);
        span.until = span.until.max(until);
    }

    /// It is another's from now on.
    pub fn end(&self) {
        lock(&self.span).ended = true;
    }

    /// Whether it is another's.
    pub fn has_ended(&self) -> bool {
        lock(&self.span).ended
    }

    /// Waits until it is held; for ever when it is another's.
    pub async fn held(&self) {
        loop {
            match self.check() {
                Ok(()) => return,
                Err(Lapsed::Ended) => return std::future::pending().await,
                Err(Lapsed::NotYet { .. } | Lapsed::Over) => sleep(LOOK).await,
            }
        }
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = *lock(&self.span);
        f.debug_struct("Term").field("endless", &self.clock.is_none()).field("span", &span).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn a_term_is_held_between_its_begin_and_its_end() {
        let now = Arc::new(AtomicU64::new(100));
        let clock = Arc::clone(&now);
        let term = Term::new(Arc::new(move || clock.load(Ordering::Relaxed)));
        assert_eq!(term.check(), Err(Lapsed::Over), "nobody gave it");
        term.begin(150);
        term.renew(200);
        assert_eq!(term.check(), Err(Lapsed::NotYet { left: Duration::from_nanos(50) }));
        let at = |time: u64| {
            now.store(time, Ordering::Relaxed);
            term.check()
        };
        assert_eq!((at(150), at(199), at(200)), (Ok(()), Ok(()), Err(Lapsed::Over)));
        term.renew(300);
        term.renew(250);
        assert_eq!((at(299), at(300)), (Ok(()), Err(Lapsed::Over)), "what comes late takes nothing away");
        term.end();
        term.renew(900);
        assert_eq!(at(300), Err(Lapsed::Ended));
        assert_eq!(Term::endless().check(), Ok(()));
    }
}
