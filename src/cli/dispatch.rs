//! From arguments to a command, from its end to an exit code.

use super::args::{Cli, Command, CompletionArgs, CoordinatorArgs, CoordinatorCommand};
use super::boot::boot;
use super::bundle::verbs::bundle;
use super::check::check;
use super::compare::compare;
use super::console::console;
use super::coordinator::{coordinator, reload};
use super::deploying;
use super::deployments;
use super::device::device;
use super::doctor::doctor;
use super::error::CliError;
use super::exit::Exit;
use super::forward::forward;
use super::image::image;
use super::lending;
use super::local::Local;
use super::login;
use super::logs::logs;
use super::nats::nats;
use super::nightly::nightly;
use super::pin::pin;
use super::power::power;
use super::replay::replay;
use super::reserve::reserve;
use super::run::run;
use super::schema::schema;
use super::ssh;
use super::ui::Ui;
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
        Command::Coordinator(CoordinatorArgs { command: Some(CoordinatorCommand::Reload(args)), .. }) => {
            reload(local, args, ui).await
        }
        Command::Coordinator(args) => coordinator(local, args, ui).await,
        Command::Devices(args) => lending::devices(local, args, ui).await,
        Command::Device(command) => device(local, command, ui).await,
        Command::Reserve(args) => reserve(local, args, ui).await,
        Command::Extend(args) => lending::extend(local, args, ui).await,
        Command::Transfer(args) => lending::transfer(local, args, ui).await,
        Command::Release(args) => lending::release(local, args, ui).await,
        Command::Queue(args) => lending::queue(local, args, ui).await,
        Command::Power(command) => power(local, command, ui).await,
        Command::Boot(args) => boot(local, args, ui).await,
        Command::Pin(command) => pin(local, command, ui).await,
        Command::Console(args) => console(local, args, ui).await,
        Command::Ssh(args) => ssh::ssh(local, args, ui).await,
        Command::Put(args) => ssh::put(local, args, ui).await,
        Command::Get(args) => ssh::get(local, args, ui).await,
        Command::Forward(args) => forward(local, args, ui).await,
        Command::Deploy(args) => deploying::deploy(local, args, ui).await,
        Command::Undeploy(args) => deploying::undeploy(local, args, ui).await,
        Command::Apply(args) => deployments::apply(local, args, ui).await,
        Command::Withdraw(args) => deployments::withdraw(local, args, ui).await,
        Command::Deployments(args) => deployments::list(local, args, ui).await,
        Command::Status(args) => deploying::status(local, args, ui).await,
        Command::Verify(args) => deploying::verify(local, args, ui).await,
        Command::Doctor(args) => doctor(local, args, ui).await,
        Command::Nightly(command) => nightly(local, command, ui).await,
        Command::Bundle(command) => bundle(local, command, ui).await,
        Command::Replay(args) => replay(local, args, ui).await,
        Command::Logs(args) => logs(local, args, ui).await,
        Command::Compare(args) => compare(local, args, ui).await,
        Command::Nats(command) => nats(command, ui).await,
        Command::Login(args) => login::make(local, args, ui).await,
        Command::Logout(args) => login::revoke(local, args, ui).await,
        Command::Image(command) => image(local, command, ui).await,
        Command::Check(args) => check(&args, ui),
        Command::Schema(args) => schema(&args, ui),
        Command::Completion(args) => completion(&args, ui),
    }
}

fn completion(args: &CompletionArgs, ui: Ui) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pilab", &mut script);
    ui.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
