//! Answers the coordinator's requests: `fleet.<device>.<verb>`.

use super::facts::{Facts, uptime_ms};
use crate::bus::connect::{Bus, Message, Subscription};
use crate::model::id::DeviceId;
use crate::support::chain::Chain;
use crate::wire::fleet::{FLEET_VERSION, Pong, Verb};
use crate::wire::subject;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Answers until the connection or the agent ends.
pub async fn run(
    device: DeviceId,
    bus: Bus,
    mut requests: Subscription,
    facts: Arc<Facts>,
    shutdown: CancellationToken,
) {
    loop {
        let request = tokio::select! {
            request = requests.next() => request,
            () = shutdown.cancelled() => return,
        };
        let Some(request) = request else { return };
        answer(&device, &bus, &facts, request).await;
    }
}

async fn answer(device: &DeviceId, bus: &Bus, facts: &Facts, request: Message) {
    let verb = subject::parse_fleet(device, &request.subject).and_then(Verb::parse);
    let (Some(verb), Some(reply)) = (verb, request.reply) else {
        tracing::warn!(subject = request.subject, "a request without known verb or reply subject");
        return;
    };
    let body = match verb {
        Verb::Ping => serde_json::to_vec(&Pong {
            version: FLEET_VERSION,
            device: device.to_string(),
            agent_version: Facts::VERSION.to_owned(),
            agent_sha256: facts.sha256().await.to_owned(),
            boot_id: facts.boot_id().await.to_owned(),
            uptime_ms: uptime_ms(),
        }),
    };
    let sent = match body {
        Ok(body) => bus.publish(reply, body).await,
        Err(error) => {
            tracing::error!(%verb, %error, "cannot write an answer");
            return;
        }
    };
    if let Err(error) = sent {
        tracing::warn!(%verb, error = %Chain(&error), "cannot answer");
    }
}
