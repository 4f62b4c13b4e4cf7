//! From a free device to an agent that answers: fresh keys, a boot attempt, the first ping. Or, where the lab has
//! nothing to offer a device, to one that is on.

use super::parts::BootImage;
use super::session::{Seat, Session};
use super::steps::GRACE;
use crate::device::ports::BootOffer;
use crate::device::{BootRequest, TicketRequest};
use crate::model::boot::BootAttempt;
use crate::model::identity::{IDENTITY_VERSION, Identity, Mark, file};
use crate::model::run::{Fault, FaultKind};
use crate::plan::warm::Start;
use crate::support::chain::Chain;
use crate::support::lock::lock;
use crate::wire::fleet::{FLEET_VERSION, Pong, Verb};
use crate::wire::subject;
use std::time::Duration;
use tokio::time::Instant;

/// A device's NATS credentials last this long at least, and as long as a lease can. They are revoked at its end; what was
/// revoked must be remembered by the servers until it would have ended by itself, so it is not much longer.
const CREDENTIALS_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long one ping may take before it is asked again.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two pings while nobody answers.
const PING_PAUSE: Duration = Duration::from_millis(100);

impl Session {
    /// [`Self::bring_up`], cut off when a port or the journal does not answer at all.
    pub(super) async fn bring_up_bounded(&self, seat: &Seat) -> Result<String, Fault> {
        let bound = self.boot_timeout + GRACE;
        let done = tokio::time::timeout(bound, self.bring_up(seat)).await;
        done.unwrap_or_else(|_| {
            let cause = format!("the device could not be booted within {} s", bound.as_secs());
            Err(seat.fault(FaultKind::Lab, cause))
        })
    }

    /// Boots a device and waits for its agent; answers what came, in a few words. What the last holder left in NATS went
    /// when the device was handed over.
    ///
    /// A device that boots what it finds by itself is switched on anew, and no more: a run that gets it asks for
    /// nothing but what the console shows.
    pub(super) async fn bring_up(&self, seat: &Seat) -> Result<String, Fault> {
        if !seat.boots_what_is_offered() {
            let attempt = self.start(seat, seat.start()).await?;
            return Ok(format!("boot attempt {attempt} of what it finds by itself"));
        }
        let deadline = Instant::now() + self.boot_timeout;
        let mut attempt = self.boot(seat, seat.start()).await?;
        self.see_up(seat, self.parts.image_of(seat.id()), &mut attempt, deadline).await
    }

    /// Switches the device on anew, with what the lab has for it, if it boots that.
    pub(super) async fn start(&self, seat: &Seat, start: Start) -> Result<BootAttempt, Fault> {
        if seat.boots_what_is_offered() {
            return self.boot(seat, start).await;
        }
        let attempt = seat.device.cycle(seat.token).await;
        attempt.map_err(|e| seat.lab("switch the device on", &e))
    }

    /// Boots a device into the lab's image.
    pub(super) async fn boot(&self, seat: &Seat, start: Start) -> Result<BootAttempt, Fault> {
        self.boot_image(seat, self.parts.image_of(seat.id()), start).await
    }

