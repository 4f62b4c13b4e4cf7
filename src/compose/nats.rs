//! The NATS servers of a lab: one of its own, which is this process's child, or those of its site.

use super::devices::Layer;
use super::failed;
use super::instance::Instance;
use crate::bus::connect::{Bus, BusOptions};
use crate::bus::gate::Upstream;
use crate::bus::issuer::{COORDINATOR, Issuer, IssuerError};
use crate::bus::provision;
use crate::bus::server::{EmbeddedServer, ServerOptions};
use crate::bus::servers::Servers;
use crate::cli::error::CliError;
use crate::config::lab::Lab;
use crate::coordinator::ledger::Revive;
use crate::model::id::LabName;
use crate::model::tls::ServedTls;
use crate::support::chain::Chain;
use crate::wire::subject;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The server's files, below the instance's directory.
pub(super) const DIR: &str = "nats";
/// The lab's keys and what was issued with them, below it.
const KEYS: &str = "keys";
/// How long the servers, which are ready, may take to accept a connection. Those of a site have lost one of them, or are
/// just being started.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// How long a cluster may take to choose who leads it: nats-server's elections take up to 9 s, and several may follow on each
/// other.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(45);
/// Pause between two questions.
const CLUSTER_PAUSE: Duration = Duration::from_millis(500);

/// What the lab has of NATS.
pub(super) struct Nats {
    pub(super) issuer: Arc<Issuer>,
    /// The coordinator's connection.
    pub(super) bus: Bus,
    pub(super) servers: Servers,
    /// Where the devices' gates lead.
    pub(super) upstream: Upstream,
    pub(super) revive: Revive,
}

impl Nats {
    /// Starts the lab's own server, or joins those of the site; `ttl` is for how long the coordinator's credentials are good.
    pub(super) async fn start(
        file: &Lab,
        instance: &Instance,
        listen: IpAddr,
        layer: &Layer,
        ttl: Duration,
    ) -> Result<Self, CliError> {
        // A lab of one command's own has a server of its own, for itself.
        let (lab, lasting) = (&file.name, instance.is_lasting());
        let site = file.nats.as_ref().filter(|_| lasting);
        let keys = instance.dir().join(KEYS);
        let keys_error = |e: IssuerError| failed("use the lab's NATS keys", None, e);
        let (issuer, servers, upstream, revive, replicas): (_, Servers, _, Revive, _) = match site {
            Some(site) => {
                let issuer = Issuer::of_site(&site.keys, keys, lab);
                let issuer = issuer.map_err(|e| {
                    let hint = "pilab nats account makes them: docs/coordinator.md".to_owned();
                    failed("use the keys that the site gave to the lab", Some(hint), e)
                })?;
                let servers = Servers::from(site.urls.join(",")).with_tls(site.tls.clone());
                let upstream = Upstream::new(&servers).map_err(unusable)?;
                let revive: Revive =
                    Arc::new(|| tracing::warn!("the site's NATS servers answer nothing of JetStream"));
                (Arc::new(issuer), servers, upstream, revive, site.replicas)
            }
            None => {
                let issuer = Arc::new(Issuer::open(keys, lab).map_err(keys_error)?);
                let tls = file.server_tls.clone().filter(|_| lasting);
                let client = tls.as_ref().map(ServedTls::own_client);
                let options =
                    ServerOptions { dir: instance.dir().join(DIR), listen, port: None, program: None, tls };
                let Layer { tracker, token } = layer;
                let server =
                    EmbeddedServer::start(options, Arc::clone(&issuer), tracker, token.clone()).await;
                let server = server.map_err(|e| {
                    let hint = e.hint();
                    failed("start the NATS server", hint, e)
                })?;
                let reviver = server.reviver();
                let revive: Revive = Arc::new(move || {
                    if reviver.revive() {
                        tracing::warn!("the NATS server answers nothing of JetStream: it is started anew");
                    }
                });
                let servers = Servers::from(server.url()).with_tls(client);
                let upstream = Upstream::new(&servers).map_err(unusable)?;
                (issuer, servers, upstream, revive, 1)
            }
        };
        let creds = issuer.coordinator(ttl);
        let creds = creds.map_err(|e| failed("issue the coordinator's credentials", None, e))?;
        let options = BusOptions {
            url: servers.clone(),
            creds: creds.creds,
            name: COORDINATOR.to_owned(),
            inbox_prefix: subject::inbox(COORDINATOR),
        };
        let bus = Bus::connect(options, Some(CONNECT_PATIENCE)).await.map_err(unusable)?.replicated(replicas);
        make_buckets(&bus, lab, site.is_some()).await?;
        Ok(Self { issuer, bus, servers, upstream, revive })
    }
}

/// A cluster that has just been started, or that has lost a server, chooses who leads before it makes a bucket.
async fn make_buckets(bus: &Bus, lab: &LabName, patient: bool) -> Result<(), CliError> {
    let deadline = Instant::now() + CLUSTER_PATIENCE;
    loop {
        match provision::buckets(bus, lab).await {
            Ok(()) => return Ok(()),
            Err(error) if patient && Instant::now() < deadline => {
                tracing::info!(error = %Chain(&error), "the NATS buckets are not made yet");
                tokio::time::sleep(CLUSTER_PAUSE).await;
            }
            Err(error) => return Err(failed("make the NATS buckets", None, error)),
        }
    }
}

fn unusable(error: crate::bus::error::BusError) -> CliError {
    failed("connect to the NATS servers", None, error)
}
