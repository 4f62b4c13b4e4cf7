//! `pilab replay`: shows a run again from its bundle, on its own clock. What is shown is decided in `plan::timeline`.

use super::args::{JsonArgs, ReplayArgs};
use super::bundle::find;
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::run::Interrupts;
use super::table::printable;
use super::ui::Ui;
use crate::bundle::Bundle;
use crate::model::run::RunEvent;
use crate::plan::timeline::{self, Lines, Row};
use std::time::Duration;
use tokio::time::sleep;

/// The longest pause that is waited for: a run may have stood in a queue for a night.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Shows a run again.
pub async fn replay(local: &dyn Local, args: ReplayArgs, ui: Ui) -> Result<Exit, CliError> {
    let found = find::open(local, &args.bundle, &args.login).await?;
    let (events, rows) = rows(&found.bundle, ui)?;
    let rows = match &args.from {
        Some(step) => timeline::since_step(rows, &events, step).ok_or_else(|| no_step(step, &events))?,
        None => rows,
    };
    let mut show = Show::new(&events, args.json, ui);
    let interrupts = Interrupts::listen();
    let speed = (!args.no_pause).then_some(args.speed);
    tokio::select! {
        shown = play(&rows, speed, &mut show) => shown.map(|()| Exit::Ok),
        () = interrupts.stop.cancelled() => Err(CliError::Cancelled),
    }
}

/// A run's events, and all that happened in it in order. What could not be read is told.
pub(super) fn rows(bundle: &Bundle, ui: Ui) -> Result<(Vec<RunEvent>, Vec<Row>), CliError> {
    let (events, lost) = bundle.events()?;
    if lost > 0 {
        ui.note(&format!("{lost} of the run's events cannot be read"));
    }
    if let Some(cut) = bundle.cut() {
        ui.note(&printable(&format!("the bundle is not whole: {cut}")));
    }
    let mut rows: Vec<Row> = events.iter().filter_map(timeline::row).collect();
    for device in bundle.consoles() {
        match bundle.console(&device) {
            Ok((pieces, wrong)) => {
                if let Some(error) = wrong {
                    ui.note(&printable(&format!("the console of {device} is not whole: {error}")));
                }
                let mut lines = Lines::new(device);
                for piece in pieces {
                    rows.extend(lines.push(piece.at, &piece.bytes));
                }
                rows.extend(lines.flush());
            }
            Err(error) => ui.note(&printable(&format!("no console of {device}: {error}"))),
        }
    }
    for gap in bundle.contents().gaps {
        ui.note(&printable(&format!("missing in the bundle: {}: {}", gap.path, gap.cause)));
    }
    Ok((events, timeline::ordered(rows)))
}

pub(super) fn no_step(step: &str, events: &[RunEvent]) -> CliError {
    let names = events.iter().filter_map(|event| match &event.fact {
        crate::model::run::RunFact::StepStarted { step, name } => Some(format!("{} {name:?}", step + 1)),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    let hint = if names.is_empty() {
        "no step began".to_owned()
    } else {
        format!("these began: {}", names.join(", "))
    };
    CliError::Usage { what: format!("no step {step:?} began in the run"), hint: Some(hint) }
}

async fn play(rows: &[Row], speed: Option<f64>, show: &mut Show) -> Result<(), CliError> {
    let mut before = None;
    for row in rows {
        if let (Some(speed), Some(before)) = (speed, before) {
            let was = Duration::from_nanos(row.at.boot_ns.saturating_sub(before));
            sleep(was.div_f64(speed).min(MAX_PAUSE)).await;
        }
        before = Some(row.at.boot_ns);
        show.row(row)?;
    }
    Ok(())
}

/// How rows are written: one a line, in columns that a narrow terminal and a file can hold.
pub(super) struct Show {
    ui: Ui,
    json: bool,
    /// Nanoseconds of the boot clock from which seconds count.
    zero: u64,
    /// How wide the devices' column is.
    width: usize,
}

impl Show {
    /// Time counts from the first of these events; devices are those that they name.
    pub(super) fn new(events: &[RunEvent], json: JsonArgs, ui: Ui) -> Self {
        let zero = events.first().map_or(0, |event| event.at.boot_ns);
        let devices = events.iter().filter_map(timeline::row).filter_map(|row| row.device);
        let width = devices.map(|device| device.as_str().len()).max().unwrap_or_default();
        Self { ui, json: json.json, zero, width }
    }

    /// Counts from this event, when nothing was known before.
    pub(super) fn begin(&mut self, event: &RunEvent) {
        if self.zero == 0 {
            self.zero = event.at.boot_ns;
        }
    }

    pub(super) fn row(&mut self, row: &Row) -> Result<(), CliError> {
        if self.json {
            return self.ui.json(row);
        }
        self.ui.data(&self.line(row))
    }

    fn line(&mut self, row: &Row) -> String {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a run is shorter than 100 days, which is exact to a microsecond"
        )]
        let seconds = (row.at.boot_ns as f64 - self.zero as f64) / 1e9;
        let device = row.device.as_ref().map(|device| device.as_str()).unwrap_or_default();
        self.width = self.width.max(device.len());
        let (width, kind) = (self.width, row.kind);
        format!("{seconds:>9.3}  {device:<width$}  {kind:<7}  {}\n", printable(&row.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Global;
    use crate::cli::view::fixture;

    #[test]
    fn a_run_reads_as_a_table_of_what_happened() {
        let events = fixture::panicked();
        let mut show =
            Show::new(&events, JsonArgs { json: false }, Ui::new(Global { verbose: 0, no_color: true }));
        let rows = timeline::ordered(events.iter().filter_map(timeline::row).collect());
        let text: String = rows.iter().map(|row| show.line(row)).collect();
        insta::assert_snapshot!(text);
    }
}
