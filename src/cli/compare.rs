//! `pilab compare`: in what two runs differ. Decided in `plan::compare`.

use super::args::CompareArgs;
use super::bundle::find::{self, Found};
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::table::{Align, columns, printable, seconds};
use super::ui::Ui;
use crate::bundle::MAX_HELD;
use crate::model::id::DeviceId;
use crate::model::run::RunEvent;
use crate::plan::compare::{Change, Comparison, Side, compare as differences};
use std::collections::BTreeMap;

struct Run {
    events: Vec<RunEvent>,
    consoles: BTreeMap<DeviceId, Vec<u8>>,
}

impl Run {
    fn side(&self) -> Side<'_> {
        Side { events: &self.events, consoles: &self.consoles }
    }
}

/// Compares two runs. The exit code is 1 when they differ in what was run, what came of it, or the way there.
pub async fn compare(local: &dyn Local, args: CompareArgs, ui: Ui) -> Result<Exit, CliError> {
    let (before, after) = (
        find::open(local, &args.before, &args.login).await?,
        find::open(local, &args.after, &args.login).await?,
    );
    let (before, after) = (read(&before, ui)?, read(&after, ui)?);
    let found = differences(before.side(), after.side());
    if args.json.json {
        ui.json(&found)?;
    } else {
        ui.data(&text(&found))?;
    }
    Ok(if found.differs() { Exit::Failed } else { Exit::Ok })
}

fn read(found: &Found, ui: Ui) -> Result<Run, CliError> {
    let bundle = &found.bundle;
    let (events, lost) = bundle.events()?;
    let words = bundle.path().display().to_string();
    if let Some(cut) = bundle.cut() {
        ui.note(&printable(&format!("{words} is not whole: {cut}")));
    }
    if lost > 0 {
        ui.note(&format!("{words}: {lost} of the run's events cannot be read"));
    }
    let mut consoles = BTreeMap::new();
    for device in bundle.consoles() {
        match bundle.read(&format!("console/{device}.log"), MAX_HELD) {
            Ok((console, wrong)) => {
                if let Some(error) = wrong {
                    ui.note(&printable(&format!("the console of {device} is not whole: {error}")));
                }
                consoles.insert(device, console);
            }
            Err(error) => ui.note(&printable(&format!("no console of {device}: {error}"))),
        }
    }
    Ok(Run { events, consoles })
}

/// The differences for people.
fn text(found: &Comparison) -> String {
    let mut text = String::new();
    let parts = [
        ("run", &found.run),
        ("steps", &found.steps),
        ("boot stages", &found.stages),
        ("phases", &found.phases),
    ];
    for (name, changes) in parts.into_iter().filter(|(_, changes)| !changes.is_empty()) {
        text += &format!("{name}\n");
        let word =
            |value: &Option<String>| value.as_ref().map_or_else(|| "-".to_owned(), |value| printable(value));
        let row = |change: &Change| vec![printable(&change.what), word(&change.before), word(&change.after)];
        let rows: Vec<_> = changes.iter().map(row).collect();
        text += &columns(&rows, &[Align::Left; 3], 2);
    }
    let timings: Vec<_> = found
        .timings
        .iter()
        .map(|timing| {
            let mark = match timing.notable {
                true if timing.after > timing.before => "slower",
                true => "faster",
                false => "",
            };
            vec![printable(&timing.what), seconds(timing.before), seconds(timing.after), mark.to_owned()]
        })
        .collect();
    if !timings.is_empty() {
        text += "seconds\n";
        text += &columns(&timings, &[Align::Left, Align::Right, Align::Right, Align::Left], 2);
    }
    for console in &found.consoles {
        text += &format!("console of {}: {} lines are the same\n", printable(&console.role), console.same);
        let lines =
            console.gone.iter().map(|line| ('-', line)).chain(console.new.iter().map(|line| ('+', line)));
        for (mark, line) in lines {
            text += &format!("  {mark} {}\n", printable(line));
        }
        if console.more > 0 {
            text += &format!("  and {} more\n", console.more);
        }
    }
    text + if found.differs() { "they differ\n" } else { "they are the same, but for times and consoles\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::fixture;

    #[test]
    fn a_comparison_reads_from_what_matters_to_what_does_not() {
        let device = DeviceId::new("laptop-vm-1").unwrap();
        let console = |text: &str| [(device.clone(), text.as_bytes().to_vec())].into();
        let before =
            Run { events: fixture::passed(), consoles: console("[ 0.1] Linux 6.1.0\nsshd[7]: up\n") };
        let after = Run {
            events: fixture::panicked(),
            consoles: console("[ 0.3] Linux 6.1.0\nKernel panic\x1b[0m\n"),
        };
        insta::assert_snapshot!(text(&differences(before.side(), after.side())));
    }
}
