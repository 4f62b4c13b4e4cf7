//! What happened in a run, as rows on one clock: its own facts, and its consoles line by line. Pure.

use crate::model::event::Event;
use crate::model::id::DeviceId;
use crate::model::run::{RunEvent, RunFact, StepResult};
use crate::model::time::Stamp;
use serde::Serialize;
use std::fmt;

/// The longest line of a console, in bytes: what is longer goes on in the next row.
const MAX_LINE: usize = 4096;
/// Nanoseconds after which a line that has no end is shown all the same: a prompt has none.
const UNFINISHED_NS: u64 = 1_000_000_000;

/// What a row tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The run itself: queued, started, ended.
    Run,
    /// A step of it.
    Step,
    /// A device's power.
    Power,
    /// A device's way from power-on to its agent.
    Boot,
    /// Where a deployment stands.
    Phase,
    /// A line of a console.
    Console,
    /// Something is missing.
    Gap,
    /// Something went wrong.
    Fault,
    /// What else happened to a device.
    Device,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Run => "run",
            Self::Step => "step",
            Self::Power => "power",
            Self::Boot => "boot",
            Self::Phase => "phase",
            Self::Console => "console",
            Self::Gap => "gap",
            Self::Fault => "fault",
            Self::Device => "device",
        })
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// When.
    pub at: Stamp,
    /// To which device; none to the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Of what kind.
    pub kind: Kind,
    /// What, one line. A console's holds what others wrote.
    pub text: String,
    /// The step, from 0, that begins with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begins: Option<usize>,
}

/// The row of a run's event; none of what is told elsewhere.
pub fn row(event: &RunEvent) -> Option<Row> {
    let mut begins = None;
    let (device, kind, text) = match &event.fact {
        RunFact::Queued { scenario, steps } => {
            (None, Kind::Run, format!("{scenario} is queued, {} steps", steps.len()))
        }
        RunFact::Started { devices, .. } => {
            let devices: Vec<_> =
                devices.iter().map(|d| format!("{}={} ({})", d.role, d.device, d.model)).collect();
            (None, Kind::Run, format!("started on {}", devices.join(" ")))
        }
        RunFact::Stage { device, stage, after, boot, line, .. } => {
            let again = if *boot > 1 { format!(" (boot {boot} by itself)") } else { String::new() };
            let line = if line.is_empty() { String::new() } else { format!(": {line}") };
            (Some(device), Kind::Boot, format!("{stage}, {after:.1} s after power-on{again}{line}"))
        }
        RunFact::Device { device, event, attempt } => {
            let (kind, text) = happened(event, attempt.0)?;
            (Some(device), kind, text)
        }
        RunFact::Phase { device, deployment, phase, generation, message } => {
            let text = match phase {
                Some(phase) => format!("{deployment}: {phase}, generation {generation}: {message}"),
                None => format!("{deployment}: gone"),
            };
            (Some(device), Kind::Phase, text)
        }
        RunFact::Fault { fault } => (fault.device.as_ref(), Kind::Fault, fault.cause.clone()),
        RunFact::StepStarted { step, name } => {
            begins = Some(*step);
            (None, Kind::Step, format!("{} {name:?} begins", step + 1))
        }
        RunFact::StepEnded { step, name, result, took } => {
            let (device, word, text) = match result {
                StepResult::Ok { seen } => (None, "ok", seen),
                StepResult::Fault { fault } => (fault.device.as_ref(), "FAULT", &fault.cause),
            };
            (device, Kind::Step, format!("{} {name:?} {word} after {took:.1} s: {text}", step + 1))
        }
        RunFact::Ended { outcome, took, .. } => {
            let reason =
                if outcome.reason.is_empty() { String::new() } else { format!(": {}", outcome.reason) };
            (None, Kind::Run, format!("ended after {took:.1} s: {}{reason}", outcome.verdict))
        }
    };
    Some(Row { at: event.at, device: device.cloned(), kind, text, begins })
}

