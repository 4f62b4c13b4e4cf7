//! `pilab boot`: power-cycles a device into an image, or into files of one's own, and shows the boot as it happens.
//!
//! All that is shown comes from the device's journal, by request: from the record that was next before it began, page by
//! page, so that nothing is missed and a NATS server that dies meanwhile costs nothing.

mod files;
mod view;

use self::files::Own;
use self::view::{End, View};
use super::args::{BootArgs, Until};
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::login::connect;
use super::progress::Screen;
use super::run::Interrupts;
use super::table::seconds;
use super::ui::Ui;
use crate::model::boot::BootStage;
use crate::model::device::{Backend, Capability};
use crate::model::event::Event;
use crate::model::id::DeviceId;
use crate::wire::boot::{BOOT, Boot, BootBegun, BootWhat, DeviceEvent, EVENTS_OF, EventsOf, EventsOfPage};
use crate::wire::lending::{self, DeviceAsked, DeviceShown};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long switching on may take: the least time off of a board, its turn, and whoever is served before.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(120);
/// How long an answer may be held back for an event.
const WAIT: Duration = Duration::from_secs(4);
/// How often in a row an answer may be missing: a NATS server is back within a second, a coordinator within ten.
const PATIENCE: u32 = 20;
/// Pause before what was not answered is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Boots a device.
pub async fn boot(local: &dyn Local, args: BootArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let interrupts = Interrupts::listen();
    tokio::select! {
        done = Box::pin(boot_and_watch(&client, &args, ui)) => done,
        () = interrupts.stop.cancelled() => {
            ui.note(&format!("{} is left as it is", args.device));
            Err(CliError::Cancelled)
        }
    }
}

async fn boot_and_watch(client: &Client, args: &BootArgs, ui: Ui) -> Result<Exit, CliError> {
    let asked = DeviceAsked { device: args.device.clone() };
    let DeviceShown { row, .. } = client.ask(lending::DEVICE, &asked).await?;
    let mute = !row.device.capabilities.contains(&Capability::Console);
    if row.device.backend == Backend::Vm && (args.tree.is_some() || args.dtb.is_some()) {
        let what = format!(
            "{} is a virtual machine: it has no boot ROM, and makes its own device tree",
            args.device
        );
        let hint = Some("boot a kernel: --kernel, and --initrd with it".to_owned());
        return Err(CliError::Usage { what, hint });
    }
    let own = Own::find(args)?;
    let until = match (args.until, &own) {
        (Some(Until::Stage(stage)), _) if mute => {
            let what = format!("{} has no console: nothing shows when it has reached {stage}", args.device);
            return Err(CliError::Usage { what, hint: Some("--until agent needs none".to_owned()) });
        }
        (Some(Until::Agent), Some(_)) => {
            let what = "a system of your own has no ticket, so its agent cannot answer".to_owned();
            let hint = Some("--until kernel, systemd or login is told by the console".to_owned());
            return Err(CliError::Usage { what, hint });
        }
        (Some(until), _) => until,
        (None, None) => Until::Agent,
        (None, Some(_)) => Until::Stage(BootStage::Kernel),
    };
    if let Some(own) = &own {
        let screen = Screen::new(ui);
        let progress = screen.local();
        let sent = own.send(client, &args.device, &progress).await?;
        drop(progress);
        ui.note(&format!("sent {sent} bytes"));
    }
    let is_own = own.is_some();
    let what = own.map_or_else(|| BootWhat::Image { image: args.image.clone() }, |own| own.what);
    let deadline = Instant::now() + args.timeout;
    let mut watch =
        Watch { client, device: &args.device, ui, json: args.json.json, view: View::new(until, mute) };
    let next = watch.page(None, Duration::ZERO).await?.next;
    let body = Boot { device: args.device.clone(), what };
    let begin = client.ask_within::<BootBegun>(BOOT, &body, SWITCH_TIMEOUT);
    let Ok(end) = timeout_at(deadline, watch.follow(next, begin)).await else {
        watch.conclude("timeout", None)?;
        ui.note(&format!("{} is not up within {} s", args.device, args.timeout.as_secs()));
        return Ok(Exit::Timeout);
    };
    let end = end?;
    watch.conclude(end.name(), Some(&end))?;
    Ok(tell(&args.device, &end, is_own, ui))
}

