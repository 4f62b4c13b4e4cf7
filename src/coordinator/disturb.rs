//! Steps that disturb a device on purpose: its agent is killed, its way to NATS is cut, its
//! credentials are misused.

use super::session::{Seat, Session};
use super::steps::{STATUS_PAUSE, quote};
use crate::bus::connect::{Bus, BusOptions};
use crate::model::boot::BootStage;
use crate::model::event::Event;
use crate::model::run::{Fault, FaultKind};
use crate::model::workload::DeniedAction;
use crate::support::chain::Chain;
use crate::support::lock::lock;
use crate::wire::subject;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// The agent's unit in the image.
const UNIT: &str = "pilab-agent.service";
/// What one more look at the device must be left: a command over SSH takes seconds on an emulated one.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// How long a denial may take: the server says it in the order of what it received, so this is one round
/// trip, stretched for a host that is busy.
const DENIAL_PATIENCE: Duration = Duration::from_secs(5);

impl Session {
    /// Kills the agent's process by way of systemd and waits until another process answers, on the same boot.
    pub(super) async fn kill_agent(
        &self,
        seat: &Seat,
        signal: &str,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let before = self.ping(seat).await;
        let before = before.map_err(|cause| self.silent(seat, FaultKind::Agent, cause))?;
        let old = self.agent_process(seat, deadline).await?;
        let signal_option = format!("--signal=SIG{signal}");
        let kill = ["systemctl", "kill", "--kill-who=main", &signal_option, UNIT];
        self.on_device(seat, &kill, deadline).await?;
        loop {
            // Before SSH is asked with no time left: that nobody came is the agent's fault, not the lab's.
            if Instant::now() + LAST_LOOK >= deadline {
                let cause = format!("after SIG{signal} to process {old} no other agent answered in time");
                return Err(self.silent(seat, FaultKind::Agent, cause));
            }
            let process = self.agent_process(seat, deadline).await?;
            // 0 while there is none.
            if process != 0 && process != old {
                match self.ping(seat).await {
                    Ok(pong) if pong.boot_id == before.boot_id => {
                        return Ok(format!("SIG{signal} ended process {old}; process {process} answers"));
                    }
                    Ok(_) => {
                        return Err(seat.fault(FaultKind::Expectation, "the device itself has restarted"));
                    }
                    Err(_) => {}
                }
            }
            sleep(STATUS_PAUSE).await;
        }
    }

    /// Lets the device restart by itself and boots it anew: a boot attempt with ticket and credentials of its own.
    pub(super) async fn reboot(&self, seat: &Seat, deadline: Instant) -> Result<String, Fault> {
        seat.restarting.store(true, Ordering::Relaxed);
        let done = self.restart(seat, deadline).await;
        seat.restarting.store(false, Ordering::Relaxed);
        done
    }

