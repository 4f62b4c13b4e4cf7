//! The embedded nats-server, its credentials and what they confine. Needs `nats-server`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use bytes::Bytes;
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::consume::{Durable, Pulled};
use pilab::bus::error::BusError;
use pilab::bus::issuer::{COORDINATOR, Credentials, Holder, Issuer};
use pilab::bus::provision;
use pilab::bus::server::{EmbeddedServer, ServerError, ServerOptions, ServerState};
use pilab::model::id::{DeploymentName, DeviceId, LabName, UserName};
use pilab::model::lease::FencingToken;
use pilab::model::workload::{Desired, Index, PodmanV0Score, Score};
use pilab::wire::subject;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HOUR: Duration = Duration::from_secs(3600);
/// A bound for what takes milliseconds.
const SOON: Duration = Duration::from_secs(20);
/// How long an answer that must not come is waited for.
const NEVER: Duration = Duration::from_millis(300);
const TOKEN: FencingToken = FencingToken { epoch: 1, sequence: 1 };

struct Lab {
    dir: TempDir,
    issuer: Arc<Issuer>,
    server: EmbeddedServer,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

fn lab_name() -> LabName {
    LabName::new("lab").unwrap()
}

fn device_id(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn web() -> DeploymentName {
    DeploymentName::new("web").unwrap()
}

fn score() -> Score {
    Score::PodmanV0(PodmanV0Score::default())
}

fn options(dir: &Path) -> ServerOptions {
    ServerOptions { dir: dir.join("nats"), listen: LOCALHOST, port: None, program: None }
}

impl Lab {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(dir: TempDir) -> Self {
        let issuer = Arc::new(Issuer::open(dir.path().join("issuer"), &lab_name()).unwrap());
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let server = EmbeddedServer::start(options(dir.path()), issuer.clone(), &tracker, shutdown.clone());
        let server = server.await.unwrap();
        Self { dir, issuer, server, shutdown, tracker }
    }

    /// Stops the server and waits until its task has ended.
    async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.tracker.close();
        tokio::time::timeout(SOON, self.tracker.wait()).await.unwrap();
        assert_eq!(self.server.status().borrow().state, ServerState::Stopped);
        self.dir
    }

    async fn connect(&self, name: &str, credentials: &Credentials) -> Result<Bus, BusError> {
        let options = BusOptions {
            url: self.server.url(),
            creds: credentials.creds.clone(),
            name: name.to_owned(),
            inbox_prefix: subject::inbox(name),
        };
        Bus::connect(options, Some(Duration::from_secs(2))).await
    }

    /// The coordinator's connection, with the buckets made.
    async fn coordinator(&self) -> Bus {
        let bus = self.connect(COORDINATOR, &self.issuer.coordinator(HOUR).unwrap()).await.unwrap();
        provision::buckets(&bus, &lab_name()).await.unwrap();
        bus
    }

    async fn device(&self, name: &str) -> Bus {
        self.connect(name, &self.issuer.device(&device_id(name), HOUR).unwrap()).await.unwrap()
    }

    fn pid(&self) -> u32 {
        match &self.server.status().borrow().state {
            ServerState::Running { pid } => *pid,
            other => panic!("not running: {other:?}"),
        }
    }
}

/// Whether a process is there and not a zombie.
fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !reached() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The request must be refused for want of rights, and not by time-out.
async fn denied(bus: &Bus, subject: &str, body: impl Into<Bytes>) {
    let answer = bus.request(subject, body, Duration::from_secs(3)).await;
    assert!(matches!(answer, Err(BusError::Denied { .. })), "{subject}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_sees_and_writes_its_own_keys_alone() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let (mine, other) = (device_id("lab-one"), device_id("lab-two"));
    for device in [&mine, &other] {
        provision::device(&coordinator, device).await.unwrap();
        provision::put_desired(&coordinator, device, &web(), &score(), TOKEN).await.unwrap();
        coordinator.kv_put(subject::STATUS, &subject::deployment_key(device, &web()), "mine").await.unwrap();
    }
    let bus = lab.device("lab-one").await;

    // What it needs.
    let key = subject::deployment_key(&mine, &web());
    assert!(bus.kv_get(subject::DESIRED, &key).await.unwrap().is_some());
    assert!(bus.kv_get(subject::DESIRED, &subject::index_key(&mine)).await.unwrap().is_some());
    bus.kv_put(subject::STATUS, &key, "ok").await.unwrap();
    bus.kv_put(subject::PRESENCE, mine.as_str(), "here").await.unwrap();
    let durable = Durable::new(bus.clone(), subject::DESIRED, subject::durable(&mine));
    for _ in 0..2 {
        let Pulled::Delivery(delivery) = durable.pull().await.unwrap() else { panic!("nothing to pull") };
        assert!(delivery.key.starts_with("lab-one."), "{delivery:?}");
        durable.ack(&delivery).await.unwrap();
    }
    assert!(bus.connection().borrow().denied.is_none(), "normal operation breaks no rule");

    // Other devices' keys, and what only the coordinator writes.
    denied(&bus, "$JS.API.DIRECT.GET.KV_desired.$KV.desired.lab-two.web", "").await;
    denied(&bus, "$JS.API.DIRECT.GET.KV_desired", r#"{"seq":1}"#).await;
    denied(&bus, "$JS.API.DIRECT.GET.KV_desired.$KV.desired.>", "").await;
    denied(&bus, "$JS.API.STREAM.MSG.GET.KV_desired", r#"{"seq":1}"#).await;
    denied(&bus, "$JS.API.DIRECT.GET.KV_status.$KV.status.lab-one.web", "").await;
    denied(&bus, "$KV.status.lab-two.web", "x").await;
    denied(&bus, "$KV.presence.lab-two", "x").await;
    denied(&bus, "$KV.desired.lab-one.web", "x").await;
    denied(&bus, "$KV.desired.lab-one._index", "x").await;
    denied(&bus, "$KV.lab-lab.lease.x", "x").await;
    // Names that begin like its own, are longer, or hold more tokens.
    for (bucket, key) in [
        (subject::STATUS, "lab-one2.web"),
        (subject::STATUS, "lab-on.web"),
        (subject::STATUS, "lab-one"),
        (subject::STATUS, "x.lab-one.web"),
        (subject::PRESENCE, "lab-one2"),
        (subject::PRESENCE, "lab-one.x"),
        (subject::DESIRED, "lab-one2.web"),
    ] {
        denied(&bus, &subject::key(bucket, key), "x").await;
        denied(&bus, &format!("$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{key}"), "").await;
    }
    denied(&bus, "$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-one2", "").await;
    denied(&bus, "$JS.API.CONSUMER.MSG.NEXT.KV_status.lab-one", "").await;
    denied(&bus, "$JS.ACK.KV_desired.lab-one2.1.1.1.1.1", "+ACK").await;
    // The structure of the store.
    for call in [
        "INFO",
        "STREAM.LIST",
        "STREAM.NAMES",
        "CONSUMER.NAMES.KV_desired",
        "STREAM.INFO.KV_desired",
        "STREAM.PURGE.KV_status",
        "STREAM.DELETE.KV_status",
        "STREAM.UPDATE.KV_status",
        "STREAM.MSG.DELETE.KV_status",
        "CONSUMER.LIST.KV_desired",
        "CONSUMER.INFO.KV_desired.lab-one",
        "CONSUMER.INFO.KV_desired.lab-two",
        "CONSUMER.MSG.NEXT.KV_desired.lab-two",
        "CONSUMER.DELETE.KV_desired.lab-one",
        "CONSUMER.DELETE.KV_desired.lab-two",
    ] {
        denied(&bus, &format!("$JS.API.{call}"), r#"{"subjects_filter":">"}"#).await;
    }
    denied(&bus, "$JS.ACK.KV_desired.lab-two.1.1.1.1.1", "+ACK").await;
    // Consumers: to read all, to re-point another's, to deliver into another's subjects.
    let all = json!({"stream_name": "KV_desired", "config": {"filter_subject": "$KV.desired.>", "ack_policy": "none"}});
    let many = json!({"stream_name": "KV_desired", "config": {
        "durable_name": "lab-one", "filter_subjects": ["$KV.desired.lab-one.>", "$KV.desired.lab-two.>"],
        "ack_policy": "none"}});
    let stolen = json!({"stream_name": "KV_desired", "config": {
        "durable_name": "lab-two", "filter_subject": "$KV.desired.lab-one.>", "ack_policy": "explicit"}});
    let injected = json!({"stream_name": "KV_desired", "config": {
        "deliver_subject": "fleet.lab-two.ping", "filter_subject": "$KV.desired.lab-one.>", "ack_policy": "none"}});
    for (call, body) in [
        ("CREATE.KV_desired", &all),
        ("CREATE.KV_desired.*.$KV.desired.lab-one.>", &all),
        ("CREATE.KV_desired.lab-one.$KV.desired.>", &all),
        ("CREATE.KV_desired.lab-one.$KV.desired.lab-one.>", &many),
        ("CREATE.KV_desired.lab-one", &many),
        ("CREATE.KV_desired.x.$KV.desired.lab-one.>", &stolen),
        ("CREATE.KV_desired.lab-two.$KV.desired.lab-one.>", &stolen),
        ("CREATE.KV_desired.lab-one.$KV.desired.lab-one.>", &injected),
        ("DURABLE.CREATE.KV_desired.lab-two", &stolen),
        ("DURABLE.CREATE.KV_desired.lab-one", &stolen),
    ] {
        denied(&bus, &format!("$JS.API.CONSUMER.{call}"), body.to_string()).await;
    }
    // Other clients.
    denied(&bus, "fleet.lab-two.ping", "").await;
    denied(&bus, "fleet.lab-one.ping", "").await;
    denied(&bus, "lab.lab.req.ann.run", "").await;
    denied(&bus, "lab.lab.run.r1", "").await;
    denied(&bus, "lab.lab.event.lab-one", "").await;
    denied(&bus, "_INBOX.coordinator.x.y", "").await;
    denied(&bus, "_INBOX.lab-two.x", "").await;
    denied(&bus, "$SYS.REQ.SERVER.PING", "").await;

    let told = bus.denials();
    assert!(!told.is_empty() && told.len() <= 16, "what was denied is told, and bounded: {told:?}");
    assert!(told.iter().any(|denied| denied.subject.ends_with("lab-two.web")), "{told:?}");

    // Its own subject, but a header that would empty the whole bucket.
    let raw = raw_client(&lab, &lab.issuer.device(&mine, HOUR).unwrap(), "lab-one").await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    let answer =
        raw.request_with_headers("$KV.status.lab-one.web".to_string(), headers, "x".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("10111"), "{answer:?}");
    let kept = coordinator.kv_get(subject::STATUS, &subject::deployment_key(&other, &web())).await.unwrap();
    assert_eq!(kept.unwrap().value, "mine");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_cannot_listen_to_others() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let bus = lab.device("lab-one").await;
    for subject in [
        ">",
        "$KV.>",
        "$KV.desired.lab-one.web",
        "_INBOX.>",
        "_INBOX.coordinator.>",
        "_INBOX.*.>",
        "fleet.>",
        "fleet.lab-two.ping",
        "lab.lab.req.>",
        "lab.lab.console.lab-two",
        "$SYS.>",
        "$JS.>",
    ] {
        let mut subscription = bus.subscribe(subject).await.unwrap();
        let mut connection = bus.connection();
        let told = connection.wait_for(|now| now.denied.as_ref().is_some_and(|d| d.subject == subject));
        tokio::time::timeout(SOON, told).await.unwrap_or_else(|_| panic!("{subject} is not denied")).unwrap();
        coordinator.publish("fleet.lab-two.ping", "x").await.unwrap();
        coordinator.flush().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), subscription.next()).await.is_err());
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_answers_what_it_was_asked_once_and_nothing_else() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let bus = lab.device("lab-one").await;
    let mut requests = bus.subscribe("fleet.lab-one.>").await.unwrap();
    bus.flush().await.unwrap();
    let mut inbox = coordinator.subscribe("_INBOX.coordinator.test.>").await.unwrap();
    coordinator.flush().await.unwrap();
    let raw = raw_client(&lab, &lab.issuer.coordinator(HOUR).unwrap(), COORDINATOR).await;
    let publish = raw.publish_with_reply("fleet.lab-one.ping", "_INBOX.coordinator.test.1", "?".into());
    publish.await.unwrap();
    raw.flush().await.unwrap();
    let request = tokio::time::timeout(SOON, requests.next()).await.unwrap().unwrap();
    assert_eq!(request.reply.as_deref(), Some("_INBOX.coordinator.test.1"));
    // The neighbour of a reply subject that it knows.
    denied(&bus, "_INBOX.coordinator.test.2", "forged").await;
    bus.publish("_INBOX.coordinator.test.1", "!").await.unwrap();
    bus.flush().await.unwrap();
    let answer = tokio::time::timeout(SOON, inbox.next()).await.unwrap().unwrap();
    assert_eq!(answer.payload, "!");
    denied(&bus, "_INBOX.coordinator.test.1", "again").await;
    assert!(tokio::time::timeout(NEVER, inbox.next()).await.is_err());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_asks_under_her_own_name_alone() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let ann =
        lab.connect("ann", &lab.issuer.user(&UserName::new("ann").unwrap(), HOUR).unwrap()).await.unwrap();
    let mut requests = coordinator.subscribe(subject::requests(&lab_name())).await.unwrap();
    let mut events = ann.subscribe("lab.lab.event.>").await.unwrap();
    coordinator.flush().await.unwrap();
    ann.flush().await.unwrap();
    ann.publish("lab.lab.req.ann.hello", "x").await.unwrap();
    let request = tokio::time::timeout(SOON, requests.next()).await.unwrap().unwrap();
    assert_eq!(subject::parse_request(&request.subject), Some((UserName::new("ann").unwrap(), "hello")));
    coordinator.publish("lab.lab.event.lab-one", "e").await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap().payload, "e");
    for subject in [
        "lab.lab.req.bob.hello",
        "lab.other.req.ann.hello",
        "lab.lab.event.lab-one",
        "lab.lab.console.lab-one",
        "lab.lab.run.r1",
        "fleet.lab-one.ping",
        "$KV.desired.lab-one.web",
        "$JS.API.INFO",
        "$JS.API.STREAM.LIST",
        "_INBOX.coordinator.x",
    ] {
        denied(&ann, subject, "").await;
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_cuts_off_one_boot_attempt_and_nobody_else() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let old = lab.issuer.device(&device_id("lab-one"), HOUR).unwrap();
    let (first, second) = (lab.connect("lab-one", &old).await.unwrap(), lab.device("lab-one").await);
    let other = lab.device("lab-two").await;
    let began = Instant::now();
    lab.issuer.revoke(&lab.server.url(), Holder::Device, &old.public_key, old.expires).await.unwrap();
    let pushed = began.elapsed();
    let mut connection = first.connection();
    tokio::time::timeout(SOON, connection.wait_for(|now| !now.up)).await.unwrap().unwrap();
    println!("revoke: pushed after {pushed:?}, cut off after {:?}", began.elapsed());
    lab.connect("lab-one", &old).await.unwrap_err();
    // The same device's later attempt, another device and the coordinator have noticed nothing.
    for (bus, key) in [(&second, "lab-one.web"), (&other, "lab-two.web"), (&coordinator, "lab-one.x")] {
        bus.kv_put(subject::STATUS, key, "ok").await.unwrap();
        assert_eq!(bus.connection().borrow().epoch, 1);
    }
    lab.device("lab-one").await;

    // It holds over a restart of server and coordinator.
    let lab = Lab::start_in(lab.stop().await).await;
    lab.connect("lab-one", &old).await.unwrap_err();
    lab.device("lab-one").await;
    let revoked = std::fs::metadata(lab.dir.path().join("issuer/revoked.json")).unwrap();
    assert_eq!(revoked.permissions().mode() & 0o777, 0o600);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_the_server_missed_holds_from_its_next_start() {
    let lab = Lab::start().await;
    let old = lab.issuer.device(&device_id("lab-one"), HOUR).unwrap();
    let url = lab.server.url();
    let dir = lab.stop().await;
    let issuer = Issuer::open(dir.path().join("issuer"), &lab_name()).unwrap();
    issuer.revoke(&url, Holder::Device, &old.public_key, old.expires).await.unwrap_err();
    drop(issuer);
    let lab = Lab::start_in(dir).await;
    lab.connect("lab-one", &old).await.unwrap_err();
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_on_its_port_with_its_data() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    coordinator.kv_put(subject::STATUS, "lab-one.web", "kept").await.unwrap();
    let (port, pid) = (lab.server.port(), lab.pid());
    let (mut status, mut connection) = (lab.server.status(), coordinator.connection());
    let began = Instant::now();
    kill(pid);
    let back = |now: &pilab::bus::server::ServerStatus| {
        now.deaths == 1 && matches!(now.state, ServerState::Running { .. })
    };
    tokio::time::timeout(SOON, status.wait_for(back)).await.unwrap().unwrap();
    println!("killed server: back after {:?}", began.elapsed());
    tokio::time::timeout(SOON, connection.wait_for(|now| now.up && now.epoch == 2)).await.unwrap().unwrap();
    println!("killed server: client reconnected after {:?}", began.elapsed());
    assert_ne!(lab.pid(), pid);
    assert_eq!(lab.server.port(), port);
    let kept = coordinator.kv_get(subject::STATUS, "lab-one.web").await.unwrap().unwrap();
    assert_eq!(kept.value, "kept");

    // The same port and data for the next coordinator.
    let lab = Lab::start_in(lab.stop().await).await;
    assert_eq!(lab.server.port(), port);
    assert!(lab.coordinator().await.kv_get(subject::STATUS, "lab-one.web").await.unwrap().is_some());
    let pid = lab.pid();
    lab.stop().await;
    assert!(!lives(pid));
}

/// Not a test of its own: the owner that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn helper_owner_that_is_killed() {
    let Some(dir) = std::env::var_os("PILAB_TEST_NATS_OWNER") else { return };
    let dir = Path::new(&dir);
    let issuer = Arc::new(Issuer::open(dir.join("issuer"), &lab_name()).unwrap());
    let tracker = TaskTracker::new();
    let _server =
        EmbeddedServer::start(options(dir), issuer, &tracker, CancellationToken::new()).await.unwrap();
    std::fs::write(dir.join("up"), "").unwrap();
    std::future::pending::<()>().await;
}

/// Starts this test binary again as an owner of `dir`, kills it, and answers its server's pid.
async fn killed_owner(dir: &Path) -> u32 {
    let this = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let mut owner = pilab::support::command::Command::new(this)
        .args(["--exact", "nats::helper_owner_that_is_killed", "--nocapture"])
        .env("PILAB_TEST_NATS_OWNER", dir.to_string_lossy())
        .build()
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the owner's server is up", || dir.join("up").exists()).await;
    let pid = std::fs::read_to_string(dir.join("nats/nats-server.pid")).unwrap();
    let pid = pid.split(' ').next().unwrap().parse().unwrap();
    assert!(lives(pid));
    assert_eq!(EmbeddedServer::sweep(&dir.join("nats")).await.unwrap(), None, "its owner lives");
    owner.kill().await.unwrap();
    pid
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_outlives_a_killed_owner() {
    let dir = tempfile::tempdir().unwrap();
    let pid = killed_owner(dir.path()).await;
    if Path::new("/usr/bin/setpriv").exists() {
        let began = Instant::now();
        until("the kernel ended the server", || !lives(pid)).await;
        println!("killed owner: its server was gone after {:?}", began.elapsed());
    }
    // Also where the kernel was not asked to: the next start in the directory.
    let lab = Lab::start_in(dir).await;
    assert!(!lives(pid));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_ends_what_its_mark_fits_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let nats = dir.path().join("nats");
    std::fs::create_dir(&nats).unwrap();
    let mut sleeper = pilab::support::command::Command::new("sleep").arg("600").build().spawn().unwrap();
    let pid = sleeper.id().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let started: u64 =
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mark = |started: u64, boot: &str| format!("{pid} {started} {boot}");
    let file = nats.join("nats-server.pid");
    for other in
        [mark(started + 1, &boot), mark(started, "another-boot"), pid.to_string(), "x".into(), "".into()]
    {
        std::fs::write(&file, &other).unwrap();
        assert_eq!(EmbeddedServer::sweep(&nats).await.unwrap(), None, "{other}");
        assert!(sleeper.try_wait().unwrap().is_none(), "{other}");
        assert!(!file.exists());
    }
    std::fs::write(&file, mark(started, &boot)).unwrap();
    assert_eq!(EmbeddedServer::sweep(&nats).await.unwrap(), Some(i32::try_from(pid).unwrap()));
    tokio::time::timeout(SOON, sleeper.wait()).await.unwrap().unwrap();
    assert_eq!(EmbeddedServer::sweep(&nats).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_server_from_starting_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Arc::new(Issuer::open(dir.path().join("issuer"), &lab_name()).unwrap());
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let start = |options| EmbeddedServer::start(options, issuer.clone(), &tracker, token.clone());

    let error = start(ServerOptions { program: Some("/nowhere/nats-server".into()), ..options(dir.path()) });
    let error = error.await.unwrap_err();
    assert!(matches!(error, ServerError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/nats-server") && error.hint().is_some());

    let holder = TcpListener::bind((LOCALHOST, 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    let error = start(ServerOptions { port: Some(port), ..options(dir.path()) }).await.unwrap_err();
    assert!(matches!(error, ServerError::PortTaken { port: named, .. } if named == port), "{error}");
    assert!(error.to_string().contains(&port.to_string()) && error.hint().is_some());

    // A server that ends at once: the error quotes its log.
    std::fs::create_dir_all(dir.path().join("nats")).unwrap();
    std::fs::write(dir.path().join("nats/store"), "not a directory").unwrap();
    let error = start(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, ServerError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("storage directory"), "{error}");
    std::fs::remove_file(dir.path().join("nats/store")).unwrap();

    let _server = start(options(dir.path())).await.unwrap();
    let error = start(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, ServerError::InUse { .. }), "{error}");
    token.cancel();
    tracker.close();
    tracker.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_start_leaves_nothing_of_the_last_holder() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    provision::buckets(&coordinator, &lab_name()).await.unwrap();
    let (mine, other) = (device_id("lab-one"), device_id("lab-two"));
    for device in [&mine, &other] {
        provision::device(&coordinator, device).await.unwrap();
        provision::put_desired(&coordinator, device, &web(), &score(), TOKEN).await.unwrap();
        coordinator.kv_put(subject::STATUS, &subject::deployment_key(device, &web()), "x").await.unwrap();
        coordinator.kv_put(subject::PRESENCE, device.as_str(), "x").await.unwrap();
    }
    provision::device(&coordinator, &mine).await.unwrap();
    assert_eq!(coordinator.kv_keys(subject::DESIRED, ">").await.unwrap(), ["lab-two._index", "lab-two.web"]);
    assert_eq!(coordinator.kv_keys(subject::STATUS, ">").await.unwrap(), ["lab-two.web"]);
    assert_eq!(coordinator.kv_keys(subject::PRESENCE, ">").await.unwrap(), ["lab-two"]);
    let info: Value = coordinator.api("CONSUMER.INFO.KV_desired.lab-one", &Value::Null).await.unwrap();
    assert_eq!(info["num_pending"], 0, "{info}");
    assert_eq!(info["config"]["filter_subject"], "$KV.desired.lab-one.>");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desired_state_and_its_index_go_together() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    let device = device_id("lab-one");
    provision::device(&bus, &device).await.unwrap();
    let key = subject::deployment_key(&device, &web());
    let desired = async || -> Option<Desired> {
        let entry = bus.kv_get(subject::DESIRED, &key).await.unwrap().filter(|entry| !entry.deleted)?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    };
    let indexed = async || -> Option<u64> {
        let entry = bus.kv_get(subject::DESIRED, &subject::index_key(&device)).await.unwrap()?;
        serde_json::from_slice::<Index>(&entry.value).unwrap().deployments.get(&web()).copied()
    };
    let put = async |token| provision::put_desired(&bus, &device, &web(), &score(), token).await;

    let mut last = (0, 0);
    for _ in 0..3 {
        let next = put(TOKEN).await.unwrap();
        assert!(next.0 > last.0 && next.1 > last.1, "{last:?} {next:?}");
        assert_eq!((desired().await.unwrap().generation, indexed().await), (next.0, Some(next.0)));
        last = next;
    }
    // Another deployment's entry stays.
    let db = DeploymentName::new("db").unwrap();
    provision::put_desired(&bus, &device, &db, &score(), TOKEN).await.unwrap();
    assert_eq!(indexed().await, Some(last.0));

    assert!(provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap().is_some());
    assert_eq!((desired().await, indexed().await), (None, None));
    assert_eq!(provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap(), None);
    let again = put(TOKEN).await.unwrap();
    assert!(again.0 > last.0, "grows over a deletion: {last:?} {again:?}");

    // Something that nobody understands stands in nobody's way.
    bus.kv_put(subject::DESIRED, &key, "{").await.unwrap();
    let after = put(TOKEN).await.unwrap();
    assert!(after.0 > again.0);
    bus.kv_put(subject::DESIRED, &key, "{").await.unwrap();
    assert!(provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap().is_some());

    // A later lease fences off an earlier one.
    put(FencingToken { epoch: 1, sequence: 2 }).await.unwrap();
    let error = put(TOKEN).await.unwrap_err();
    assert!(matches!(error, provision::ProvisionError::Fenced { .. }), "{error}");
    provision::delete_desired(&bus, &device, &web(), TOKEN).await.unwrap_err();

    // Many at once: each takes part, none is lost.
    let names: Vec<_> = (0..4).map(|n| DeploymentName::new(format!("n{n}")).unwrap()).collect();
    let score = score();
    let puts = names.iter().map(|name| provision::put_desired(&bus, &device, name, &score, TOKEN));
    for done in futures_util::future::join_all(puts).await {
        done.unwrap();
    }
    let entry = bus.kv_get(subject::DESIRED, &subject::index_key(&device)).await.unwrap().unwrap();
    let index: Index = serde_json::from_slice(&entry.value).unwrap();
    assert!(names.iter().all(|name| index.deployments.contains_key(name)), "{index:?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_times_it_takes() {
    let began = Instant::now();
    let lab = Lab::start().await;
    println!("start to ready: {:?}", began.elapsed());
    let began = Instant::now();
    for number in 0..1000 {
        lab.issuer.device(&device_id(&format!("lab-{number}")), HOUR).unwrap();
    }
    println!("1,000 device credentials: {:?}", began.elapsed());
    let began = Instant::now();
    lab.stop().await;
    println!("stop: {:?}", began.elapsed());
}

/// A connection by async-nats itself, for what `Bus` offers nobody.
async fn raw_client(lab: &Lab, credentials: &Credentials, name: &str) -> async_nats::Client {
    async_nats::ConnectOptions::with_credentials(&credentials.creds)
        .unwrap()
        .custom_inbox_prefix(subject::inbox(name))
        .connect(lab.server.url())
        .await
        .unwrap()
}

/// JetStream answers to whatever reply subject a request names, with no rights of its own to check. The
/// answers to a device end in the devices' account, which has no streams, whatever they are aimed at.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_of_the_server_can_be_aimed_at_a_key_or_at_the_coordinator() {
    let lab = Lab::start().await;
    let coordinator = lab.coordinator().await;
    let (mine, other) = (device_id("lab-one"), device_id("lab-two"));
    for device in [&mine, &other] {
        provision::device(&coordinator, device).await.unwrap();
        provision::put_desired(&coordinator, device, &web(), &score(), TOKEN).await.unwrap();
        coordinator.kv_put(subject::STATUS, &subject::deployment_key(device, &web()), "mine").await.unwrap();
        coordinator.kv_put(subject::PRESENCE, device.as_str(), "mine").await.unwrap();
    }
    let keys = [
        (subject::DESIRED, "lab-two.web"),
        (subject::DESIRED, "lab-two._index"),
        (subject::DESIRED, "lab-one.web"),
        (subject::STATUS, "lab-two.web"),
        (subject::PRESENCE, "lab-two"),
        ("lab-lab", "lease.x"),
    ];
    let look = async || {
        futures_util::future::join_all(keys.map(|(bucket, key)| coordinator.kv_get(bucket, key))).await
    };
    let before: Vec<_> = look().await.into_iter().map(Result::unwrap).collect();
    let mut inbox = coordinator.subscribe("_INBOX.coordinator.test.>").await.unwrap();
    coordinator.flush().await.unwrap();
    let raw = raw_client(&lab, &lab.issuer.device(&mine, HOUR).unwrap(), "lab-one").await;
    let targets = keys.map(|(bucket, key)| subject::key(bucket, key));
    let inboxes = ["_INBOX.coordinator.test.x", "lab.lab.req.ann.run", "lab.lab.run.r1"].map(str::to_owned);
    for reply in targets.into_iter().chain(inboxes) {
        for (request, body) in [
            ("$JS.API.DIRECT.GET.KV_desired.$KV.desired.lab-one.web", ""),
            ("$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-one", "{"),
            ("$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-one", r#"{"batch":1,"no_wait":true}"#),
            ("$KV.status.lab-one.web", "x"),
        ] {
            raw.publish_with_reply(request.to_owned(), reply.clone(), body.into()).await.unwrap();
            // The device's own answer comes after what its earlier requests caused.
            raw.request("$KV.status.lab-one.x".to_owned(), "x".into()).await.unwrap();
            let now: Vec<_> = look().await.into_iter().map(Result::unwrap).collect();
            assert_eq!(now, before, "{request} with the reply subject {reply}");
        }
    }
    assert!(tokio::time::timeout(NEVER, inbox.next()).await.is_err(), "an answer reached the coordinator");
    lab.stop().await;
}
