//! `pilab device setup`: the agent put on a device that boots from its own card, and taken off it again.
//!
//! Shown first, asked, then done under a lease, so that nobody works on the device meanwhile. Whether it has worked is seen
//! as at any start of the device: it is given credentials and its agent must answer.

use super::args::SetupArgs;
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::local::{LabOptions, Local, SetUp, SetupOptions, ShownKey};
use super::login::connect_here;
use super::progress::Screen;
use super::reserve::{beat, borrow, withdraw};
use super::run::Interrupts;
use super::table::printable;
use super::ui::Ui;
use crate::config::lab;
use crate::model::device::Backend;
use crate::model::event::Event;
use crate::model::id::DeviceId;
use crate::model::lease::Purpose;
use crate::wire::boot::{BOOT, Boot, BootBegun, BootWhat, EVENTS_OF, EventsOf, EventsOfPage};
use serde_json::json;
use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the embedded lab's server may take to let us in.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may be held back for an event.
const WAIT: Duration = Duration::from_secs(4);
/// Pause before what was not answered is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Sets a device up, or takes that back.
pub(super) async fn setup(local: &dyn Local, args: SetupArgs, ui: Ui) -> Result<Exit, CliError> {
    let interrupts = Interrupts::listen();
    let options = SetupOptions {
        lab: args.lab.clone(),
        device: args.device.clone(),
        address: args.address,
        port: args.port,
        user: args.user.clone(),
        identity: args.identity.clone(),
        agent: args.agent.clone(),
        install_podman: args.install_podman,
        remove: args.remove,
    };
    let done = Box::pin(steps(local, &options, &args, ui, &interrupts));
    tokio::select! {
        done = done => done,
        () = interrupts.leave() => Err(CliError::Cancelled),
    }
}

async fn steps(
    local: &dyn Local,
    options: &SetupOptions,
    args: &SetupArgs,
    ui: Ui,
    interrupts: &Interrupts,
) -> Result<Exit, CliError> {
    let key = local.host_key(options).await?;
    trust(&key, args, ui).await?;
    let screen = Screen::new(ui);
    let found = local.set_up(options, &key, screen.local()).await?;
    drop(screen);
    show(&*found, &key, args, ui)?;
    let changes = !found.plan().changes.is_empty();
    if args.dry_run {
        return Ok(Exit::Ok);
    }
    if changes && !args.yes {
        ask(&format!("change {}?", args.device), "--yes does it without asking, --dry-run only shows", ui)
            .await?;
    }
    let name = lab::load(&args.lab, None, None)?.name;
    let done = if let Some(client) = connect_here(local, &name).await? {
        under_lease(&client, &*found, args, ui, interrupts).await
    } else {
        let lab = LabOptions {
            lab: args.lab.clone(),
            on: Some(Backend::Pi),
            arch: None,
            image: None,
            lasting: false,
            simulate: false,
            standby: false,
        };
        let screen = Screen::new(ui);
        let lab = local.start_lab(lab, screen.local(), interrupts.stop.clone()).await?;
        drop(screen);
        let client = Client::connect(lab.url(), lab.creds(), lab.lab(), lab.user(), START_PATIENCE).await;
        let done = match client {
            Ok(client) => under_lease(&client, &*found, args, ui, interrupts).await,
            Err(error) => Err(error),
        };
        let ended = lab.shutdown().await;
        done.and_then(|done| ended.map(|()| done))
    };
    conclude(done?, changes, args, ui)
}

/// Whether the host key is the device's: its owner has said so before, or says so now.
async fn trust(key: &ShownKey, args: &SetupArgs, ui: Ui) -> Result<(), CliError> {
    let ShownKey { fingerprint, pinned, .. } = key;
    if let Some(expected) = args.fingerprint.as_ref().filter(|expected| *expected != fingerprint) {
        let what = format!("{} shows the host key {fingerprint}, not {expected}", args.device);
        let hint = Some("another machine has its address, or somebody is on the way".to_owned());
        return Err(CliError::Usage { what, hint });
    }
    if *pinned || args.fingerprint.is_some() {
        return Ok(());
    }
    ui.note(&format!("{} shows the host key {fingerprint}", args.device));
    if args.accept_host_key {
        return Ok(());
    }
    let hint = "compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device, then name it: --fingerprint";
    ask("is that the device's?", hint, ui).await
}

