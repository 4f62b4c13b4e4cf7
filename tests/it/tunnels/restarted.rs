//! Another coordinator has the devices: who was up is entered, who was on its way begins anew.

use super::{Admitted, DEVICE, KEY, LOCALHOST, SOON, Scene, forward, piece};
use crate::support::coordinator::HOST_KEY;
use pilab::device::ports::TicketFate;
use pilab::model::boot::BootAttempt;
use pilab::model::device::Model;
use pilab::model::event::Event;
use pilab::model::netboot::NetbootFact;
use pilab::model::role::Role;
use pilab::wire::lending::POWER;
use pilab::wire::tunnel::ADMIT;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_up_is_entered_through_the_coordinator_after_the_one_that_booted_it() {
    let scene = Scene::start(Model::VmAarch64).await;
    let ann = scene.held().await;
    let id = scene.tunnel(&ann).await.unwrap();
    let scene = scene.restarted().await;
    assert!(
        ann.receive(id, 0).await.unwrap_err().contains("no such tunnel"),
        "it ended with its coordinator"
    );
    scene.world.take();
    let id = scene.tunnel(&ann).await.unwrap();
    assert_eq!(ann.send(id, 0, b"again", false).await, Ok(5));
    assert_eq!(ann.receive(id, 0).await, Ok(piece(b"again")));
    let admitted: Admitted = ann.ask(ADMIT, &json!({"device": DEVICE, "key": KEY})).await.unwrap();
    assert_eq!(admitted.host_key.as_str(), HOST_KEY);
    let acts = scene.world.take();
    assert!(acts.iter().all(|act| act.starts_with("run ") && act.ends_with("as client")), "{acts:?}");

    // What was switched off is entered by nobody, whoever comes.
    ann.ask::<Value>(POWER, &json!({"device": DEVICE, "act": "off", "force": null})).await.unwrap();
    let scene = scene.restarted().await;
    assert!(scene.tunnel(&ann).await.unwrap_err().contains("has not booted"));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_whose_coordinator_died_is_begun_anew_and_the_journal_says_why() {
    let scene = Scene::start(Model::Pi4B).await;
    let ann = scene.user("ann", Role::Admin).await;
    ann.reserve().await;
    ann.ask::<Value>(POWER, &json!({"device": DEVICE, "act": "cycle", "force": null})).await.unwrap();
    scene.world.take();
    // Its ticket has not been exchanged.
    let scene = scene.restarted().await;
    scene.acted("offer 2").await;
    scene.acted("power On").await;
    let told = |events: Vec<Event>| {
        let why = events.into_iter().filter_map(|event| match event {
            Event::BootStalled { at, again: true, .. } => Some(at),
            _ => None,
        });
        why.collect::<Vec<_>>()
    };
    let why = "the coordinator was started anew while it booted";
    assert_eq!(told(scene.events().await), [why]);
    let fate = TicketFate::Redeemed { address: LOCALHOST };
    scene.world.lock().fate.as_ref().unwrap().send_replace(fate);
    let until = async {
        while scene.tunnel(&ann).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, until).await.unwrap();

    // Up, it is left alone, until it asks for its files again.
    scene.world.take();
    let scene = scene.restarted().await;
    scene.tunnel(&ann).await.unwrap();
    assert_eq!(scene.world.take(), Vec::<String>::new());
    let fact =
        NetbootFact::FileRefused { path: "config.txt".into(), cause: "it is to boot nothing now".into() };
    scene.journal.handle.event(BootAttempt(2), Event::Netboot { fact }).await.unwrap();
    scene.acted("offer 3").await;
    assert_eq!(told(scene.events().await), [why, why]);
    scene.stop().await;
}

/// Both ends of a connection through a coordinator that is gone are told by its end; the next one goes through.
#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_connection_ends_with_its_coordinator_and_the_next_one_goes_through_the_next() {
    let scene = Scene::start(Model::VmAarch64).await;
    let _ann = scene.held().await;
    let (mut forward, here) = forward(&scene).await;
    let echoed = async |stream: &mut TcpStream| {
        let mut said = [0; 2];
        stream.write_all(b"hi").await?;
        stream.read_exact(&mut said).await?;
        std::io::Result::Ok(said)
    };
    let mut stream = TcpStream::connect(here).await.unwrap();
    assert_eq!(timeout(SOON, echoed(&mut stream)).await.unwrap().unwrap(), *b"hi");
    let scene = scene.restarted().await;
    let ended = timeout(3 * SOON, stream.read(&mut [0])).await.expect("its user is told");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let mut next = TcpStream::connect(here).await.unwrap();
    assert_eq!(timeout(SOON, echoed(&mut next)).await.unwrap().unwrap(), *b"hi");
    forward.kill().await.unwrap();
    scene.stop().await;
}
