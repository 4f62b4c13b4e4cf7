//! The heartbeat: how the device fares, every ten seconds, into a bucket whose entries age away.

use super::facts::{Facts, uptime_ms};
use super::pace::Pace;
use crate::bus::connect::Bus;
use crate::model::id::DeviceId;
use crate::model::state_note::StateNote;
use crate::model::workload::{Presence, WORKLOAD_VERSION};
use crate::support::chain::Chain;
use crate::wire::subject;
use std::sync::Arc;
use std::time::Duration;
use sysinfo::{Components, System};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two heartbeats. The bucket's maximum age is a multiple of it.
pub const PRESENCE_INTERVAL: Duration = Duration::from_secs(10);

/// Reports until the agent ends.
pub async fn run(
    device: DeviceId,
    bus: Bus,
    facts: Arc<Facts>,
    notes: watch::Receiver<Vec<StateNote>>,
    pace: Pace,
    shutdown: CancellationToken,
) {
    let mut beat_at = Instant::now();
    let mut system = System::new().ok();
    let mut sensors = Components::new().ok();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(beat_at) => {}
            () = shutdown.cancelled() => return,
        }
        beat_at = pace.next(PRESENCE_INTERVAL);
        let mut presence = measure(&facts, system.as_mut(), sensors.as_mut()).await;
        presence.denied = bus.denials();
        presence.state.clone_from(&*notes.borrow());
        let Ok(body) = serde_json::to_vec(&presence) else { continue };
        let put = bus.kv_put(subject::PRESENCE, device.as_str(), body);
        tokio::select! {
            put = put => if let Err(error) = put {
                tracing::debug!(error = %Chain(&error), "no heartbeat");
            },
            () = shutdown.cancelled() => return,
        }
    }
}

/// What cannot be measured is 0 or missing.
async fn measure(facts: &Facts, system: Option<&mut System>, sensors: Option<&mut Components>) -> Presence {
    let (memory_total, memory_available) = system.map_or((0, 0), |system| {
        system.refresh_memory();
        (system.total_memory(), system.available_memory())
    });
    let temperature = sensors.and_then(|sensors| {
        sensors.refresh(true);
        sensors.iter().filter_map(sysinfo::Component::temperature).reduce(f32::max)
    });
    Presence {
        version: WORKLOAD_VERSION,
        agent_version: Facts::VERSION.to_owned(),
        agent_sha256: facts.sha256().await.to_owned(),
        boot_id: facts.boot_id().await.to_owned(),
        uptime: uptime_ms() / 1000,
        load: System::load_average().map_or(0.0, |load| load.one),
        memory_total,
        memory_available,
        temperature: temperature.filter(|degrees| degrees.is_finite()),
        denied: Vec::new(),
        state: Vec::new(),
    }
}
