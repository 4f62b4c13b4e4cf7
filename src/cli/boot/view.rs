//! A boot as its events tell it: the lines for people, and how it ends.

use crate::cli::args::Until;
use crate::cli::table::{printable, seconds};
use crate::model::boot::{BootAttempt, BootStage};
use crate::model::event::Event;
use crate::model::netboot::NetbootFact;
use crate::model::power::PowerState;
use crate::model::time::Stamp;
use crate::wire::boot::DeviceEvent;

/// How a boot ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    /// It is up: what was reached, and when after power-on.
    Up { what: &'static str, after: f64 },
    /// Its kernel panicked.
    Panicked { line: String },
    /// It is waited for no longer; whether its boot ROM stands still.
    GivenUp { cause: String, stalled: bool },
    /// It was switched off.
    SwitchedOff,
    /// Somebody has booted it anew.
    Superseded { by: BootAttempt },
}

impl End {
    /// Its name in JSON.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Up { .. } => "up",
            Self::Panicked { .. } => "panicked",
            Self::GivenUp { .. } => "given-up",
            Self::SwitchedOff => "switched-off",
            Self::Superseded { .. } => "superseded",
        }
    }
}

/// A boot so far.
#[derive(Debug)]
pub(super) struct View {
    until: Until,
    /// Its console shows nothing: the kernel on its way is the last that is seen of it.
    mute: bool,
    attempt: Option<BootAttempt>,
    power_on: Option<Stamp>,
    /// The coordinator boots it anew.
    again: bool,
    stalled: bool,
    end: Option<End>,
}

/// What is shown of an event.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    /// Seconds since power-on; none before it.
    pub(super) after: Option<f64>,
    pub(super) text: String,
}

impl Line {
    pub(super) fn plain(&self) -> String {
        match self.after {
            Some(after) => format!("{:>6} s  {}", seconds(after), self.text),
            None => format!("          {}", self.text),
        }
    }
}

impl View {
    pub(super) fn new(until: Until, mute: bool) -> Self {
        let (attempt, power_on, end) = (None, None, None);
        Self { until, mute, attempt, power_on, again: false, stalled: false, end }
    }

    /// How it ended, if it has.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Seconds since power-on.
    pub(super) fn after(&self, event: &DeviceEvent) -> Option<f64> {
        self.power_on.map(|on| event.at.seconds_since(&on))
    }

    /// Takes in the next event; answers what to show of it.
    pub(super) fn see(&mut self, event: &DeviceEvent) -> Option<Line> {
        match &event.event {
            Event::BootOffered { attempt, .. } => self.begin(*attempt),
            // Read back, it is done; the device began a moment before.
            Event::PowerIntent { state: PowerState::On, .. } if self.attempt.is_some() => {
                self.power_on = Some(event.at);
            }
            _ => {}
        }
        let current = self.attempt == Some(event.attempt);
        if current {
            self.judge(event);
        }
        // Of the attempt before only how it is ended is shown.
        let shown = current || matches!(event.event, Event::PowerDone { .. } | Event::PowerFailed { .. });
        let text = text(&event.event).filter(|_| shown)?;
        Some(Line { after: self.after(event), text: printable(&text) })
    }

    fn begin(&mut self, attempt: BootAttempt) {
        if self.attempt.is_some() && !self.again {
            self.end.get_or_insert(End::Superseded { by: attempt });
            return;
        }
        (self.attempt, self.power_on, self.again) = (Some(attempt), None, false);
    }

    fn judge(&mut self, event: &DeviceEvent) {
        let Some(after) = self.after(event) else { return };
        let end = match &event.event {
            Event::AgentAnswered { .. } => Some(End::Up { what: "agent", after }),
            Event::Stage { stage: BootStage::Panic, line, .. }
                if self.until != Until::Stage(BootStage::Panic) =>
            {
                Some(End::Panicked { line: line.clone() })
            }
            Event::Stage { stage, .. } => self.reached(*stage, after),
            Event::TicketRedeemed { .. } => self.reached(BootStage::Ticket, after),
            Event::Netboot { fact: NetbootFact::FileDone { path, .. } } if self.mute && is_kernel(path) => {
                self.reached(BootStage::Kernel, after)
            }
            Event::PowerDone { state: PowerState::Off, .. } if !self.again => Some(End::SwitchedOff),
            Event::BootStalled { again, .. } => {
                (self.again, self.stalled) = (*again, !*again);
                None
            }
            Event::BootGivenUp { cause } => {
                Some(End::GivenUp { cause: cause.clone(), stalled: self.stalled })
            }
            _ => None,
        };
        self.end = self.end.take().or(end);
    }