    async fn restart(&self, seat: &Seat, deadline: Instant) -> Result<String, Fault> {
        let mut line = seat.device.console().status();
        let left = deadline.saturating_duration_since(Instant::now());
        let command = ["systemctl", "--no-block", "reboot"].map(str::to_owned).to_vec();
        // The device may be down before it has answered.
        let asked = match seat.device.run(seat.token, command, left).await {
            Ok(output) => format!("systemctl ended with {:?}: {}", output.exit_code, quote(&output.stderr)),
            Err(error) => Chain(&error).to_string(),
        };
        // A virtual machine's console closes with it, a board's shows it.
        let (console, before) = (seat.device.console(), seat.attempt());
        let shown = async {
            if console.wait_stage(before, BootStage::Restart, deadline).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let down = async {
            tokio::select! {
                _ = line.wait_for(|line| !line.open) => {}
                () = shown => {}
            }
        };
        if timeout_at(deadline, down).await.is_err() {
            let cause = format!("the device did not go down in time; {asked}");
            return Err(seat.fault(FaultKind::StepTimeout, cause));
        }
        let attempt = self.boot(seat, seat.start()).await?;
        let up = seat.device.console().wait_stage(attempt, BootStage::Sshd, deadline).await;
        up.map_err(|e| {
            let cause = format!("boot attempt {attempt}, after a reboot: {}", Chain(&e));
            // As at any boot: what stands still before the agent is not the agent's fault.
            seat.fault(FaultKind::BootTimeout, cause)
        })?;
        Ok(format!("boot attempt {attempt} is up"))
    }

    /// Nothing passes between the device and NATS any more, and neither side is told.
    pub(super) async fn cut_network(&self, seat: &Seat) -> Result<String, Fault> {
        self.note_network(seat, Event::NetworkCut {}).await?;
        seat.gate.cut();
        Ok(format!("nothing passes between {} and NATS", seat.id()))
    }

    /// Undoes [`Self::cut_network`].
    pub(super) async fn restore_network(&self, seat: &Seat) -> Result<String, Fault> {
        if !seat.gate.restore() {
            return Ok("it was not cut".to_owned());
        }
        self.note_network(seat, Event::NetworkRestored {}).await?;
        Ok(format!("{} and NATS reach each other again", seat.id()))
    }

    async fn note_network(&self, seat: &Seat, event: Event) -> Result<(), Fault> {
        let noted = seat.device.journal().event(seat.attempt(), event).await;
        noted.map(drop).map_err(|e| seat.lab("write the journal", &e))
    }

    async fn agent_process(&self, seat: &Seat, deadline: Instant) -> Result<u32, Fault> {
        let show = ["systemctl", "show", "--property=MainPID", "--value", UNIT];
        let shown = self.on_device(seat, &show, deadline).await?;
        let shown = shown.trim();
        shown.parse().map_err(|_| {
            seat.fault(FaultKind::Lab, format!("systemd says {shown:?} instead of the agent's process id"))
        })
    }

    async fn on_device(&self, seat: &Seat, command: &[&str], deadline: Instant) -> Result<String, Fault> {
        let left = deadline.saturating_duration_since(Instant::now());
        let words = command.iter().map(|&word| word.to_owned()).collect();
        let output = seat.device.run(seat.token, words, left).await;
        let output = output.map_err(|e| seat.unreachable("run a command over SSH", &e))?;
        if output.exit_code != Some(0) {
            let cause = format!("{command:?} ended with {:?}: {}", output.exit_code, quote(&output.stderr));
            return Err(seat.fault(FaultKind::Lab, cause));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Tries each subject with the credentials of the device's current boot attempt, on a connection of its
    /// own. Publishing is tried with no payload: what is not refused then does the least harm.
    pub(super) async fn expect_denied(
        &self,
        seat: &Seat,
        publish: &[String],
        subscribe: &[String],
        deadline: Instant,
    ) -> Result<String, Fault> {
        let options = BusOptions {
            url: self.parts.nats_url.clone(),
            creds: lock(&seat.creds).clone(),
            name: format!("{} (expect_denied)", seat.id()),
            inbox_prefix: subject::inbox(seat.id().as_str()),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let bus = Bus::connect(options, Some(left)).await;
        let bus = bus.map_err(|e| seat.lab("connect with the device's credentials", &e))?;
        let named = |subjects: &[String]| subjects.iter().map(|one| self.named(one)).collect::<Vec<_>>();
        let tried = try_all(&bus, &named(publish), &named(subscribe)).await;
        // Nothing hangs on how a connection ends on which everything was to be refused.
        let _ = bus.close().await;
        match tried {
            Ok(permitted) if permitted.is_empty() => {
                Ok(format!("the NATS server refused all {} attempts", publish.len() + subscribe.len()))
            }
            Ok(permitted) => {
                let cause = format!("the NATS server permits the device: {}", permitted.join(", "));
                Err(seat.fault(FaultKind::Expectation, cause))
            }
            Err(error) => Err(seat.fault(FaultKind::Lab, format!("cannot try what must be denied: {error}"))),
        }
    }
}

impl Session {
    /// A scenario's subject with the ids of this run's devices.
    fn named(&self, subject: &str) -> String {
        let subject = subject.replace("{lab}", self.parts.lab.as_str());
        self.seats
            .iter()
            .fold(subject, |subject, seat| subject.replace(&format!("{{{}}}", seat.role), seat.id().as_str()))
    }
}

/// What the server did not refuse. One after the other: only the last denial is sure to be remembered.
async fn try_all(bus: &Bus, publish: &[String], subscribe: &[String]) -> Result<Vec<String>, String> {
    let mut permitted = Vec::new();
    let attempts = publish.iter().map(|subject| (DeniedAction::Publish, subject));
    for (action, subject) in
        attempts.chain(subscribe.iter().map(|subject| (DeniedAction::Subscribe, subject)))
    {
        let mut connection = bus.connection();
        let number = |denied: Option<u64>| denied.unwrap_or_default();
        let before = number(connection.borrow_and_update().denied.as_ref().map(|denial| denial.number));
        let refused = connection.wait_for(|now| {
            now.denied.as_ref().is_some_and(|denial| {
                denial.number > before && denial.action == action && denial.subject == *subject
            })
        });
        // Held until the answer is there.
        let mut subscription = None;
        match action {
            DeniedAction::Publish => {
                bus.publish(subject.clone(), Vec::new()).await.map_err(|e| Chain(&e).to_string())?;
            }
            DeniedAction::Subscribe => {
                subscription = Some(bus.subscribe(subject.clone()).await.map_err(|e| Chain(&e).to_string())?);
            }
        }
        bus.flush().await.map_err(|e| Chain(&e).to_string())?;
        if tokio::time::timeout(DENIAL_PATIENCE, refused).await.is_err() {
            permitted.push(match action {
                DeniedAction::Publish => format!("publish on {subject}"),
                DeniedAction::Subscribe => format!("subscribe to {subject}"),
            });
        }
        drop(subscription);
    }
    Ok(permitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::issuer::Issuer;
    use crate::bus::server::{EmbeddedServer, ServerOptions};
    use crate::model::id::{DeviceId, LabName};
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    #[tokio::test]
    async fn what_is_refused_is_told_from_what_is_permitted() {
        let dir = tempfile::tempdir().unwrap();
        let lab = LabName::new("lab").unwrap();
        let issuer = Arc::new(Issuer::open(dir.path().join("keys"), &lab).unwrap());
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let options =
            ServerOptions { dir: dir.path().join("nats"), listen, port: None, program: None, tls: None };
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let server = EmbeddedServer::start(options, Arc::clone(&issuer), &tracker, stop.clone()).await;
        let server = server.unwrap();
        let device = DeviceId::new("lab-a").unwrap();
        let options = BusOptions {
            url: server.url().into(),
            creds: issuer.device(&device, Duration::from_secs(60)).unwrap().creds,
            name: "test".to_owned(),
            inbox_prefix: subject::inbox("lab-a"),
        };
        let bus = Bus::connect(options, Some(Duration::from_secs(10))).await.unwrap();
        let own = |subjects: &[&str]| subjects.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
        let publish = own(&[
            "$KV.status.lab-b.web",
            "$KV.desired.lab-a.web",
            "$JS.API.STREAM.INFO.KV_desired",
            "$KV.status.lab-a.web",
        ]);
        let subscribe = own(&[">", "fleet.lab-b.ping", "fleet.lab-a.ping"]);
        let permitted = try_all(&bus, &publish, &subscribe).await.unwrap();
        assert_eq!(permitted, ["publish on $KV.status.lab-a.web", "subscribe to fleet.lab-a.ping"]);
        bus.close().await.unwrap();
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
