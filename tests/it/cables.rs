//! Consoles that show another device than the one they are wired to.

use crate::journal::{read_all, records};
use crate::nats::SOON;
use crate::support::fake_lab::FakeLab;
use pilab::journal::{Entry, Since};
use pilab::model::device::{Capability, Model};
use pilab::model::event::Event;
use pilab::model::identity::{Mark, file};
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

/// What the console of a device says that has exchanged the ticket of its current boot attempt.
fn says(lab: &FakeLab, id: &str) -> String {
    let files = lab.devices[id].world.lock().files.clone();
    let (_, mark) = files.into_iter().find(|(name, _)| name == file::MARK).unwrap();
    format!("pilab: ticket ok {id} {}", String::from_utf8(mark).unwrap().trim())
}

#[tokio::test(flavor = "multi_thread")]
async fn boards_whose_cables_are_crossed_are_quarantined_and_what_anybody_can_print_proves_nothing() {
    let lab =
        FakeLab::start(&[(ONE, Model::Pi4B), (TWO, Model::Pi5)], &[Capability::Boot, Capability::Image])
            .await;
    let (mut line, mut other) = (lab.devices[ONE].rig.plug().await, lab.devices[TWO].rig.plug().await);
    lab.reserve("l1", TWO).await;
    lab.reserve("l2", ONE).await;
    let cycle = |device: &str| json!({"device": device, "act": "cycle", "force": null});

    // Whoever holds the first prints the second's name, while that one's own console is silent.
    lab.ask::<Value>(POWER, &cycle(TWO)).await;
    let shown = says(&lab, TWO);
    for forged in [
        format!("pilab: ticket ok {TWO}"),
        format!("pilab: ticket ok {TWO} {}", Mark::from_random(1)),
        shown.clone(),
    ] {
        if forged == shown {
            // What the second's own console shows can be read by all.
            other.write_all(format!("{shown}\r\n").as_bytes()).await.unwrap();
            read_until(&lab, TWO, is_line(&shown)).await;
        }
        lab.ask::<Value>(POWER, &cycle(ONE)).await;
        line.write_all(format!("{forged}\r\n").as_bytes()).await.unwrap();
        read_until(&lab, ONE, is_line(&forged)).await;
    }

    // Then the cables are crossed. One line is judged after the other, so this tells what the others came to, too.
    for device in [ONE, TWO] {
        lab.ask::<Value>(POWER, &cycle(device)).await;
    }
    let twos = says(&lab, TWO);
    line.write_all(format!("{twos}\r\n").as_bytes()).await.unwrap();
    // What another says would quarantine both as well, with other reasons.
    other.write_all(b"pilab: ticket ok lab-pi-1\r\n").await.unwrap();
    let crossed = Event::CablesCrossed { shows: TWO.to_owned() };
    let seen = read_until(&lab, ONE, |event| *event == crossed).await;
    let last = seen.iter().rfind(|event| matches!(event, Event::Stage { .. }));
    assert!(last.is_some_and(is_line(&twos)), "{seen:?}");
    let told = seen.iter().filter(|event| matches!(event, Event::CablesCrossed { .. })).count();
    assert_eq!(told, 1, "what anybody can print proves nothing: {seen:?}");
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

fn is_line(text: &str) -> impl Fn(&Event) -> bool {
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
