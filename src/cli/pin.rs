//! `pilab pin`: tries a relay by hand, without a lab.

use super::args::{PinCommand, PinHoldArgs, PinLookArgs};
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::run::Interrupts;
use super::ui::Ui;
use crate::config::wiring::kernel_keeps;
use crate::model::relay::{GpioPin, Level, OnCrash, PinState};

/// Does one of the commands on pins.
pub async fn pin(local: &dyn Local, command: PinCommand, ui: Ui) -> Result<Exit, CliError> {
    match command {
        PinCommand::Look(args) => look(local, args, ui),
        PinCommand::Hold(args) => hold(local, args, ui).await,
    }
}

fn look(local: &dyn Local, args: PinLookArgs, ui: Ui) -> Result<Exit, CliError> {
    let pin = GpioPin::from(args.pin);
    let state = local.pin_look(&pin)?;
    if args.json.json {
        ui.json(&state)?;
    } else {
        ui.data(&format!("pin {}: {}\n", pin.number, described(&state)))?;
    }
    Ok(Exit::Ok)
}

fn described(state: &PinState) -> String {
    let direction = if state.output { "output" } else { "input" };
    let level = match state.level {
        Some(level) => level.to_string(),
        None => "level unknown (to read it would take it)".to_owned(),
    };
    let user = state.user.as_ref().map(|user| format!(", in use by {user:?}")).unwrap_or_default();
    format!("{direction}, {level}{user}")
}

async fn hold(local: &dyn Local, args: PinHoldArgs, ui: Ui) -> Result<Exit, CliError> {
    let interrupts = Interrupts::listen();
    let pin = GpioPin::from(args.pin);
    let (level, held) = local.pin_hold(&pin, args.level.map(Level::from))?;
    ui.data(&format!("pin {}: output, {level}\n", pin.number))?;
    let after = match pin.driver.on_crash(kernel_keeps()) {
        OnCrash::Holds => "it stays so afterwards",
        OnCrash::Releases => "it is an input afterwards",
    };
    ui.note(&format!("held until Ctrl-C; {after}"));
    interrupts.stop.cancelled().await;
    drop(held);
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_told_in_a_line() {
        let state = |output, level, user: Option<&str>| {
            described(&PinState { output, level, user: user.map(str::to_owned) })
        };
        assert_eq!(state(false, Some(Level::Low), None), "input, low");
        assert_eq!(
            state(true, None, Some("pilab")),
            "output, level unknown (to read it would take it), in use by \"pilab\""
        );
    }
}
