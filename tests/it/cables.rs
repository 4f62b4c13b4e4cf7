//! Consoles that show another device than the one they are wired to.

use crate::journal::{read_all, records};
use crate::nats::{LOCALHOST, SOON};
use crate::support::fake_lab::FakeLab;
use pilab::device::ports::TicketFate;
use pilab::journal::{Entry, Since};
use pilab::model::device::{Capability, Model};
use pilab::model::event::Event;
use pilab::wire::lending::{DEVICES, POWER};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

const ONE: &str = "lab-pi-1";
const TWO: &str = "lab-pi-2";

async fn health(lab: &FakeLab, id: &str) -> (String, String) {
    let rows = lab.ask::<Value>(DEVICES, &json!({})).await;
    let row = rows["devices"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone();
    (row["health"].as_str().unwrap().to_owned(), row["reason"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn boards_whose_cables_are_crossed_are_quarantined_and_a_name_alone_proves_nothing() {
    let lab =
        FakeLab::start(&[(ONE, Model::Pi4B), (TWO, Model::Pi5)], &[Capability::Boot, Capability::Image])
            .await;
    let mut line = lab.devices[ONE].rig.plug().await;

    // Whoever holds the first prints the second's name, which is off.
    line.write_all(b"pilab: ticket ok lab-pi-2\r\npilab: agent started\r\n").await.unwrap();
    let seen =
        read_until(&lab, |event| matches!(event, Event::Stage { line, .. } if line.contains("agent"))).await;
    assert!(!seen.iter().any(|event| matches!(event, Event::CablesCrossed { .. })), "{seen:?}");

    lab.reserve("l1", TWO).await;
    lab.reserve("l2", ONE).await;
    let cycle = |device: &str| json!({"device": device, "act": "cycle", "force": null});
    lab.ask::<Value>(POWER, &cycle(ONE)).await;
    lab.ask::<Value>(POWER, &cycle(TWO)).await;
    let fate = TicketFate::Redeemed { address: LOCALHOST };
    lab.devices[TWO].world.lock().fate.as_ref().unwrap().send_replace(fate);
    line.write_all(b"pilab: ticket ok lab-pi-2\r\n").await.unwrap();
    read_until(&lab, |event| *event == Event::CablesCrossed { shows: TWO.to_owned() }).await;
    let both = async {
        loop {
            let (one, two) = (health(&lab, ONE).await, health(&lab, TWO).await);
            if one.0 == "quarantined" && two.0 == "quarantined" {
                return (one.1, two.1);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let (one, two) = timeout(SOON, both).await.unwrap();
    assert_eq!(one, "its console shows lab-pi-2: serial cables are crossed");
    assert_eq!(two, "the console of lab-pi-1 shows it: serial cables are crossed");
    drop(line);
    lab.stop().await;
}

/// The events of the first device, once one is as it should be.
async fn read_until(lab: &FakeLab, is_it: impl Fn(&Event) -> bool) -> Vec<Event> {
    let reading = async {
        loop {
            let all = records(read_all(&lab.devices[ONE].journal.handle, Since::Start).await);
            let event = |record: pilab::journal::Record| match record.entry {
                Entry::Event(event) => Some(event),
                _ => None,
            };
            let events: Vec<Event> = all.into_iter().filter_map(event).collect();
            if events.iter().any(&is_it) {
                return events;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, reading).await.unwrap()
}
