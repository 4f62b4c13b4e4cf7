//! Tunnels from users to the devices they hold, and the keys that let them in: the real coordinator and nats-server, a
//! device that is a fake and whose address is this machine's.

mod killed;
mod restarted;

use crate::device::world::World;
use crate::journal::{Open, read_all, records};
use crate::nats::{HOUR, LOCALHOST, Lab, SOON, kill, lab_name};
use crate::support::console::Rig;
use crate::support::coordinator::{HOST_KEY, parts};
use crate::support::fake_lab::{Fake, fake, fake_in};
use pilab::bus::connect::Bus;
use pilab::config::login::{LOGIN_VERSION, Login};
use pilab::coordinator::service::Coordinator;
use pilab::device::ports::TicketFate;
use pilab::journal::{Entry, Since};
use pilab::model::device::{Capability, Model};
use pilab::model::event::Event;
use pilab::model::id::UserName;
use pilab::model::role::Role;
use pilab::support::command::Command;
use pilab::wire::lending::{LEASE, LOGIN, LoginAsked, POWER, RELEASE, RESERVE, TRANSFER};
use pilab::wire::request::Reply;
use pilab::wire::subject;
use pilab::wire::tunnel::{
    ADMIT, Admitted, PIECE, TUNNEL_CLOSE, TUNNEL_OPEN, TUNNEL_RECEIVE, TUNNEL_SEND, TunnelId, TunnelPiece,
    TunnelReceive, TunnelSend, TunnelSent,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DEVICE: &str = "lab-vm-1";
const KEY: &str = "ssh-ed25519 AAAAann";

struct Scene {
    model: Model,
    lab: Lab,
    world: Arc<World>,
    coordinator: Coordinator,
    rig: Rig,
    journal: Open,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Says back what it is told, until it is told no more.
    echo: u16,
    _echoing: JoinSet<()>,
}

impl Scene {
    async fn start(model: Model) -> Self {
        let lab = Lab::start().await;
        let bus = lab.coordinator().await;
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let capabilities = [Capability::Boot, Capability::Image, Capability::Ssh];
        let (device, fake) = fake(&lab, DEVICE, model, &capabilities, &tracker, &stop).await;
        let Fake { world, rig, journal } = fake;
        let coordinator = Coordinator::start(parts(&lab, bus, vec![device])).await.unwrap();
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let echo = listener.local_addr().unwrap().port();
        let mut echoing = JoinSet::new();
        echoing.spawn(async move {
            let mut each = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                each.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Self { model, lab, world, coordinator, rig, journal, tracker, stop, echo, _echoing: echoing }
    }

    /// Another process has the lab and its devices, as after a crash.
    async fn restarted(self) -> Self {
        let Self { model, lab, world, coordinator, rig, journal, tracker, stop, echo, _echoing } = self;
        let _ = coordinator.shutdown().await;
        stop.cancel();
        tracker.close();
        tracker.wait().await;
        rig.stop().await;
        journal.close().await;
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let capabilities = [Capability::Boot, Capability::Image, Capability::Ssh];
        let (device, fake) = fake_in(world, &lab, DEVICE, model, &capabilities, &tracker, &stop).await;
        let Fake { world, rig, journal } = fake;
        let bus = lab.coordinator().await;
        let coordinator = Coordinator::start(parts(&lab, bus, vec![device])).await.unwrap();
        Self { model, lab, world, coordinator, rig, journal, tracker, stop, echo, _echoing }
    }

    /// Waits for an act that begins so.
    async fn acted(&self, act: &str) {
        let done = async {
            while !self.world.lock().acts.iter().any(|done| done.starts_with(act)) {
                self.world.acted.notified().await;
            }
        };
        timeout(SOON, done).await.unwrap_or_else(|_| panic!("{act}: {:?}", self.world.take()));
    }

    async fn user(&self, name: &str, role: Role) -> User {
        let user = UserName::new(name).unwrap();
        let ann = UserName::new("ann").unwrap();
        let bus = self.lab.connect(name, &self.lab.issuer.user(&user, HOUR).unwrap()).await;
        if user != ann {
            let admin = User {
                bus: self.lab.connect("ann", &self.lab.issuer.user(&ann, HOUR).unwrap()).await,
                user: ann,
            };
            let asked = LoginAsked { user: user.clone(), role, ttl: HOUR };
            admin.ask::<Value>(LOGIN, &asked).await.unwrap();
        }
        User { bus, user }
    }

    /// Ann has the device, and it has booted as far as its network.
    async fn held(&self) -> User {
        let ann = self.user("ann", Role::Admin).await;
        ann.reserve().await;
        self.boot(&ann).await;
        ann
    }

    async fn boot(&self, by: &User) {
        by.ask::<Value>(POWER, &json!({"device": DEVICE, "act": "cycle", "force": null})).await.unwrap();
        let fate = TicketFate::Redeemed { address: LOCALHOST };
        self.world.lock().fate.as_ref().unwrap().send_replace(fate);
        let until = async {
            while self.tunnel(by).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, until).await.unwrap();
    }

    async fn tunnel(&self, by: &User) -> Result<TunnelId, String> {
        by.ask(TUNNEL_OPEN, &json!({"device": DEVICE, "port": self.echo})).await
    }

    async fn events(&self) -> Vec<Event> {
        let records = records(read_all(&self.journal.handle, Since::Start).await);
        let event = |record: pilab::journal::Record| match record.entry {
            Entry::Event(event) => Some(event),
            _ => None,
        };
        records.into_iter().filter_map(event).collect()
    }

    async fn stop(self) {
        // What a fake holds its kept devices for is of no interest.
        let _ = self.coordinator.shutdown().await;
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.rig.stop().await;
        self.journal.close().await;
        self.lab.stop().await;
    }
}

struct User {
    bus: Bus,
    user: UserName,
}

impl User {
    async fn ask<T: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> Result<T, String> {
        let subject = subject::request(&lab_name(), &self.user, verb);
        let answer = self.bus.request(subject, serde_json::to_vec(body).unwrap(), SOON).await.unwrap();
        match serde_json::from_slice(&answer).unwrap() {
            Reply::Ok { body } => Ok(body),
            Reply::Refused { error, .. } => Err(error),
        }
    }

    async fn reserve(&self) {
        let need =
            json!({"role": "device", "device": DEVICE, "model": null, "labels": {}, "capabilities": []});
        let body = json!({
            "version": 1, "id": "l1", "purpose": "", "needs": [need], "duration": null, "priority": "normal",
            "hold_by_process": null, "start_ms": null, "no_wait": true,
        });
        assert_eq!(self.ask::<Value>(RESERVE, &body).await.unwrap()["state"], "granted");
    }

    async fn send(&self, id: TunnelId, offset: u64, bytes: &[u8], end: bool) -> Result<u64, String> {
        let asked = TunnelSend { id, offset, bytes: bytes.to_vec(), end };
        self.ask::<TunnelSent>(TUNNEL_SEND, &asked).await.map(|sent| sent.next)
    }

    async fn receive(&self, id: TunnelId, offset: u64) -> Result<TunnelPiece, String> {
        self.ask(TUNNEL_RECEIVE, &TunnelReceive { id, offset }).await
    }
}

/// Told by the tunnel that ended, or by the lease where the question came after it: which of two that are asked at one
/// time comes first nobody knows.
#[track_caller]
fn has_ended(received: Result<TunnelPiece, String>) {
    let error = received.unwrap_err();
    let words = ["has ended", "has not booted", "nobody holds", "is bob's", "is now bob's"];
    assert!(words.iter().any(|words| error.contains(words)), "{error}");
}

fn piece(bytes: &[u8]) -> TunnelPiece {
    TunnelPiece { bytes: bytes.to_vec(), end: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_on_the_way_is_sent_and_answered_again() {
    let scene = Scene::start(Model::VmAarch64).await;
    let ann = scene.held().await;
    let id = scene.tunnel(&ann).await.unwrap();
    assert_eq!(ann.send(id, 0, b"hello", false).await, Ok(5));
    assert_eq!(ann.receive(id, 0).await, Ok(piece(b"hello")));
    // The answer was lost, and so was that to the sending.
    assert_eq!(ann.receive(id, 0).await, Ok(piece(b"hello")));
    assert_eq!(ann.send(id, 0, b"hello", false).await, Ok(5));
    assert_eq!(ann.send(id, 3, b"lo there", false).await, Ok(11));
    assert_eq!(ann.receive(id, 5).await, Ok(piece(b" there")));
    // What cannot be is refused, and costs nothing.
    for error in [ann.send(id, 12, b"x", false).await.unwrap_err(), ann.receive(id, 4).await.unwrap_err()] {
        assert!(error.contains("offset"), "{error}");
    }
    let large = ann.send(id, 11, &[0; PIECE + 1], false).await.unwrap_err();
    assert!(large.contains("at most"), "{large}");
    assert_eq!(ann.send(id, 11, b"!", true).await, Ok(12));
    assert_eq!(ann.receive(id, 11).await, Ok(piece(b"!")));
    // The echo has nothing more to say either, however often it is asked.
    for _ in 0..2 {
        assert_eq!(ann.receive(id, 12).await, Ok(TunnelPiece { bytes: Vec::new(), end: true }));
    }
    ann.ask::<Value>(TUNNEL_CLOSE, &id).await.unwrap();
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_its_holders_alone_and_ends_with_the_lease_and_with_the_power() {
    let scene = Scene::start(Model::VmAarch64).await;
    let ann = scene.held().await;
    let bob = scene.user("bob", Role::User).await;
    let eve = scene.user("eve", Role::Viewer).await;
    let id = scene.tunnel(&ann).await.unwrap();
    assert!(scene.tunnel(&bob).await.unwrap_err().contains("is ann's"));
    assert!(scene.tunnel(&eve).await.unwrap_err().contains("takes the role user"));
    assert!(bob.send(id, 0, b"x", false).await.unwrap_err().contains("no such tunnel"));
    assert!(bob.receive(id, 0).await.unwrap_err().contains("no such tunnel"));
    bob.ask::<Value>(TUNNEL_CLOSE, &id).await.unwrap();
    assert_eq!(ann.send(id, 0, b"x", false).await, Ok(1), "another's word does not close it");

    // Switched off, while an answer is held back.
    assert_eq!(ann.receive(id, 0).await, Ok(piece(b"x")));
    let off = json!({"device": DEVICE, "act": "off", "force": null});
    let (received, off) = tokio::join!(ann.receive(id, 1), ann.ask::<Value>(POWER, &off));
    off.unwrap();
    has_ended(received);
    assert!(scene.tunnel(&ann).await.unwrap_err().contains("has not booted"));

    // Transferred: the key of the last holder goes, the tunnel too.
    scene.boot(&ann).await;
    let id = scene.tunnel(&ann).await.unwrap();
    scene.world.take();
    let transfer = json!({"lease": "l1", "to": "bob"});
    let (received, transferred) = tokio::join!(ann.receive(id, 0), ann.ask::<Value>(TRANSFER, &transfer));
    transferred.unwrap();
    has_ended(received);
    scene.acted(&dismissed()).await;

    // Given back.
    let id = scene.tunnel(&bob).await.unwrap();
    let release = json!({"lease": "l1"});
    let (received, released) = tokio::join!(bob.receive(id, 0), bob.ask::<Value>(RELEASE, &release));
    released.unwrap();
    has_ended(received);
    assert!(bob.send(id, 0, b"late", false).await.is_err(), "not a byte of it");
    let opened = scene.events().await.into_iter().filter(|event| matches!(event, Event::TunnelOpened { .. }));
    assert!(opened.count() >= 4, "each is in the journal");
    scene.stop().await;
}

/// What takes a last holder's key off a device, up to the token of the lease as it is now.
fn dismissed() -> String {
    r##"run sh -c grep -qx "# $1" /run/pilab/holder_keys || rm -f /run/pilab/holder_keys sh "##.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_the_last_holder_goes_also_where_the_coordinator_dies_as_the_lease_is_given_on() {
    let scene = Scene::start(Model::VmAarch64).await;
    let ann = scene.held().await;
    scene.user("bob", Role::User).await;
    ann.ask::<Value>(TRANSFER, &json!({"lease": "l1", "to": "bob"})).await.unwrap();
    scene.acted(&dismissed()).await;
    scene.world.take();
    // It may have died before that: the next does it again.
    let scene = scene.restarted().await;
    scene.acted(&dismissed()).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_let_in_for_the_holder_alone() {
    let scene = Scene::start(Model::VmAarch64).await;
    let ann = scene.held().await;
    let bob = scene.user("bob", Role::User).await;
    scene.world.take();
    let admit = |key: &str| json!({"device": DEVICE, "key": key});
    assert!(bob.ask::<Admitted>(ADMIT, &admit(KEY)).await.unwrap_err().contains("is ann's"));
    let options = ann.ask::<Admitted>(ADMIT, &admit(&format!("command=\"id\" {KEY}"))).await.unwrap_err();
    assert!(options.contains("not one SSH public key"), "{options}");
    assert_eq!(scene.world.take(), Vec::<String>::new(), "nothing was done on the device");
    let admitted = ann.ask::<Admitted>(ADMIT, &admit(KEY)).await.unwrap();
    assert_eq!((admitted.user.as_str(), admitted.host_key.as_str()), ("root", HOST_KEY));
    let script = r##"umask 077 && printf '# %s\n%s\n' "$2" "$1" > /run/pilab/holder_keys"##;
    let events = scene.events().await;
    let let_in = events.iter().find_map(|event| match event {
        Event::KeyAdmitted { by, token } if by == "ann" => Some(token),
        _ => None,
    });
    let token = let_in.unwrap();
    assert_eq!(scene.world.take(), [format!("run sh -c {script} sh {KEY} {token} at 127.0.0.1 as client")]);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_shares_the_coordinators_network_is_led_to_by_no_tunnel() {
    let scene = Scene::start(Model::Container).await;
    let ann = scene.user("ann", Role::Admin).await;
    ann.reserve().await;
    ann.ask::<Value>(POWER, &json!({"device": DEVICE, "act": "on", "force": null})).await.unwrap();
    let fate = TicketFate::Redeemed { address: LOCALHOST };
    scene.world.lock().fate.as_ref().unwrap().send_replace(fate);
    assert!(scene.tunnel(&ann).await.unwrap_err().contains("no network of its own"));
    assert_eq!(
        ann.ask::<Value>(LEASE, &json!({"lease": "l1", "wait": {"secs": 0, "nanos": 0}})).await.unwrap()["state"],
        "granted"
    );
    scene.stop().await;
}

/// `pilab forward` to the echo, and where it listens.
async fn forward(scene: &Scene) -> (Child, SocketAddr) {
    forward_port(scene, scene.echo).await
}

/// The same to another port.
async fn forward_port(scene: &Scene, port: u16) -> (Child, SocketAddr) {
    let user = UserName::new("ann").unwrap();
    let creds = scene.lab.issuer.user(&user, HOUR).unwrap().creds;
    let url = scene.lab.server.url();
    let login = Login { version: LOGIN_VERSION, lab: lab_name(), user, url, creds, tls: None };
    let path = scene.lab.dir.path().join("ann.json");
    login.write(&path).unwrap();
    let port = format!("0:{port}");
    let forward =
        Command::new(env!("CARGO_BIN_EXE_pilab")).args(["forward", DEVICE, &port, "--login"]).arg(&path);
    let mut forward = forward.build().stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut told = BufReader::new(forward.stdout.take().unwrap()).lines();
    let line = timeout(SOON, told.next_line()).await.unwrap().unwrap().unwrap();
    (forward, line.split_once(' ').unwrap().0.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_port_carries_a_file_over_the_death_of_the_nats_server() {
    let scene = Scene::start(Model::VmAarch64).await;
    let _ann = scene.held().await;
    let (mut forward, here) = forward(&scene).await;
    let sent: Vec<u8> =
        (0..3 * 1024 * 1024_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut from, mut to) = TcpStream::connect(here).await.unwrap().into_split();
    let (first, rest) = sent.split_at(1024 * 1024);
    let mut received = vec![0; first.len()];
    let both = async { tokio::try_join!(to.write_all(first), from.read_exact(&mut received)) };
    timeout(SOON, both).await.expect("the first part arrives").unwrap();
    kill(scene.lab.pid());
    let sending = async {
        to.write_all(rest).await?;
        to.shutdown().await
    };
    let both = async { tokio::try_join!(sending, from.read_to_end(&mut received)) };
    timeout(3 * SOON, both).await.expect("the rest arrives").unwrap();
    assert!(received == sent, "{} of {} bytes, or others", received.len(), sent.len());
    let pid = forward.id().unwrap().to_string();
    Command::new("kill").args(["-s", "INT", &pid]).output().await.unwrap();
    assert!(timeout(SOON, forward.wait()).await.unwrap().unwrap().success());
    scene.stop().await;
}
