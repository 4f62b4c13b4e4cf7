//! How a connection stands, as the server and the client tell it.

use crate::model::workload::{Denied, DeniedAction};
use async_nats::{Event, ServerError};
use tokio::sync::watch;

/// How many subjects are remembered as denied: what an agent uses are fewer.
const MAX_DENIALS: usize = 16;

/// How a connection stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// Whether it is up.
    pub up: bool,
    /// How many times it has come up.
    pub epoch: u64,
    /// The last thing that the server did not permit.
    pub denied: Option<Denial>,
    /// All of that by subject: the first [`MAX_DENIALS`] of them.
    pub denials: Vec<Denied>,
}

/// Something that the server did not permit. NATS reports it apart from the call that caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What was tried.
    pub action: DeniedAction,
    /// On which subject.
    pub subject: String,
    /// Counts the denials of this connection.
    pub number: u64,
}

/// How often the server has not permitted something.
pub(super) fn denials(connection: &Connection) -> u64 {
    connection.denied.as_ref().map_or(0, |denial| denial.number)
}

/// Keeps what a connection has told.
pub(super) fn observe(state: &watch::Sender<Connection>, event: Event) {
    match event {
        Event::Connected => state.send_modify(|now| {
            now.up = true;
            now.epoch += 1;
        }),
        Event::Disconnected | Event::Closed => state.send_modify(|now| now.up = false),
        Event::ServerError(ServerError::Other(text)) => match parse_denial(&text) {
            Some((action, subject)) => {
                tracing::warn!(?action, subject, "not permitted by the NATS server");
                state.send_modify(|now| {
                    let number = denials(now) + 1;
                    count_denial(&mut now.denials, action, &subject);
                    now.denied = Some(Denial { action, subject, number });
                });
            }
            None => tracing::warn!(error = text, "the NATS server reports an error"),
        },
        other => tracing::debug!(event = %other, "NATS connection"),
    }
}

fn count_denial(known: &mut Vec<Denied>, action: DeniedAction, subject: &str) {
    let full = known.len() >= MAX_DENIALS;
    match known.iter_mut().find(|denied| denied.action == action && denied.subject == subject) {
        Some(denied) => denied.count += 1,
        None if !full => known.push(Denied { action, subject: subject.to_owned(), count: 1 }),
        None => {}
    }
}

/// Reads nats-server's `Permissions Violation for Publish to "<subject>"` (and `Subscription to`).
fn parse_denial(text: &str) -> Option<(DeniedAction, String)> {
    let (what, rest) = text.split_once('"')?;
    let (subject, _) = rest.split_once('"')?;
    let what = what.to_ascii_lowercase();
    let action = match what.trim_end().strip_prefix("permissions violation for ")? {
        "publish to" => DeniedAction::Publish,
        "subscription to" => DeniedAction::Subscribe,
        _ => return None,
    };
    Some((action, subject.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_read_from_the_servers_words() {
        assert_eq!(
            parse_denial(r#"Permissions Violation for Publish to "$KV.status.other.web""#),
            Some((DeniedAction::Publish, "$KV.status.other.web".to_owned()))
        );
        assert_eq!(
            parse_denial(r#"permissions violation for subscription to "fleet.>""#),
            Some((DeniedAction::Subscribe, "fleet.>".to_owned()))
        );
        for other in ["stale connection", "Permissions Violation", "x \"y\"", "\"", ""] {
            assert_eq!(parse_denial(other), None, "{other}");
        }
    }

    #[test]
    fn denials_are_counted_by_subject_and_bounded() {
        let mut known = Vec::new();
        for number in 0..40 {
            count_denial(&mut known, DeniedAction::Publish, &format!("s{}", number % 20));
        }
        assert_eq!(known.len(), MAX_DENIALS);
        assert!(known.iter().all(|denied| denied.count == 2));
        count_denial(&mut known, DeniedAction::Subscribe, "s0");
        assert_eq!(known[0].count, 2, "another action is another denial");
    }
}
