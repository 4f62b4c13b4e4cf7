//! From arguments to a command, from its end to an exit code.

use super::args::{CheckArgs, Cli, Command, CompletionArgs};
use super::console::console;
use super::coordinator::coordinator;
use super::deploying;
use super::device::device;
use super::doctor::doctor;
use super::error::CliError;
use super::exit::Exit;
use super::image::image;
use super::lending;
use super::local::Local;
use super::login;
use super::power::power;
use super::reserve::reserve;
use super::run::run;
use super::ui::Ui;
use crate::config;
use crate::config::wiring::WiredDevice;
use crate::model::scenario::Scenario;
use crate::support::log;
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::process::ExitCode;
use tracing::Level;

/// Does what the arguments say (the first is the program's name) and answers how it ended.
pub async fn main(local: &dyn Local, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, and are no errors. A reader who left is none either.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    log::init(match cli.global.verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::DEBUG,
    });
    let ui = Ui::new(cli.global);
    let exit = dispatch(local, cli.command, ui).await.unwrap_or_else(|error| {
        ui.error(&error);
        error.exit()
    });
    exit.into()
}

async fn dispatch(local: &dyn Local, command: Command, ui: Ui) -> Result<Exit, CliError> {
    match command {
        Command::Run(args) => run(local, args, ui).await,
        Command::Coordinator(args) => coordinator(local, args, ui).await,
        Command::Devices(args) => lending::devices(local, args, ui).await,
        Command::Device(command) => device(local, command, ui).await,
        Command::Reserve(args) => reserve(local, args, ui).await,
        Command::Extend(args) => lending::extend(local, args, ui).await,
        Command::Transfer(args) => lending::transfer(local, args, ui).await,
        Command::Release(args) => lending::release(local, args, ui).await,
        Command::Queue(args) => lending::queue(local, args, ui).await,
        Command::Power(command) => power(local, command, ui).await,
        Command::Console(args) => console(local, args, ui).await,
        Command::Deploy(args) => deploying::deploy(local, args, ui).await,
        Command::Undeploy(args) => deploying::undeploy(local, args, ui).await,
        Command::Status(args) => deploying::status(local, args, ui).await,
        Command::Verify(args) => deploying::verify(local, args, ui).await,
        Command::Doctor(args) => doctor(local, args, ui).await,
        Command::Login(args) => login::make(local, args, ui).await,
        Command::Image(command) => image(local, command, ui).await,
        Command::Check(args) => check(&args, ui),
        Command::Completion(args) => completion(&args, ui),
    }
}

/// Reads all files and says everything that is wrong, not only the first thing.
fn check(args: &CheckArgs, ui: Ui) -> Result<Exit, CliError> {
    let mut exit = Exit::Ok;
    let mut wrong = |error: CliError| {
        ui.error(&error);
        exit = exit.max(error.exit());
    };
    if let Some(path) = &args.lab {
        match config::lab::load(path, None, None) {
            Ok(lab) => {
                let devices = lab.devices.len() + lab.containers.len() + lab.wired.len();
                ui.data(&format!("{}: lab {}, devices: {devices}\n", path.display(), lab.name))?;
                for wired in &lab.wired {
                    ui.data(&wiring(wired))?;
                }
            }
            Err(error) => wrong(error.into()),
        }
    }
    for name in &args.scenarios {
        match config::scenario::find(name).and_then(|path| config::scenario::load(&path)) {
            Ok(scenario) => ui.data(&described(&scenario))?,
            Err(error) => wrong(error.into()),
        }
    }
    Ok(exit)
}

/// A real device and where its wires lead, to be compared with the rack.
fn wiring(wired: &WiredDevice) -> String {
    let WiredDevice { device, console, power, .. } = wired;
    let console = console.as_ref().map_or("none".to_owned(), ToString::to_string);
    format!("{} ({}): console: {console}, power: {power}\n", device.id, device.model)
}

fn described(scenario: &Scenario) -> String {
    let Scenario { name, summary, needs, steps, .. } = scenario;
    format!("{name}: {summary} (devices: {}, steps: {})\n", needs.len(), steps.len())
}

fn completion(args: &CompletionArgs, ui: Ui) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pilab", &mut script);
    ui.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
