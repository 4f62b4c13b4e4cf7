//! `pilab schema`: what may stand in files that people write, for their editors.

use super::args::{SchemaArgs, SchemaOf};
use super::error::CliError;
use super::exit::Exit;
use super::ui::Ui;

/// Of lab files.
const LAB: &str = include_str!("../../lab/lab.schema.json");
/// Of scenarios.
const SCENARIO: &str = include_str!("../../lab/scenario.schema.json");

/// Prints a JSON Schema (draft 7, which editors of TOML read).
pub(super) fn schema(args: &SchemaArgs, ui: Ui) -> Result<Exit, CliError> {
    ui.data(match args.of {
        SchemaOf::Lab => LAB,
        SchemaOf::Scenario => SCENARIO,
    })?;
    Ok(Exit::Ok)
}
