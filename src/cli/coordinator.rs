//! `pilab coordinator`: a lab that goes on until it is told to end.

use super::args::CoordinatorArgs;
use super::error::CliError;
use super::exit::Exit;
use super::local::{LabOptions, Local, RunningLab};
use super::login;
use super::progress::Screen;
use super::run::{Interrupts, check_backend};
use super::ui::Ui;
use crate::config::login::{LOGIN_VERSION, Login};
use crate::support::notify::Notifier;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Starts the lab, tells how to reach it, and waits for a signal.
pub async fn coordinator(local: &dyn Local, args: CoordinatorArgs, ui: Ui) -> Result<Exit, CliError> {
    check_backend(&args.lab)?;
    let interrupts = Interrupts::listen();
    tokio::select! {
        done = serve(local, args, ui, &interrupts) => done,
        // Dropping the lab is what "leave at once" means: it is as if it had been killed.
        () = interrupts.leave() => Err(CliError::Cancelled),
    }
}

async fn serve(
    local: &dyn Local,
    args: CoordinatorArgs,
    ui: Ui,
    interrupts: &Interrupts,
) -> Result<Exit, CliError> {
    let screen = Screen::new(ui);
    let standby = args.standby;
    let options = LabOptions { standby, ..LabOptions::new(args.lab, true) };
    let notifier = Notifier::from_env();
    // Whoever stands by does so for months: that it does is what the service manager waits for.
    if let Some(notifier) = notifier.as_ref().filter(|_| standby) {
        notifier.ready();
        notifier.status("standing by");
    }
    let lab = tokio::select! {
        lab = local.start_lab(options, screen.local(), interrupts.stop.clone()) => lab?,
        () = alive(notifier.as_ref().filter(|_| standby)) => return Err(CliError::Cancelled),
    };
    let announced = announce(lab.as_ref(), &screen);
    let mut served = Ok(());
    if announced.is_ok() {
        if let Some(notifier) = &notifier {
            notifier.ready();
            notifier.status(&format!("lab {} at {}", lab.lab(), lab.url()));
        }
        tokio::select! {
            () = interrupts.stop.cancelled() => {}
            () = alive(notifier.as_ref()) => {}
            // Started again, it stands by.
            () = lab.lost(), if standby => {
                served = Err(CliError::local("go on as the lab's coordinator", "another one has taken the lab"));
            }
        }
        if let Some(notifier) = &notifier {
            notifier.stopping();
        }
        screen.note("ending; once more to leave at once");
    }
    let ended = lab.shutdown().await;
    announced.and(served).and(ended).map(|()| Exit::Ok)
}

fn announce(lab: &dyn RunningLab, screen: &Screen) -> Result<(), CliError> {
    let login = Login {
        version: LOGIN_VERSION,
        lab: lab.lab().clone(),
        user: lab.user().clone(),
        url: lab.url().to_owned(),
        creds: lab.creds().to_owned(),
        tls: lab.tls().cloned(),
    };
    let Some(path) = lab.login() else { return Ok(()) };
    login::write(&login, path)?;
    screen.note(&format!("lab {} is up at {}; you are {}", login.lab, login.url, login.user));
    screen.note(&format!("login: {}", path.display()));
    Ok(())
}

/// Signs of life for the service manager, twice as often as it asks for (sd_watchdog_enabled(3)). They come from the
/// runtime that all of the coordinator runs on: one that hangs sends none.
async fn alive(notifier: Option<&Notifier>) {
    let bound = notifier.and_then(Notifier::watchdog);
    let (Some(notifier), Some(bound)) = (notifier, bound) else { return std::future::pending().await };
    let mut ticks = interval((bound / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        notifier.alive();
    }
}
