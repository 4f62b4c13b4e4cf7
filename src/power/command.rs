//! A switch that is a program.

use super::error::PowerError;
use super::reading::Reader;
use crate::model::power::{PowerReading, PowerState};
use crate::model::wiring::CommandSwitch;
use crate::support::command::Command;

/// The most bytes that a program may write.
const OUTPUT: u64 = 64 * 1024;

pub(super) struct CommandDriver {
    on: Command,
    off: Command,
    get: Option<(Command, Reader)>,
}

impl CommandDriver {
    pub(super) fn new(switch: CommandSwitch) -> Result<Self, PowerError> {
        let command = |argv: Vec<String>| {
            let mut argv = argv.into_iter();
            let program = argv.next().ok_or_else(|| PowerError::Description {
                what: "command",
                source: "it names no program".into(),
            })?;
            // Ctrl-C on a terminal must not leave a switch half told.
            Ok(Command::new(program).args(argv).timeout(switch.timeout).limit(OUTPUT).own_group())
        };
        let get = match switch.get {
            Some((argv, read)) => Some((command(argv)?, Reader::new(read)?)),
            None => None,
        };
        Ok(Self { on: command(switch.on)?, off: command(switch.off)?, get })
    }

    pub(super) async fn set(&self, state: PowerState) -> Result<(), PowerError> {
        let command = match state {
            PowerState::On => &self.on,
            PowerState::Off => &self.off,
        };
        command.output().await.map(|_| ()).map_err(PowerError::Command)
    }

    pub(super) async fn get(&self) -> Result<PowerReading, PowerError> {
        let Some((command, reader)) = &self.get else { return Ok(PowerReading::Unknown) };
        let output = command.output().await.map_err(PowerError::Command)?;
        Ok(reader.read(&String::from_utf8_lossy(&output)))
    }
}