    fn reached(&self, stage: BootStage, after: f64) -> Option<End> {
        let Until::Stage(until) = self.until else { return None };
        let is = stage == until;
        let later = stage > until && !stage.is_trouble() && stage != BootStage::Restart;
        (is || later).then(|| End::Up { what: stage.name(), after })
    }
}

/// What kernels are called in a boot tree.
fn is_kernel(path: &str) -> bool {
    ["vmlinuz", "kernel", "Image"].iter().any(|start| path.starts_with(start))
}

/// What people see of an event.
fn text(event: &Event) -> Option<String> {
    match event {
        Event::PowerDone { state, .. } => Some(format!("power {state}")),
        Event::PowerFailed { state, cause } => Some(format!("power not {state}: {cause}")),
        Event::BootOffered { attempt, image } => {
            let image = image.get(..12).filter(|_| image.len() == 64).unwrap_or(image);
            Some(format!("boot attempt {attempt}: {image}"))
        }
        Event::Netboot { fact } => match fact {
            NetbootFact::FileAsked { .. }
            | NetbootFact::FileProbed { .. }
            | NetbootFact::FileMissing { .. } => None,
            NetbootFact::FileDone { .. }
            | NetbootFact::FileStalled { .. }
            | NetbootFact::FileAborted { .. }
            | NetbootFact::FileRefused { .. } => Some(format!("file: {fact}")),
            NetbootFact::Layer { .. } => Some(fact.to_string()),
            fact => Some(format!("DHCP: {fact}")),
        },
        Event::Stage { stage, line, boot, .. } => {
            let again = if *boot > 1 { format!(", boot {boot}") } else { String::new() };
            let shows = stage.is_trouble() || *stage == BootStage::Bootloader;
            Some(if shows { format!("{stage}{again}: {line}") } else { format!("{stage}{again}") })
        }
        Event::TicketRedeemed { address } => Some(format!("ticket exchanged by {address}")),
        Event::TicketRefused { address, cause } => Some(format!("ticket refused to {address}: {cause}")),
        Event::AgentAnswered { version, .. } => Some(format!("agent {version} answered")),
        Event::BootStalled { at, again, .. } => {
            let cure = if *again { "; it is switched off and on again" } else { "" };
            Some(format!("it stands still: {at}{cure}"))
        }
        Event::ConsoleGap { cause, .. } => Some(format!("console gap: {cause}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::FencingToken;
    use crate::model::power::PowerReading;

    fn event(at_ms: u64, attempt: u64, event: Event) -> DeviceEvent {
        let at = Stamp { boot_ns: at_ms * 1_000_000, wall_ms: at_ms };
        DeviceEvent { at, attempt: BootAttempt(attempt), event }
    }

    fn power(state: PowerState) -> Event {
        Event::PowerDone { state, reading: PowerReading::from(state) }
    }

    fn intent() -> Event {
        let token = FencingToken { epoch: 1, sequence: 1 };
        Event::PowerIntent { state: PowerState::On, token }
    }

    fn offered(attempt: u64) -> Event {
        Event::BootOffered { attempt: BootAttempt(attempt), image: "0123456789ab".repeat(6)[..64].to_owned() }
    }

    fn stage(stage: BootStage) -> Event {
        Event::Stage { stage, line: "Linux version 6.12".to_owned(), offset: 0, boot: 1 }
    }

    fn file(path: &str) -> Event {
        Event::Netboot {
            fact: NetbootFact::FileDone { path: path.to_owned(), bytes: 38_000_000, took: 12.25 },
        }
    }

    fn agent() -> Event {
        Event::AgentAnswered { version: "0.1.0".to_owned(), sha256: String::new() }
    }

    fn show(until: Until, mute: bool, events: &[DeviceEvent]) -> (String, Option<End>) {
        let mut view = View::new(until, mute);
        let lines: Vec<_> =
            events.iter().filter_map(|event| view.see(event)).map(|line| line.plain()).collect();
        (lines.join("\n"), view.end().cloned())
    }

    #[test]
    fn a_boot_is_told_line_by_line_from_power_on() {
        let netboot = |fact| Event::Netboot { fact };
        let events = [
            event(900, 1, stage(BootStage::Login)),
            event(1_000, 1, power(PowerState::Off)),
            event(6_000, 2, offered(2)),
            event(6_500, 2, intent()),
            event(6_600, 2, power(PowerState::On)),
            event(10_600, 2, netboot(NetbootFact::Discovered { boots: true })),
            event(10_700, 2, netboot(NetbootFact::Acknowledged { address: [10, 77, 0, 11].into() })),
            event(10_800, 2, netboot(NetbootFact::FileMissing { path: "pieeprom.sig".to_owned() })),
            event(23_100, 2, file("vmlinuz")),
            event(24_000, 2, stage(BootStage::Kernel)),
            event(26_000, 2, Event::TicketRedeemed { address: "10.77.0.11".to_owned() }),
            event(27_000, 2, netboot(NetbootFact::Layer { sha256: String::new(), sent: 5, bytes: 10 })),
            event(40_000, 2, agent()),
        ];
        let (lines, end) = show(Until::Agent, false, &events);
        insta::assert_snapshot!(lines, @r"
                  power off
                  boot attempt 2: 0123456789ab
           0.1 s  power on
           4.1 s  DHCP: the boot ROM asks for an address
           4.2 s  DHCP: has 10.77.0.11
          16.6 s  file: vmlinuz, 38000000 bytes in 12.2 s
          17.5 s  kernel
          19.5 s  ticket exchanged by 10.77.0.11
          20.5 s  root filesystem, 50 % of 10 bytes
          33.5 s  agent 0.1.0 answered
        ");
        assert_eq!(end, Some(End::Up { what: "agent", after: 33.5 }));
    }

    #[test]
    fn a_boot_ends_in_one_way() {
        let up = |what| Some(End::Up { what, after: 1.0 });
        let kernel = Until::Stage(BootStage::Kernel);
        let stalled = |again| Event::BootStalled { at: "x".to_owned(), hint: "y".to_owned(), again };
        let given_up = Event::BootGivenUp { cause: "x".to_owned() };
        let panic = stage(BootStage::Panic);
        let table = [
            (kernel, false, vec![stage(BootStage::Kernel)], up("kernel")),
            (kernel, false, vec![stage(BootStage::Systemd)], up("systemd")),
            (kernel, false, vec![stage(BootStage::Firmware), stage(BootStage::UnderVoltage)], None),
            (kernel, false, vec![file("kernel8.img")], None),
            (kernel, true, vec![file("start4.elf")], None),
            (kernel, true, vec![file("kernel8.img")], up("kernel")),
            (Until::Agent, false, vec![stage(BootStage::Login)], None),
            (
                Until::Agent,
                false,
                vec![panic.clone()],
                Some(End::Panicked { line: "Linux version 6.12".to_owned() }),
            ),
            (Until::Stage(BootStage::Panic), false, vec![panic], up("panic")),
            (Until::Agent, false, vec![power(PowerState::Off)], Some(End::SwitchedOff)),
            (
                Until::Agent,
                false,
                vec![given_up.clone()],
                Some(End::GivenUp { cause: "x".to_owned(), stalled: false }),
            ),
            (
                Until::Agent,
                false,
                vec![stalled(false), given_up],
                Some(End::GivenUp { cause: "x".to_owned(), stalled: true }),
            ),
            (Until::Agent, false, vec![offered(2)], Some(End::Superseded { by: BootAttempt(2) })),
            (Until::Agent, false, vec![stalled(true), power(PowerState::Off), offered(2)], None),
        ];
        for (until, mute, then, expected) in table {
            let begun = [event(0, 1, offered(1)), event(0, 1, intent())];
            let then = then.into_iter().map(|what| event(1_000, 1, what));
            let events: Vec<_> = begun.into_iter().chain(then).collect();
            assert_eq!(show(until, mute, &events).1, expected, "{events:?}");
        }
    }
}