fn happened(event: &Event, attempt: u64) -> Option<(Kind, String)> {
    let word = |state: &crate::model::power::PowerState| match state {
        crate::model::power::PowerState::On => "on",
        crate::model::power::PowerState::Off => "off",
    };
    Some(match event {
        Event::PowerIntent { state, .. } => (Kind::Power, format!("to be switched {}", word(state))),
        Event::PowerDone { state, reading } => (Kind::Power, format!("{}, read back {reading}", word(state))),
        Event::PowerFailed { state, cause } => {
            (Kind::Power, format!("not switched {}: {cause}", word(state)))
        }
        Event::PowerUnsettled { state } => {
            (Kind::Power, format!("nobody knows whether it was switched {}", word(state)))
        }
        Event::Forced { by, reason } => (Kind::Power, format!("{by} forces it: {reason}")),
        Event::BootOffered { .. } => (Kind::Boot, format!("attempt {attempt} begins")),
        Event::TicketRedeemed { address } => (Kind::Boot, format!("ticket exchanged by {address}")),
        Event::TicketRefused { address, cause } => {
            (Kind::Boot, format!("ticket refused to {address}: {cause}"))
        }
        Event::Woken { address, saved } => {
            let saved = if *saved { ", which was saved just now" } else { "" };
            (Kind::Boot, format!("woken at {address} from saved memory{saved}"))
        }
        Event::ColdStart { cause } => (Kind::Boot, format!("boots, for {cause}")),
        Event::Netboot { fact } => (Kind::Boot, fact.to_string()),
        Event::BootStalled { at, again, .. } => {
            let again = if *again { "; it is booted anew" } else { "" };
            (Kind::Boot, format!("stands still: {at}{again}"))
        }
        Event::BootGivenUp { cause } => (Kind::Boot, format!("waited for no longer: {cause}")),
        Event::AgentAnswered { version, .. } => (Kind::Boot, format!("agent {version} answers")),
        Event::CablesCrossed { shows } => {
            (Kind::Device, format!("its console shows {shows}: serial cables are crossed"))
        }
        Event::Checked { check, verdict, cause } => {
            let cause = if cause.is_empty() { String::new() } else { format!(": {cause}") };
            (Kind::Device, format!("{check}: {verdict}{cause}"))
        }
        Event::Idle { seconds } => {
            (Kind::Device, format!("nobody has had it for {seconds} s, and it is on: it is switched off"))
        }
        Event::ConsoleOpened {} => (Kind::Device, "console opened".to_owned()),
        Event::ConsoleGap { cause, .. } => (Kind::Gap, format!("console: {cause}")),
        Event::ConsoleWritten { bytes, .. } => {
            (Kind::Device, format!("{bytes} bytes were written to the console"))
        }
        Event::ConsoleBreak { .. } => (Kind::Device, "BREAK on the console".to_owned()),
        Event::KeyAdmitted { by, .. } => (Kind::Device, format!("{by}'s SSH key is let in")),
        Event::TunnelOpened { by, port, .. } => (Kind::Device, format!("{by} is connected to port {port}")),
        Event::NetworkCut {} => (Kind::Device, "cut off from NATS".to_owned()),
        Event::NetworkRestored {} => (Kind::Device, "reaches NATS again".to_owned()),
        // What the run itself tells, in facts of its own.
        Event::Stage { .. } | Event::RunStarted { .. } | Event::RunOver { .. } | Event::RunEnded { .. } => {
            return None;
        }
    })
}

/// Makes lines of a device's console as it comes.
#[derive(Debug)]
pub struct Lines {
    device: DeviceId,
    begun: Option<Stamp>,
    last_ns: u64,
    line: Vec<u8>,
}

impl Lines {
    /// Of this device.
    pub fn new(device: DeviceId) -> Self {
        Self { device, begun: None, last_ns: 0, line: Vec::new() }
    }

    /// Takes bytes in; answers the lines that have come to an end, each at the time of its first byte.
    pub fn push(&mut self, at: Stamp, bytes: &[u8]) -> Vec<Row> {
        let mut rows = Vec::new();
        if self.begun.is_some() && at.boot_ns.saturating_sub(self.last_ns) >= UNFINISHED_NS {
            rows.extend(self.flush());
        }
        self.last_ns = at.boot_ns;
        for byte in bytes {
            self.begun.get_or_insert(at);
            if *byte == b'\n' || self.line.len() >= MAX_LINE {
                rows.extend(self.flush());
            }
            if *byte != b'\n' {
                self.begun.get_or_insert(at);
                self.line.push(*byte);
            }
        }
        rows
    }

    /// The line that has no end yet, if it holds anything.
    pub fn flush(&mut self) -> Option<Row> {
        let (at, line) = (self.begun.take()?, std::mem::take(&mut self.line));
        let text = plain(&line);
        (!text.is_empty()).then(|| Row {
            at,
            device: Some(self.device.clone()),
            kind: Kind::Console,
            text,
            begins: None,
        })
    }
}

/// A console's line as text: without carriage returns and without what moves a terminal's cursor or colours it
/// (ECMA-48 control sequences).
pub fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.peek() == Some(&'[') => {
                // Parameter and intermediate bytes end with one of these.
                let _ = chars.by_ref().skip(1).find(|c| matches!(c, '@'..='~'));
            }
            '\u{1b}' => drop(chars.next()),
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.trim_end().to_owned()
}

/// All rows in the order of time; of one time, in the order they came.
pub fn ordered(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| row.at.boot_ns);
    rows
}

/// The rows from a step on: its number from 1, or its name. None when there is no such step.
pub fn since_step(rows: Vec<Row>, events: &[RunEvent], step: &str) -> Option<Vec<Row>> {
    let begins = events.iter().find(|event| is_step(event, step))?.at.boot_ns;
    Some(rows.into_iter().filter(|row| row.at.boot_ns >= begins).collect())
}

/// Whether with this event the step begins that has this number, from 1, or this name.
pub fn is_step(event: &RunEvent, wanted: &str) -> bool {
    matches!(&event.fact, RunFact::StepStarted { step, name } if name == wanted || (step + 1).to_string() == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Stamp {
        Stamp { boot_ns: ms * 1_000_000, wall_ms: ms }
    }

    #[test]
    fn lines_have_the_time_of_their_first_byte() {
        let mut lines = Lines::new(DeviceId::new("lab-1").unwrap());
        let mut told = Vec::new();
        for (ms, bytes) in [
            (0, "one\r\nt"),
            (10, "wo\n\n\x1b[32mthr"),
            (20, "ee\x1b[0m\n"),
            (30, "login: "),
            (5000, "root\nlast"),
        ] {
            told.extend(lines.push(at(ms), bytes.as_bytes()));
        }
        told.extend(lines.flush());
        let told: Vec<_> = told.iter().map(|row| (row.at.wall_ms, row.text.as_str())).collect();
        assert_eq!(
            told,
            [(0, "one"), (0, "two"), (10, "three"), (30, "login:"), (5000, "root"), (5000, "last")]
        );
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::new(DeviceId::new("lab-1").unwrap());
        let rows = lines.push(at(0), &vec![b'x'; 3 * MAX_LINE]);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows.iter().chain(&lines.flush()).map(|row| row.text.len()).sum::<usize>(), 3 * MAX_LINE);
    }
}
