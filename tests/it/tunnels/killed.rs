//! `pilab forward` killed with `kill -9` while bytes are under way: it closes nothing, and nobody tells the coordinator.

use super::{DEVICE, LOCALHOST, SOON, Scene, forward_port};
use crate::support::program::signal;
use pilab::model::device::Model;
use pilab::wire::lending::LEASE;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a tunnel's user may be silent, and a moment.
const MISSED: Duration = Duration::from_secs(60).saturating_add(SOON);
/// The connections that the killed program had.
const CONNECTIONS: usize = 3;
/// The most tunnels of one user.
const OF_USER: usize = 64;

/// A port of the device that talks without end and hears all; each connection that has ended is told.
async fn talker() -> (u16, mpsc::Receiver<()>, JoinSet<()>) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (over, told) = mpsc::channel(CONNECTIONS);
    let mut talking = JoinSet::new();
    talking.spawn(async move {
        let mut each = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let over = over.clone();
            each.spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let (mut heard, said) = (tokio::io::sink(), [7; 4096]);
                let talk = async { while to.write_all(&said).await.is_ok() {} };
                // Whichever way it ends, the connection is gone for the device.
                tokio::select! {
                    _ = tokio::io::copy(&mut from, &mut heard) => {}
                    () = talk => {}
                }
                let _ = over.send(()).await;
            });
        }
    });
    (port, told, talking)
}

/// Bytes go to the device and come from it.
async fn busy(here: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(here).await.unwrap();
    let mut received = vec![0; 256 * 1024];
    let (mut from, mut to) = stream.split();
    let both = async { tokio::try_join!(to.write_all(&[1; 64 * 1024]), from.read_exact(&mut received)) };
    timeout(SOON, both).await.expect("bytes go both ways").unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_killed_leaves_its_lease_and_within_a_minute_nothing_of_its_tunnels() {
    let scene = Scene::start(Model::VmAarch64).await;
    let ann = scene.held().await;
    let (port, mut over, _talking) = talker().await;
    let (mut forward, here) = forward_port(&scene, port).await;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(busy(here).await);
    }
    assert!(over.try_recv().is_err(), "all are open");
    signal(&forward, Signal::KILL);
    forward.wait().await.unwrap();
    for mut stream in streams {
        let mut rest = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("who used it is told");
    }

    // Its user goes on at once, with what was theirs.
    let asked = json!({"lease": "l1", "wait": {"secs": 0, "nanos": 0}});
    let lease: Value = ann.ask(LEASE, &asked).await.unwrap();
    assert_eq!(lease["state"], "granted", "{lease}");
    let (mut forward, here) = forward_port(&scene, scene.echo).await;
    let mut next = TcpStream::connect(here).await.unwrap();
    let mut said = [0; 2];
    let echo = async {
        next.write_all(b"hi").await?;
        next.read_exact(&mut said).await
    };
    timeout(SOON, echo).await.expect("a new tunnel works at once").unwrap();
    assert_eq!(said, *b"hi");

    // The device is told, and what the dead one had is free: the one that lives is the only one that counts.
    let all = async {
        for _ in 0..CONNECTIONS {
            over.recv().await.unwrap();
        }
    };
    timeout(MISSED, all).await.expect("the device's side is closed");
    for open in 1..OF_USER {
        scene.tunnel(&ann).await.unwrap_or_else(|error| panic!("after {open}: {error}"));
    }
    let full = scene.tunnel(&ann).await.unwrap_err();
    assert!(full.contains(&format!("ann has {OF_USER} tunnels open")), "{full}");
    next.write_all(b"yo").await.unwrap();
    timeout(SOON, next.read_exact(&mut said)).await.expect("it works still").unwrap();
    assert_eq!(said, *b"yo");
    let lease: Value = ann.ask(LEASE, &asked).await.unwrap();
    assert_eq!(
        (&lease["state"], lease["devices"].to_string().contains(DEVICE)),
        (&"granted".into(), true),
        "{lease}"
    );
    forward.kill().await.unwrap();
    scene.stop().await;
}
