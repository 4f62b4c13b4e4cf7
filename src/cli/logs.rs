//! `pilab logs`: what happened in a run, from its bundle once it has ended, and before that from its coordinator.

use super::args::{LoginArgs, LogsArgs};
use super::bundle::find;
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::follow::Follower;
use super::local::Local;
use super::login;
use super::replay::{Show, no_step, rows};
use super::run::Interrupts;
use super::ui::Ui;
use crate::bus::connect::Subscription;
use crate::model::boot::BootAttempt;
use crate::model::id::{DeviceId, RunId};
use crate::model::run::{RunEvent, RunFact};
use crate::plan::timeline::{self, Lines, Row};
use crate::wire::console::{CONSOLE_READ, ChunkKind, ConsoleFrom, ConsolePage, ConsoleRead};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;

/// Pause between two looks at what is new.
const LOOK: Duration = Duration::from_millis(500);
/// How long a coordinator may be out of reach before it is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// Shows what happened in a run.
pub async fn logs(local: &dyn Local, args: LogsArgs, ui: Ui) -> Result<Exit, CliError> {
    if let Some(path) = find::here(&args.run, &find::dirs(local, None))? {
        return from_bundle(&crate::bundle::Bundle::open(&path)?, &args, ui);
    }
    let run = RunId::new(args.run.as_str())
        .map_err(|error| CliError::Usage { what: error.to_string(), hint: None })?;
    let client = login::connect(local, &args.login).await?;
    let live = client.subscribe().await?;
    let first = client.events(&run, 0).await;
    // One that has ended, and that the coordinator remembers by its bundle alone.
    if matches!(first, Err(CliError::Refused { .. })) {
        return bundled(local, &args, ui).await;
    }
    let mut reader = Reader {
        show: Show::new(first.as_deref().unwrap_or_default(), args.json, ui),
        client,
        run,
        args: &args,
        events: Vec::new(),
        follower: Follower::default(),
        consoles: BTreeMap::new(),
        begun: args.since_step.is_none(),
        held: Vec::new(),
    };
    let interrupts = Interrupts::listen();
    tokio::select! {
        done = reader.read(live) => done,
        () = interrupts.stop.cancelled() => Ok(Exit::Ok),
    }
}

async fn bundled(local: &dyn Local, args: &LogsArgs, ui: Ui) -> Result<Exit, CliError> {
    let LoginArgs { login } = &args.login;
    let found = find::open(local, &args.run, &LoginArgs { login: login.clone() }).await?;
    from_bundle(&found.bundle, args, ui)
}

fn from_bundle(bundle: &crate::bundle::Bundle, args: &LogsArgs, ui: Ui) -> Result<Exit, CliError> {
    let (events, rows) = rows(bundle, ui)?;
    let rows = match &args.since_step {
        Some(step) => timeline::since_step(rows, &events, step).ok_or_else(|| no_step(step, &events))?,
        None => rows,
    };
    let mut show = Show::new(&events, args.json, ui);
    rows.iter().filter(|row| wanted(row, args)).try_for_each(|row| show.row(row))?;
    Ok(Exit::Ok)
}

/// Of one device: also what the run does, for that gives it its place.
fn wanted(row: &Row, args: &LogsArgs) -> bool {
    args.device.as_ref().is_none_or(|device| row.device.as_ref().is_none_or(|of| of == device))
}

/// A run that is read while it goes on.
struct Reader<'a> {
    client: Client,
    run: RunId,
    args: &'a LogsArgs,
    show: Show,
    events: Vec<RunEvent>,
    follower: Follower,
    consoles: BTreeMap<DeviceId, Console>,
    /// The step from which on is shown has begun.
    begun: bool,
    /// What was read and is not shown yet, to be put in order.
    held: Vec<Row>,
}

/// How far a device's console is read.
struct Console {
    from: ConsoleFrom,
    /// What came before belongs to whoever had the device then.
    since_ns: u64,
    attempt: BootAttempt,
    lines: Lines,
}

impl Reader<'_> {
    async fn read(&mut self, mut live: Subscription) -> Result<Exit, CliError> {
        let mut silent = Duration::ZERO;
        loop {
            match self.look().await {
                Ok(()) => silent = Duration::ZERO,
                Err(error @ CliError::Request { .. }) if self.args.follow && silent < SILENCE => {
                    tracing::debug!(%error, "no answer about the run");
                    silent += LOOK;
                }
                Err(error) => return Err(error),
            }
            let ended = self.follower.has_ended();
            if ended || !self.args.follow {
                for console in self.consoles.values_mut() {
                    self.held.extend(console.lines.flush());
                }
                self.print()?;
                if let Some(step) = self.args.since_step.as_ref().filter(|_| !self.begun) {
                    return Err(no_step(step, &self.events));
                }
                return Ok(Exit::Ok);
            }
            self.print()?;
            // Whatever is told of the run is a reason to look again; so is time, for its consoles.
            tokio::select! {
                _ = live.next() => sleep(LOOK / 10).await,
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Takes in all that is new.
    async fn look(&mut self) -> Result<(), CliError> {
        loop {
            let events = self.client.events(&self.run, self.follower.next()).await?;
            let none = events.is_empty();
            for event in events.into_iter().flat_map(|event| self.follower.offer(event)).collect::<Vec<_>>() {
                self.take(event);
            }
            if none || self.follower.has_ended() {
                break;
            }
        }
        let devices: Vec<_> = self.consoles.keys().cloned().collect();
        for device in devices {
            self.read_console(&device).await?;
        }
        Ok(())
    }

    fn take(&mut self, event: RunEvent) {
        self.show.begin(&event);
        if let RunFact::Device { device, attempt, .. } | RunFact::Stage { device, attempt, .. } = &event.fact
            && self.args.device.as_ref().is_none_or(|wanted| wanted == device)
        {
            let since_ns = event.at.boot_ns;
            self.consoles.entry(device.clone()).or_insert_with(|| Console {
                from: ConsoleFrom::Attempt(*attempt),
                since_ns,
                attempt: *attempt,
                lines: Lines::new(device.clone()),
            });
        }
        self.held.extend(timeline::row(&event));
        self.events.push(event);
    }

    async fn read_console(&mut self, device: &DeviceId) -> Result<(), CliError> {
        loop {
            let Some(console) = self.consoles.get_mut(device) else { return Ok(()) };
            let body = ConsoleRead { device: device.clone(), from: console.from };
            let page: ConsolePage = self.client.ask(CONSOLE_READ, &body).await?;
            for chunk in page.chunks {
                if chunk.attempt < console.attempt || chunk.at.boot_ns < console.since_ns {
                    continue;
                }
                match chunk.what {
                    ChunkKind::Bytes(bytes) => self.held.extend(console.lines.push(chunk.at, &bytes)),
                    // The run's events tell of it too.
                    ChunkKind::Gap(_) => {}
                }
            }
            console.from = ConsoleFrom::Offset(page.next);
            if page.end {
                return Ok(());
            }
        }
    }

    /// Shows what is held, in order, from the wanted step on.
    fn print(&mut self) -> Result<(), CliError> {
        let mut rows = timeline::ordered(std::mem::take(&mut self.held));
        if let Some(step) = self.args.since_step.as_ref().filter(|_| !self.begun) {
            let Some(event) = self.events.iter().find(|event| timeline::is_step(event, step)) else {
                return Ok(());
            };
            let begins = event.at.boot_ns;
            rows.retain(|row| row.at.boot_ns >= begins);
            self.begun = true;
        }
        rows.iter().filter(|row| wanted(row, self.args)).try_for_each(|row| self.show.row(row))
    }
}
