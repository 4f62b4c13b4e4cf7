//! Real devices: each with its switch, its console's line, its journal and its actor; what boots it, where the lab does,
//! and what it cannot do where it boots by itself.

use super::devices::{Devices, Layer, Machine, Made, Ports};
use super::failed;
use super::instance::state_root;
use crate::cli::error::CliError;
use crate::config::wiring::WiredDevice;
use crate::console::port::{ByteStream, LineFuture};
use crate::device::ports::{
    Boot, BootOffer, PortError, PortFuture, Power, Reach, ReachOutput, ReachTarget, TicketGrant, TicketOffice,
};
use crate::device::{MIN_OFF, Stagger};
use crate::model::id::DeviceId;
use crate::model::lease::FencingToken;
use crate::model::wiring::{CardLogin, ConsoleLine, PowerSwitch};
use crate::ssh::card::CardPorts;
use crate::ssh::{Card, CardParts, SshReach, Way};
use crate::{power, serial};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What is kept of real devices, below the state directory.
const DEVICES: &str = "devices";
/// The host key of one that boots from its own card, below the device's directory there.
const HOST_KEY: &str = "host_key";

impl Devices<'_> {
    /// Makes the lab's real devices; none is switched.
    pub(super) async fn wired(&self) -> Result<Made, CliError> {
        let (stagger, missing) = (Arc::new(Stagger::new(self.lab.stagger)), Arc::new(Missing));
        let mut made = Made::new();
        for wanted in &self.lab.wired {
            let id = &wanted.device.id;
            let (switch, line) = self.wires(wanted)?;
            let console: Arc<dyn ByteStream> = match &line {
                Some(line) => serial::line(line.clone()),
                None => missing.clone(),
            };
            let Booted { boot, reach, tickets, power } = self.booted(wanted, &missing, switch)?;
            // What no switch is wired to keeps its charge whatever is done.
            let charged = wanted.card.is_some() && wanted.power == PowerSwitch::None;
            let min_off = if charged { Duration::ZERO } else { wanted.min_off.unwrap_or(MIN_OFF) };
            let ports = Ports {
                mac: wanted.mac.clone().unwrap_or_default(),
                power,
                boot,
                reach,
                tickets,
                console,
                min_off,
                stagger: Arc::clone(&stagger),
            };
            let handle = self.spawn(&wanted.device, ports, journal_dir(id)?).await?;
            let machine = Machine::Wired { console: line.as_ref().map(ToString::to_string) };
            made.insert(id.clone(), (handle, machine));
        }
        for pin in power::gpio::release_rest() {
            tracing::info!(pin, "no device has it any more: its line is released");
        }
        Ok(made)
    }

    /// The switch of a device and the line of its console: its own, or those of the virtual rack that it is in.
    fn wires(&self, wanted: &WiredDevice) -> Result<(Arc<dyn Power>, Option<ConsoleLine>), CliError> {
        let id = &wanted.device.id;
        let simulated = self.simulated.filter(|_| wanted.simulation.is_some());
        if let Some((power, console)) = simulated.and_then(|rack| Some((rack.power(id)?, rack.console(id)?)))
        {
            return Ok((power, Some(console)));
        }
        let power = power::open(id.clone(), wanted.power.clone()).map_err(|error| {
            let hint = error.hint();
            failed(format!("use the power switch of {id}"), hint, error)
        })?;
        Ok((power, wanted.console.clone()))
    }

    /// What boots a device, and what follows from that.
    fn booted(
        &self,
        wanted: &WiredDevice,
        missing: &Arc<Missing>,
        power: Arc<dyn Power>,
    ) -> Result<Booted, CliError> {
        if let Some(login) = &wanted.card {
            let power = (wanted.power != PowerSwitch::None).then_some(power);
            let Layer { tracker, token } = &self.layers.devices;
            let way = way(&wanted.device.id, login)?;
            let card = Card::new(CardParts { way, power, tracker: tracker.clone(), token: token.clone() });
            let ports = Arc::new(CardPorts(card));
            return Ok(Booted {
                boot: ports.clone(),
                reach: ports.clone(),
                tickets: ports.clone(),
                power: ports,
            });
        }
        match self.netboot.filter(|_| wanted.netboot.is_some()) {
            Some(netboot) => {
                let (boot, reach) = (Arc::new(netboot.boot(wanted)?), Arc::new(SshReach::new()));
                Ok(Booted { boot, reach, tickets: netboot.office(), power })
            }
            None => {
                Ok(Booted { boot: missing.clone(), reach: missing.clone(), tickets: missing.clone(), power })
            }
        }
    }
}

/// The ports of a device that hang on who boots it.
struct Booted {
    boot: Arc<dyn Boot>,
    reach: Arc<dyn Reach>,
    tickets: Arc<dyn TicketOffice>,
    power: Arc<dyn Power>,
}

/// The way to a device that boots from its own card. Its host key lies beside its journal, and outlives each lab as that does.
pub(super) fn way(device: &DeviceId, login: &CardLogin) -> Result<Way, CliError> {
    let pin = journal_dir(device)?.with_file_name(HOST_KEY);
    Ok(Way { device: device.clone(), login: login.clone(), pin })
}

/// Where the journal of a real device lies: it outlives each lab, for so does what the last one did to the device.
/// One lab at a time has it, and with it the device.
fn journal_dir(device: &DeviceId) -> Result<PathBuf, CliError> {
    let made = state_root().and_then(|root| {
        let dir = root.join(DEVICES).join(device.as_str());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(dir.join("journal"))
    });
    made.map_err(|e| failed(format!("prepare a place for the journal of {device}"), None, e))
}

/// What a device that boots by itself has not: it is offered nothing to boot, and nobody logs in to it. A run never asks for
/// that, since the device lacks the capability.
struct Missing;

#[derive(Debug, thiserror::Error)]
#[error("it boots what it finds by itself")]
struct NotOffered;

fn missing(operation: &str) -> PortError {
    PortError::Failed { operation: operation.to_owned(), hint: None, source: Box::new(NotOffered) }
}

impl Boot for Missing {
    fn offer(&self, _: FencingToken, _: BootOffer) -> PortFuture<'_, ()> {
        Box::pin(async { Err(missing("offer it what to boot")) })
    }

    fn withdraw(&self, _: FencingToken) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl TicketOffice for Missing {
    fn issue(&self, _: TicketGrant) -> PortFuture<'_, Vec<String>> {
        Box::pin(async { Err(missing("issue it a ticket")) })
    }

    fn revoke<'a>(&'a self, _: &'a DeviceId) -> PortFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl Reach for Missing {
    fn run<'a>(
        &'a self,
        _: FencingToken,
        _: &'a ReachTarget,
        _: &'a [String],
        _: Duration,
    ) -> PortFuture<'a, ReachOutput> {
        Box::pin(async { Err(missing("log in to it")) })
    }
}

/// A console without a line: there never is one.
impl ByteStream for Missing {
    fn open(&self) -> LineFuture<'_> {
        Box::pin(std::future::pending())
    }
}
