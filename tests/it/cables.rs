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

    // Whoever holds the first prints the second's name, which is up and shows it on its own console.
    let cycle = |device: &str| json!({"device": device, "act": "cycle", "force": null});
    let ticket = || {
        let fate = TicketFate::Redeemed { address: LOCALHOST };
        lab.devices[TWO].world.lock().fate.as_ref().unwrap().send_replace(fate);
    };
    let mut other = lab.devices[TWO].rig.plug().await;
    lab.reserve("l1", TWO).await;
    lab.reserve("l2", ONE).await;
    lab.ask::<Value>(POWER, &cycle(TWO)).await;
    ticket();
    other.write_all(b"pilab: ticket ok lab-pi-2\r\n").await.unwrap();
    read_until(&lab, TWO, is_line("lab-pi-2")).await;
    line.write_all(b"pilab: ticket ok lab-pi-2\r\n").await.unwrap();
    read_until(&lab, ONE, is_line("lab-pi-2")).await;

    // Then the cables are crossed. One line is judged after the other, so this tells what the first came to, too.
    for device in [ONE, TWO] {
        lab.ask::<Value>(POWER, &cycle(device)).await;
    }
    ticket();
    other.write_all(b"pilab: ticket ok lab-pi-1\r\n").await.unwrap();
    line.write_all(b"pilab: ticket ok lab-pi-2\r\n").await.unwrap();
    let crossed = Event::CablesCrossed { shows: TWO.to_owned() };
    let seen = read_until(&lab, ONE, |event| *event == crossed).await;
    let before = seen.iter().take_while(|event| **event != crossed);
    let lines = before.filter(|event| is_line("lab-pi-2")(event)).count();
    assert_eq!(lines, 2, "the name alone proves nothing: {seen:?}");
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
    drop((line, other));
    lab.stop().await;
}

fn is_line(shows: &str) -> impl Fn(&Event) -> bool {
    let text = format!("pilab: ticket ok {shows}");
    move |event| matches!(event, Event::Stage { line, .. } if *line == text)
}

/// The events of a device, once one is as it should be.
async fn read_until(lab: &FakeLab, device: &str, is_it: impl Fn(&Event) -> bool) -> Vec<Event> {
    let reading = async {
        loop {
            let all = records(read_all(&lab.devices[device].journal.handle, Since::Start).await);
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