    /// Boots a device into an image, with a ticket and credentials of this start alone. Done when it is on.
    pub(super) async fn boot_image(
        &self,
        seat: &Seat,
        image: &BootImage,
        start: Start,
    ) -> Result<BootAttempt, Fault> {
        let parts = &self.parts;
        let _booting = seat.booting.lock().await;
        let credentials = parts
            .issuer
            .device(seat.id(), CREDENTIALS_TTL.max(parts.policy.max_lease))
            .map_err(|e| seat.lab("issue the device's credentials", &e))?;
        let recorded = parts.issuer.remember().await;
        recorded.map_err(|e| seat.lab("record the device's credentials", &e))?;
        let key = |comment: &str| (parts.keys)(comment).map_err(|e| seat.lab("make an SSH key", e.as_ref()));
        let (host_key, client_key) = (key(seat.id().as_str())?, key("pilab-coordinator")?);
        let ssh_key = client_key.private.clone();
        let (device, nats_url, creds) = (seat.id().clone(), seat.gate.url(), credentials.creds.clone());
        let authorized = client_key.public;
        let host_key_public = host_key.public.clone();
        let mark = Mark::from_random(rand::random());
        let files = move |attempt| {
            let identity = Identity { version: IDENTITY_VERSION, device, attempt, nats_url };
            // A struct of strings and numbers always has a JSON form.
            let identity = serde_json::to_vec(&identity).unwrap_or_default();
            vec![
                (file::IDENTITY.to_owned(), identity),
                (file::NATS_CREDS.to_owned(), creds.into_bytes()),
                (file::SSH_HOST_KEY.to_owned(), host_key.private.into_bytes()),
                (file::AUTHORIZED_KEYS.to_owned(), format!("{}\n", authorized.trim()).into_bytes()),
                (file::MARK.to_owned(), format!("{mark}\n").into_bytes()),
            ]
        };
        let offer = BootOffer {
            kernel: Some(image.kernel.clone()),
            initramfs: Some(image.initramfs.clone()),
            layers: image.layers.clone(),
            cmdline: image.cmdline.clone(),
            ..BootOffer::default()
        };
        let ticket = TicketRequest {
            cold: match start {
                Start::Warm => None,
                Start::Cold(why) => Some(why.to_string()),
            },
            window: self.boot_timeout,
            host_key_public,
            client_key_private: client_key.private,
            mark,
            files: Box::new(files),
        };
        let request = BootRequest { image_id: image.id.clone(), offer, ticket: Some(ticket) };
        let booted = seat.device.boot(seat.token, request).await;
        let attempt = match booted {
            Ok(attempt) => attempt,
            Err(error) => {
                // What it may still run with stays good; what it never got goes.
                let unused = parts.issuer.revoke_one(&parts.nats_url, seat.id(), &credentials).await;
                let fault = seat.lab("boot the device", &error);
                return Err(unused.map_or_else(|e| seat.lab("revoke unused credentials", &e), |()| fault));
            }
        };
        *lock(&seat.creds) = credentials.creds;
        *lock(&seat.ssh_key) = ssh_key;
        // Credentials are one boot attempt's.
        self.revoke(seat, Some(&credentials.public_key)).await.map(|()| attempt)
    }

    /// Revokes the device's NATS credentials, except that with the public key `keep`.
    pub(super) async fn revoke(&self, seat: &Seat, keep: Option<&str>) -> Result<(), Fault> {
        // Bounded by itself, a few seconds each.
        let revoked = self.parts.issuer.revoke_device(&self.parts.nats_url, seat.id(), keep).await;
        revoked.map_err(|e| seat.lab("revoke the device's credentials", &e))
    }

    pub(super) async fn first_pong(
        &self,
        seat: &Seat,
        attempt: BootAttempt,
        deadline: Instant,
    ) -> Result<Pong, Fault> {
        loop {
            if let Ok(pong) = self.ping(seat).await {
                return Ok(pong);
            }
            if Instant::now() >= deadline {
                return Err(self.boot_timeout(seat, attempt));
            }
            tokio::time::sleep(PING_PAUSE).await;
        }
    }

    fn boot_timeout(&self, seat: &Seat, attempt: BootAttempt) -> Fault {
        let stages = seat.device.console().stages();
        let last = stages.borrow().last().cloned();
        let reached = match &last {
            Some(last) => {
                format!("the last boot stage reached is {} ({:?}){}", last.stage, last.line, last.again())
            }
            None => "the console showed no boot stage at all".to_owned(),
        };
        let cause = format!(
            "boot attempt {attempt}: the agent did not answer within {} s; {reached}",
            self.boot_timeout.as_secs()
        );
        self.silent(seat, FaultKind::BootTimeout, cause)
    }

    /// Asks the agent once.
    pub(super) async fn ping(&self, seat: &Seat) -> Result<Pong, String> {
        let subject = subject::fleet(seat.id(), Verb::Ping.name());
        let answer = self.parts.bus.request(subject, Vec::new(), PING_TIMEOUT).await;
        let answer = answer.map_err(|e| Chain(&e).to_string())?;
        let pong: Pong = serde_json::from_slice(&answer).map_err(|e| format!("it answered nonsense: {e}"))?;
        if pong.version != FLEET_VERSION {
            return Err(format!("it answered in version {}; known is {FLEET_VERSION}", pong.version));
        }
        if pong.device != seat.id().as_str() {
            return Err(format!("{} answered in its place", pong.device));
        }
        Ok(pong)
    }

    /// The agent that answers must be the one in the image, or the lab tests something else than it says.
    pub(super) fn check_agent(&self, seat: &Seat, image: &BootImage, pong: &Pong) -> Result<(), Fault> {
        let expected = &image.agent_sha256;
        if pong.agent_sha256 == *expected {
            return Ok(());
        }
        let cause = if seat.has_card() {
            let id = seat.id();
            format!(
                "the agent on the card has SHA-256 {}; the lab's has {expected}: pilab device setup {id} brings it up to date",
                pong.agent_sha256
            )
        } else {
            format!("the agent that answered has SHA-256 {}; the image's has {expected}", pong.agent_sha256)
        };
        Err(seat.fault(FaultKind::AgentMismatch, cause))
    }
}
