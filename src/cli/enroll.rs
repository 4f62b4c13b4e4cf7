//! `pilab device enroll`: what boards are wired to, shown and written into the lab file.

use super::args::EnrollArgs;
use super::error::CliError;
use super::exit::Exit;
use super::local::{EnrollOptions, Local};
use super::progress::Screen;
use super::run::Interrupts;
use super::table::{Align, columns};
use super::ui::Ui;
use crate::config::lab;
use crate::plan::enroll::Enrolled;
use crate::support::atomic_file;
use serde_json::json;
use std::path::Path;
use toml_edit::{DocumentMut, InlineTable, Item, Table, value};

/// Looks at the boards, tells what each is wired to, and writes it down where that is asked for.
pub async fn enroll(local: &dyn Local, args: EnrollArgs, ui: Ui) -> Result<Exit, CliError> {
    let interrupts = Interrupts::listen();
    let EnrollArgs { devices, lab, ttys, baud, within, write, json } = args;
    let options = EnrollOptions { lab: lab.clone(), devices, ttys, baud, within };
    let screen = Screen::new(ui);
    let found = tokio::select! {
        found = local.enroll(options, screen.local(), interrupts.stop.clone()) => found?,
        () = interrupts.leave() => {
            ui.note("a board may be on: run this again, or a coordinator, and it is switched off");
            return Err(CliError::Cancelled);
        }
    };
    drop(screen);
    if json.json {
        for board in &found {
            ui.json(&described(board))?;
        }
    } else {
        ui.data(&table(&found))?;
    }
    if write {
        let text = std::fs::read_to_string(&lab).map_err(|e| cannot("read", &lab, e))?;
        let name = lab::load(&lab, None, None)?.name;
        let written = entered(&text, name.as_str(), baud, &found).map_err(|e| cannot("change", &lab, e))?;
        atomic_file::rewrite(&lab, written.as_bytes()).map_err(|e| cannot("write", &lab, e))?;
        ui.note(&format!("written to {}; `pilab check --lab` reads it", lab.display()));
    }
    Ok(if found.iter().all(|board| board.doubts.is_empty()) { Exit::Ok } else { Exit::Device })
}

fn cannot(what: &str, file: &Path, error: impl Into<super::error::Source>) -> CliError {
    CliError::Local { doing: format!("{what} {}", file.display()), source: error.into(), hint: None }
}

fn serial(board: &Enrolled) -> Option<String> {
    board.serial.map(|serial| format!("{serial:08x}"))
}

fn described(board: &Enrolled) -> serde_json::Value {
    let doubts: Vec<String> = board.doubts.iter().map(ToString::to_string).collect();
    json!({
        "device": board.device, "mac": board.mac, "serial": serial(board), "console": board.line, "doubts": doubts,
    })
}

fn table(found: &[Enrolled]) -> String {
    let mut rows = vec![["device", "mac", "serial", "console"].map(str::to_owned).to_vec()];
    let told = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
    rows.extend(found.iter().map(|board| {
        vec![board.device.to_string(), told(board.mac.clone()), told(serial(board)), told(board.line.clone())]
    }));
    let mut text = columns(&rows, &[Align::Left; 4], 0);
    for board in found {
        for doubt in &board.doubts {
            text.push_str(&format!("{}: {doubt}\n", board.device));
        }
    }
    text
}

/// The lab file with what was found in it. All else in it stays as it is.
fn entered(text: &str, lab: &str, baud: u32, found: &[Enrolled]) -> Result<String, toml_edit::TomlError> {
    let mut document: DocumentMut = text.parse()?;
    let tables = document.get_mut("devices").and_then(Item::as_array_of_tables_mut);
    for table in tables.into_iter().flat_map(|tables| tables.iter_mut()) {
        let id = table.get("id").and_then(Item::as_str).map(|id| format!("{lab}-{id}"));
        if let Some(board) = found.iter().find(|board| Some(board.device.as_str()) == id.as_deref()) {
            enter(table, baud, board);
        }
    }
    Ok(document.to_string())
}

fn enter(table: &mut Table, baud: u32, board: &Enrolled) {
    if let Some(mac) = &board.mac {
        table["mac"] = value(mac);
    }
    if let Some(serial) = serial(board) {
        table["serial"] = value(serial);
    }
    if let Some(line) = &board.line {
        let mut console = InlineTable::new();
        console.insert("tty", line.into());
        console.insert("baud", i64::from(baud).into());
        table["console"] = value(console);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::DeviceId;
    use crate::plan::enroll::Doubt;

    const LAB: &str = "# Ours.\nname = \"rack\"\n\n[[devices]]\nid = \"pi-1\"   # the left one\nmodel = \"pi4b\"\nmac = \"dc:a6:32:00:00:09\"\n\n\
        [[devices]]\nid = \"pi-2\"\nmodel = \"pi5\"\n";

    fn board(id: &str, mac: Option<&str>, line: Option<&str>, doubts: Vec<Doubt>) -> Enrolled {
        Enrolled {
            device: DeviceId::new(id).unwrap(),
            mac: mac.map(str::to_owned),
            serial: mac.map(|_| 0x1f),
            line: line.map(str::to_owned),
            doubts,
        }
    }

    #[test]
    fn what_was_found_goes_into_the_file_and_the_rest_of_it_stays() {
        let found = [
            board("rack-pi-1", Some("dc:a6:32:00:00:01"), Some("/dev/serial/by-path/x"), Vec::new()),
            board("rack-pi-2", None, None, vec![Doubt::NoCard]),
        ];
        insta::assert_snapshot!(entered(LAB, "rack", 115_200, &found).unwrap(), @r#"
        # Ours.
        name = "rack"

        [[devices]]
        id = "pi-1"   # the left one
        model = "pi4b"
        mac = "dc:a6:32:00:00:01"
        serial = "0000001f"
        console = { tty = "/dev/serial/by-path/x", baud = 115200 }

        [[devices]]
        id = "pi-2"
        model = "pi5"
        "#);
        insta::assert_snapshot!(table(&found), @"
        device     mac                serial    console
        rack-pi-1  dc:a6:32:00:00:01  0000001f  /dev/serial/by-path/x
        rack-pi-2  ?                  ?         ?
        rack-pi-2: no card asked for an address: its supply, its relay, its cable, BOOT_ORDER without network
        ");
    }
}