/// Says how it ended.
fn tell(device: &DeviceId, end: &End, is_own: bool, ui: Ui) -> Exit {
    match end {
        End::Up { what, after } => {
            ui.note(&format!("{device} is up: {what} {} s after power-on", seconds(*after)));
            Exit::Ok
        }
        End::Panicked { line } => {
            ui.note(&format!("{device}: the kernel panicked: {line:?}"));
            // The lab's own kernel is the lab's fault.
            if is_own { Exit::Failed } else { Exit::Lab }
        }
        End::GivenUp { cause, stalled } => {
            ui.note(&format!("{device} did not come up: {cause}"));
            if *stalled { Exit::Device } else { Exit::Timeout }
        }
        End::SwitchedOff => {
            ui.note(&format!("{device} was switched off"));
            Exit::Cancelled
        }
        End::Superseded { by } => {
            ui.note(&format!("{device} was booted anew: boot attempt {by}"));
            Exit::Cancelled
        }
    }
}

struct Watch<'a> {
    client: &'a Client,
    device: &'a DeviceId,
    ui: Ui,
    json: bool,
    view: View,
}

impl Watch<'_> {
    async fn page(&self, from: Option<u64>, wait: Duration) -> Result<EventsOfPage, CliError> {
        let asked = EventsOf { device: self.device.clone(), from, wait };
        self.client.ask(EVENTS_OF, &asked).await
    }

    /// Shows what happens from record `next` on, until the boot ends. `begin` makes it begin.
    async fn follow(
        &mut self,
        mut next: u64,
        begin: impl Future<Output = Result<BootBegun, CliError>>,
    ) -> Result<End, CliError> {
        let mut begin = std::pin::pin!(begin);
        let (mut begun, mut unheard) = (false, 0);
        loop {
            let page = tokio::select! {
                done = &mut begin, if !begun => {
                    // A boot that was refused, or failed, has no end to wait for.
                    done?;
                    begun = true;
                    continue;
                }
                page = self.page(Some(next), WAIT) => page,
            };
            match page {
                Ok(page) => {
                    (next, unheard) = (page.next, 0);
                    for event in &page.events {
                        self.show(event)?;
                    }
                }
                // Nothing is lost: it is asked from there on.
                Err(CliError::Request { .. }) if unheard < PATIENCE => {
                    unheard += 1;
                    sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
            if let Some(end) = self.view.end() {
                return Ok(end.clone());
            }
        }
    }

    fn show(&mut self, event: &DeviceEvent) -> Result<(), CliError> {
        let line = self.view.see(event);
        if self.json {
            let mut value = serde_json::to_value(event).unwrap_or_default();
            if let (Some(after), Some(object)) = (self.view.after(event), value.as_object_mut()) {
                object.insert("after".to_owned(), json!(after));
            }
            return self.ui.json(&value);
        }
        if let Some(line) = line {
            self.ui.note(&line.plain());
        }
        if let Event::BootStalled { hint, .. } = &event.event {
            self.ui.hint(hint);
        }
        Ok(())
    }

    /// The last line of JSON.
    fn conclude(&self, outcome: &str, end: Option<&End>) -> Result<(), CliError> {
        if !self.json {
            return Ok(());
        }
        let mut last = json!({ "device": self.device, "outcome": outcome });
        match end {
            Some(End::Up { what, after }) => {
                last["reached"] = json!(what);
                last["after"] = json!(after);
            }
            Some(End::Panicked { line: cause } | End::GivenUp { cause, .. }) => last["cause"] = json!(cause),
            _ => {}
        }
        self.ui.json(&last)
    }
}
