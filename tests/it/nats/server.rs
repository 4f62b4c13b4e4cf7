//! The server as a child: ports, data, owners that are killed, and why it does not start.

use super::{HOUR, LOCALHOST, Lab, SOON, device_id, kill, lab_name, lives, options, until};
use pilab::bus::issuer::Issuer;
use pilab::bus::server::{EmbeddedServer, ServerError, ServerOptions, ServerState};
use pilab::wire::subject;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

/// A server that dies with questions in hand: whoever asked is answered by the next one, and waits for no time-out.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_was_asked_is_asked_again() {
    let lab = Lab::start().await;
    let bus = lab.coordinator().await;
    bus.kv_put(subject::STATUS, "lab-one.web", "kept").await.unwrap();
    let stopped = rustix::process::Pid::from_raw(lab.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
    let replicated = bus.replicated(3);
    let asked = async {
        tokio::join!(
            bus.kv_get(subject::STATUS, "lab-one.web"),
            bus.kv_get(subject::STATUS, "lab-one.none"),
            bus.kv_keys(subject::STATUS, ">"),
            // From the leader.
            replicated.kv_get(subject::STATUS, "lab-one.web"),
        )
    };
    let kill = async {
        // They are written out: a stopped server takes none of them.
        bus.flush().await.unwrap();
        kill(lab.pid());
    };
    let ((here, absent, keys, led), ()) = tokio::join!(biased; asked, kill);
    assert_eq!(here.unwrap().unwrap().value, "kept");
    assert_eq!(absent.unwrap(), None);
    assert_eq!(keys.unwrap(), ["lab-one.web"]);
    assert_eq!(led.unwrap().unwrap().value, "kept");
    lab.stop().await;
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
        .args(["--exact", "nats::server::helper_owner_that_is_killed", "--nocapture"])
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