/// A question that only a person at a terminal can answer.
async fn ask(question: &str, hint: &str, ui: Ui) -> Result<(), CliError> {
    let hinted = |what: &str| CliError::Usage { what: what.to_owned(), hint: Some(hint.to_owned()) };
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(hinted(&format!("{question} There is nobody to ask")));
    }
    ui.note(&format!("{question} [y/N]"));
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = read.await.map_err(io::Error::from).and_then(|read| read);
    let line = line.map_err(|e| CliError::local("read the answer", e))?;
    if ["y", "yes"].contains(&line.trim().to_lowercase().as_str()) {
        Ok(())
    } else {
        Err(hinted("left as it is"))
    }
}

fn show(found: &dyn SetUp, key: &ShownKey, args: &SetupArgs, ui: Ui) -> Result<(), CliError> {
    let plan = found.plan();
    if args.json.json {
        return ui.json(&json!({
            "device": args.device, "os": found.os(), "host_key": key.fingerprint,
            "changes": plan.changes, "notes": plan.notes,
        }));
    }
    let mut text = format!("{} ({})\n", args.device, printable(found.os()));
    for change in &plan.changes {
        // Writing to a text does not fail.
        let _ = writeln!(text, "{}", printable(&change.to_string()));
    }
    if plan.changes.is_empty() {
        text.push_str("nothing to change\n");
    }
    ui.data(&text)?;
    plan.notes.iter().for_each(|note| ui.hint(note));
    Ok(())
}

/// Nobody else has the device meanwhile.
async fn under_lease(
    client: &Client,
    found: &dyn SetUp,
    args: &SetupArgs,
    ui: Ui,
    interrupts: &Interrupts,
) -> Result<Option<String>, CliError> {
    let purpose = if args.remove { "the agent is taken off" } else { "the agent is set up" };
    let purpose = Purpose::new(purpose).unwrap_or_default();
    let lease = tokio::select! {
        lease = borrow(client, &args.device, purpose, ui) => lease?,
        () = interrupts.stop.cancelled() => return Err(CliError::Cancelled),
    };
    let act = async {
        found.apply().await?;
        if args.remove { Ok(None) } else { verify(client, found, args).await.map(Some) }
    };
    let done = tokio::select! {
        done = act => done,
        () = beat(client, &lease) => Err(CliError::Cancelled),
        () = interrupts.stop.cancelled() => Err(CliError::Cancelled),
    };
    let released = withdraw(client, &lease).await;
    done.and_then(|done| released.map(|()| done))
}

/// Starts the agent as the lab does at each start of the device, and waits until it has answered; answers its version.
async fn verify(client: &Client, found: &dyn SetUp, args: &SetupArgs) -> Result<String, CliError> {
    let device = &args.device;
    let deadline = Instant::now() + args.timeout;
    let mut next = page(client, device, None).await?.next;
    let body = Boot { device: device.clone(), what: BootWhat::Image { image: None } };
    let BootBegun { attempt } = client.ask_within(BOOT, &body, args.timeout).await?;
    let failed = |cause: String| CliError::Local {
        doing: format!("start the agent on {device}"),
        source: cause.into(),
        hint: Some("on the device, `journalctl -u pilab-agent` says more".to_owned()),
    };
    loop {
        match page(client, device, Some(next)).await {
            Ok(page) => {
                next = page.next;
                for event in page.events.into_iter().filter(|event| event.attempt == attempt) {
                    match event.event {
                        Event::AgentAnswered { version, sha256 } if sha256 == found.agent_sha256() => {
                            return Ok(version);
                        }
                        Event::AgentAnswered { sha256, .. } => {
                            let wanted = found.agent_sha256();
                            return Err(failed(format!(
                                "an agent answered with SHA-256 {sha256}, not {wanted}"
                            )));
                        }
                        Event::BootGivenUp { cause } => return Err(failed(cause)),
                        _ => {}
                    }
                }
            }
            // Nothing is lost: it is asked from there on.
            Err(CliError::Request { .. }) => sleep(ASK_AGAIN).await,
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            return Err(failed(format!("it did not answer within {} s", args.timeout.as_secs())));
        }
    }
}

async fn page(client: &Client, device: &DeviceId, from: Option<u64>) -> Result<EventsOfPage, CliError> {
    client.ask(EVENTS_OF, &EventsOf { device: device.clone(), from, wait: WAIT }).await
}

fn conclude(agent: Option<String>, changes: bool, args: &SetupArgs, ui: Ui) -> Result<Exit, CliError> {
    let device = &args.device;
    if args.json.json {
        ui.json(&json!({ "device": device, "changed": changes, "agent": agent, "removed": args.remove }))?;
    } else if let Some(version) = agent {
        ui.note(&format!("{device} is set up: agent {version} answers"));
    } else {
        ui.note(&format!("nothing of the lab's is left on {device}"));
    }
    Ok(Exit::Ok)
}
