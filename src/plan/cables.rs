//! Whether a console that shows another board's name is wired to that board.
//!
//! Whoever holds a board can print any name. What cannot be printed is that the other board has had its ticket just now, and
//! what its own console shows meanwhile: one that shows its own name is wired as the lab file says.
//!
//! ```text
//!  a console shows another board ─► that one had its ticket within WINDOW of the line? ── no ──► straight
//!                                      │ yes
//!                                      ├─ its own console shows its own name ──────────────────► straight
//!                                      ├─ its own console shows a third name, or the first's ──► crossed
//!                                      └─ its own console names nobody within WINDOW ──────────► crossed
//! ```

use crate::model::id::DeviceId;
use std::time::Duration;

/// How far apart a ticket's exchange and the line that tells of it may be known here.
pub const WINDOW: Duration = Duration::from_secs(10);

/// What is known of the board whose name another's console shows. Times are of the boot clock, in nanoseconds.
#[derive(Debug)]
pub struct Named<'a> {
    /// Its id.
    pub id: &'a DeviceId,
    /// When it had the ticket of its current boot attempt.
    pub ticket_ns: Option<u64>,
    /// Whose name its own console shows.
    pub shows: Option<&'a DeviceId>,
}

/// What a console that shows another board's name means.
#[derive(Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It is that board's console.
    Crossed,
    /// It is its own board's, which prints what it likes.
    Straight,
    /// Nobody knows yet: look again when more is known, or after so long.
    Look(Duration),
}

/// Judges a line that was seen at `line_ns`.
pub fn judge(line_ns: u64, named: &Named<'_>, now_ns: u64) -> Ruling {
    let window = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
    let left = |from: u64| from.saturating_add(window).saturating_sub(now_ns);
    let look = |left: u64| Ruling::Look(Duration::from_nanos(left));
    match (named.ticket_ns, named.shows) {
        (_, Some(shows)) if shows == named.id => Ruling::Straight,
        (Some(ticket), _) if ticket.abs_diff(line_ns) > window => Ruling::Straight,
        (Some(_), Some(_)) => Ruling::Crossed,
        (Some(ticket), None) if left(ticket) == 0 => Ruling::Crossed,
        (Some(ticket), None) => look(left(ticket)),
        (None, _) if left(line_ns) == 0 => Ruling::Straight,
        (None, _) => look(left(line_ns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_name_counts_only_beside_a_ticket_of_just_now_and_a_console_that_does_not_show_it() {
        let [one, two, three] = ["l-pi-1", "l-pi-2", "l-pi-3"].map(|id| DeviceId::new(id).unwrap());
        let look = |seconds| Ruling::Look(Duration::from_secs(seconds));
        // The first's console has shown the second's name at 100 s.
        for (ticket, shows, now, ruling) in [
            (None, None, 100, look(10)),
            (None, None, 110, Ruling::Straight),
            // It has been up for a minute: whoever holds the first has printed its name.
            (Some(40), None, 100, Ruling::Straight),
            (Some(40), Some(&one), 100, Ruling::Straight),
            (Some(111), None, 111, Ruling::Straight),
            // It has just had it, but its own console shows it.
            (Some(99), Some(&two), 100, Ruling::Straight),
            (None, Some(&two), 100, Ruling::Straight),
            (Some(99), None, 100, look(9)),
            (Some(99), None, 109, Ruling::Crossed),
            (Some(105), None, 105, look(10)),
            (Some(99), Some(&one), 100, Ruling::Crossed),
            (Some(99), Some(&three), 100, Ruling::Crossed),
            (Some(105), Some(&one), 105, Ruling::Crossed),
        ] {
            let named = Named { id: &two, ticket_ns: ticket.map(|at| at * SECOND), shows };
            let judged = judge(100 * SECOND, &named, now * SECOND);
            assert_eq!(judged, ruling, "{named:?} at {now}");
        }
    }
}
