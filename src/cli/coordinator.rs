//! `pilab coordinator`: a lab that goes on until it is told to end.

use super::args::{CoordinatorArgs, ReloadArgs};
use super::error::CliError;
use super::exit::Exit;
use super::local::{LabOptions, Local, RunningLab};
use super::login::{self, connect};
use super::progress::Screen;
use super::run::{Interrupts, check_backend};
use super::ui::Ui;
use crate::config::login::{LOGIN_VERSION, Login};
use crate::support::chain::Chain;
use crate::support::notify::Notifier;
use crate::wire::lending::{RELOAD, Reloaded};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// How long a coordinator may take to read its file and to make new devices.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the lab, tells how to reach it, and waits for a signal.
pub async fn coordinator(local: &dyn Local, args: CoordinatorArgs, ui: Ui) -> Result<Exit, CliError> {
    check_backend(&args.lab)?;
    // A terminal that is closed ends it, as it does other commands; a service manager means something else by it.
    let reloads = !std::io::stderr().is_terminal();
    let interrupts = Interrupts::listen_but(reloads);
    tokio::select! {
        done = serve(local, args, ui, &interrupts, reloads) => done,
        // Dropping the lab is what "leave at once" means: it is as if it had been killed.
        () = interrupts.leave() => Err(CliError::Cancelled),
    }
}

async fn serve(
    local: &dyn Local,
    args: CoordinatorArgs,
    ui: Ui,
    interrupts: &Interrupts,
    reloads: bool,
) -> Result<Exit, CliError> {
    let screen = Screen::new(ui);
    let standby = args.standby;
    let options = LabOptions { standby, simulate: args.simulate, ..LabOptions::new(args.lab, true) };
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
            () = on_hangup(lab.as_ref(), &screen, reloads) => {}
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

/// Reads the lab file anew at each SIGHUP. What is wrong with it is told, and the lab goes on as it is.
async fn on_hangup(lab: &dyn RunningLab, screen: &Screen, reloads: bool) {
    let hangups = signal(SignalKind::hangup()).ok().filter(|_| reloads);
    let Some(mut hangups) = hangups else { return std::future::pending().await };
    while hangups.recv().await.is_some() {
        match lab.reload().await {
            Ok(done) => reload_lines(&done).iter().for_each(|line| screen.note(line)),
            Err(error) => screen.note(&Chain(&error).to_string()),
        }
    }
    std::future::pending::<()>().await;
}

/// `pilab coordinator reload`: has the coordinator read its lab file anew.
pub async fn reload(local: &dyn Local, args: ReloadArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let done: Reloaded = client.ask_within(RELOAD, &(), RELOAD_TIMEOUT).await?;
    if args.json.json {
        ui.json(&done)?;
    } else {
        reload_lines(&done).iter().try_for_each(|line| ui.data(&format!("{line}\n")))?;
    }
    Ok(Exit::Ok)
}

fn reload_lines(done: &Reloaded) -> Vec<String> {
    let Reloaded { added, changed, removed, pending } = done;
    let parts = [
        ("new", added),
        ("changed", changed),
        ("gone", removed),
        ("changes when whoever has it gives it back", pending),
    ];
    let lines =
        parts.iter().flat_map(|(what, devices)| devices.iter().map(move |id| format!("{id}: {what}")));
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() {
        vec!["the lab file was read anew: the devices are as they were".to_owned()]
    } else {
        lines
    }
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
