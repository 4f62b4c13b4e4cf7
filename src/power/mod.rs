//! Adapters of the port `Power`: what switches a wired device. Relays on pins, plugs and relay boards over HTTP,
//! programs, and nothing at all.
//!
//! One switch does one act at a time, in the order they were asked, and refuses a lease that has passed. A
//! driver that cannot read back says `Unknown`, never `Off`. Least time off, stagger, the intents in the
//! journal and the confirmation by reading back are not here: the device's actor does that for all drivers.

mod command;
mod digest;
mod error;
pub mod gpio;
mod http;
mod reading;

pub use digest::Challenge;
pub use error::PowerError;
pub use reading::Reader;

use crate::device::ports::{PortError, PortFuture, Power};
use crate::model::id::DeviceId;
use crate::model::lease::{Fence, FencingToken};
use crate::model::power::{PowerReading, PowerState};
use crate::model::relay::Relay;
use crate::model::wiring::PowerSwitch;
use command::CommandDriver;
use http::HttpDriver;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The switch of a device. Nothing is switched or asked yet; the password, if there is one, is read now, and a pin is
/// taken now, at the level it has.
pub fn open(device: DeviceId, switch: PowerSwitch) -> Result<Arc<dyn Power>, PowerError> {
    let address = switch.to_string();
    let driver = match switch {
        PowerSwitch::None => Driver::None,
        PowerSwitch::Command(command) => Driver::Command(Box::new(CommandDriver::new(command)?)),
        PowerSwitch::Gpio(gpio) => {
            Driver::Gpio(gpio::Line::take(&gpio.pin).map_err(PowerError::Gpio)?, gpio.relay)
        }
        PowerSwitch::Http(http) => Driver::Http(Box::new(HttpDriver::new(http)?)),
    };
    Ok(Arc::new(Switch { device, address, driver, fence: Mutex::default() }))
}

enum Driver {
    None,
    Command(Box<CommandDriver>),
    Http(Box<HttpDriver>),
    Gpio(gpio::Line, Relay),
}

/// One switch.
struct Switch {
    device: DeviceId,
    /// Where it is, for people.
    address: String,
    driver: Driver,
    /// Held while it acts: who comes later has seen what came before.
    fence: Mutex<Fence>,
}

impl Switch {
    fn failed(&self, doing: String) -> impl FnOnce(PowerError) -> PortError {
        let operation = format!("{doing} at {}", self.address);
        move |error| PortError::Failed { operation, hint: error.hint(), source: Box::new(error) }
    }
}

impl Power for Switch {
    fn set(&self, token: FencingToken, state: PowerState) -> PortFuture<'_, ()> {
        Box::pin(async move {
            let mut fence = self.fence.lock().await;
            fence.admit(token)?;
            let done = match &self.driver {
                Driver::None => Err(PowerError::Unwired),
                Driver::Command(driver) => driver.set(state).await,
                Driver::Http(driver) => driver.set(state).await,
                Driver::Gpio(line, relay) => line.set(relay.level(state)).map_err(PowerError::Gpio),
            };
            done.map_err(self.failed(format!("switch {} {state}", self.device)))
        })
    }

    fn get(&self) -> PortFuture<'_, PowerReading> {
        Box::pin(async move {
            let read = match &self.driver {
                Driver::None => Ok(PowerReading::Unknown),
                Driver::Command(driver) => driver.get().await,
                Driver::Http(driver) => driver.get().await,
                Driver::Gpio(line, relay) => {
                    line.level().map(|level| relay.reading(level)).map_err(PowerError::Gpio)
                }
            };
            read.map_err(self.failed(format!("read the power of {}", self.device)))
        })
    }
}
