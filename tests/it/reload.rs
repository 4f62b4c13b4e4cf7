//! The lab file read anew by a coordinator that goes on, through the program itself.

use crate::agent::lab::installed;
use crate::support::program::{PATIENCE, Program, finish, signal};
use crate::support::script;
use rustix::process::Signal;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A lab file: each board behind the switch of that number, which writes down what it is told.
struct Rack(Program);

const HEAD: &str = "name = \"rack\"\nstagger = \"0s\"\n";

impl Rack {
    fn new(boards: &[(&str, &str)]) -> Option<Self> {
        if !installed("nats-server", "podman") {
            return None;
        }
        let program = Program::new("");
        let switch = program.path("switch");
        script::write(&switch, "#!/bin/sh\necho \"$1 $2\" >> \"$(dirname \"$0\")/switched\"\n");
        let rack = Self(program);
        rack.write(HEAD, boards);
        Some(rack)
    }

    fn write(&self, head: &str, boards: &[(&str, &str)]) {
        let (switch, mut text) = (self.0.path("switch"), head.to_owned());
        for (id, number) in boards {
            let on = format!("[{switch:?}, \"on\", \"{number}\"]");
            writeln!(text, "[[devices]]\nid = {id:?}\nmodel = \"pi4b\"\nmin_off = \"1ms\"").unwrap();
            writeln!(
                text,
                "power = {{ driver = \"command\", on = {on}, off = [{switch:?}, \"off\", \"{number}\"] }}"
            )
            .unwrap();
        }
        std::fs::write(&self.0.lab, text).unwrap();
    }

    async fn reload(&self) -> Value {
        self.0.pilab(&["coordinator", "reload", "--json"]).await.done().json().remove(0)
    }

    /// What the switches were told, since it was looked last.
    fn told(&self, from: &mut usize) -> Vec<String> {
        let told = std::fs::read_to_string(self.0.path("switched")).unwrap_or_default();
        let lines: Vec<String> = told.lines().map(str::to_owned).collect();
        lines[std::mem::replace(from, lines.len())..].to_vec()
    }

    async fn free(&self, id: &str) {
        self.0.device_until(id, "it is free", |row| row["usage"]["state"] == "free").await;
    }

    /// Its devices, once they are these.
    async fn devices(&self, ids: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = self.0.devices().await;
            let now: Vec<_> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
            if now == ids {
                return;
            }
            assert!(Instant::now() < deadline, "{now:?}, not {ids:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn what_nobody_has_changes_at_once_and_what_is_lent_when_it_comes_back() {
    let Some(rack) = Rack::new(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]) else { return };
    let coordinator = rack.0.coordinator().await;
    let bob = rack.0.login("bob", "user").await;
    for id in ["rack-a", "rack-b", "rack-c", "rack-d"] {
        rack.free(id).await;
    }
    let reserve = async |device: &str| {
        let lease = rack.0.pilab(&["reserve", device, "--json"]).await.done().json().remove(0);
        lease["lease"].as_str().unwrap().to_owned()
    };
    let (a, c) = (reserve("rack-a").await, reserve("rack-c").await);
    let waits = rack.0.command(&["reserve", "rack-a", "--login", bob.to_str().unwrap()]).build();
    let mut waits =
        { waits }.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut seen = 0;
    rack.0.pilab(&["power", "on", "rack-a"]).await.done();
    rack.told(&mut seen);

    // Other switches for a and b, c and d gone, e new.
    rack.write(HEAD, &[("a", "5"), ("b", "6"), ("e", "7")]);
    rack.0.as_user(&bob, &["coordinator", "reload"]).await.refused("takes the role admin");
    let done = rack.reload().await;
    let ids =
        |key: &str| done[key].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        (ids("added"), ids("changed"), ids("removed"), ids("pending")),
        (vec!["rack-e"], vec!["rack-b"], vec!["rack-d"], vec!["rack-a", "rack-c"])
    );
    rack.devices(&["rack-a", "rack-b", "rack-c", "rack-e"]).await;
    rack.free("rack-b").await;
    rack.free("rack-e").await;
    // What is lent is as it was, and says what will become of it.
    let told = rack.told(&mut seen);
    assert!(!told.iter().any(|line| line.ends_with(" 1") || line.ends_with(" 5")), "{told:?}");
    rack.0.pilab(&["power", "off", "rack-a"]).await.done();
    assert_eq!(rack.told(&mut seen), ["off 1"]);
    let rows = rack.0.devices().await;
    assert_eq!((&rows[0]["pending"], &rows[2]["pending"]), (&"changed".into(), &"removed".into()));
    rack.0.pilab(&["power", "on", "rack-c"]).await.done();
    assert_eq!(rack.told(&mut seen), ["on 3"]);

    // Back, it is off by its old switch, then what the file says; who waited has it.
    rack.0.pilab(&["release", &a, &c]).await.done();
    let granted = tokio::time::timeout(PATIENCE, waits.wait()).await.unwrap().unwrap();
    assert!(granted.success());
    rack.devices(&["rack-a", "rack-b", "rack-e"]).await;
    assert_eq!(rack.told(&mut seen).iter().filter(|line| *line == "off 3" || *line == "off 1").count(), 2);
    rack.0.as_user(&bob, &["power", "on", "rack-a"]).await.done();
    assert_eq!(rack.told(&mut seen).last().map(String::as_str), Some("on 5"));
    assert_eq!(rack.0.devices().await[0].get("pending"), None);

    // SIGHUP does the same.
    rack.write(HEAD, &[("a", "5"), ("b", "6"), ("e", "7"), ("f", "8")]);
    signal(&coordinator, Signal::HUP);
    rack.devices(&["rack-a", "rack-b", "rack-e", "rack-f"]).await;
    rack.0.as_user(&bob, &["power", "off", "rack-a"]).await.done();
    finish(coordinator).await;
}

#[tokio::test]
async fn a_device_that_could_not_be_made_anew_is_made_when_the_file_is_as_before() {
    let Some(rack) = Rack::new(&[("a", "1"), ("b", "2")]) else { return };
    let coordinator = rack.0.coordinator().await;
    rack.free("rack-a").await;
    // A line that this machine does not have.
    rack.write(HEAD, &[("b", "2"), ("a", "1")]);
    let file = std::fs::read_to_string(&rack.0.lab).unwrap();
    let (rest, _) = file.rsplit_once("power = ").unwrap();
    let pin = "driver = \"gpio-cdev\", chip = \"gpiochip250\", pin = 4";
    let power = format!("power = {{ {pin}, active_low = true, contact = \"no\", on_crash = \"releases\" }}");
    std::fs::write(&rack.0.lab, format!("{rest}{power}\n")).unwrap();
    rack.reload().await;
    let doubted = |row: &Value| row["reason"].as_str().is_some_and(|why| why.contains("not made anew"));
    rack.0.device_until("rack-a", "it is not made", doubted).await;
    rack.write(HEAD, &[("a", "1"), ("b", "2")]);
    rack.reload().await;
    rack.free("rack-a").await;
    rack.0.pilab(&["reserve", "rack-a", "--json"]).await.done();
    rack.0.pilab(&["power", "on", "rack-a"]).await.done();
    finish(coordinator).await;
}

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing() {
    let Some(rack) = Rack::new(&[("a", "1")]) else { return };
    let coordinator = rack.0.coordinator().await;
    rack.free("rack-a").await;
    let reload = ["coordinator", "reload"];
    rack.write("name = \"rack\"\nstagger = \"1d\"\n", &[("b", "1")]);
    rack.0.pilab(&reload).await.refused("lab.toml:2: stagger");
    rack.write("name = \"other\"\nstagger = \"0s\"\n", &[("a", "1")]);
    let refused = rack.0.pilab(&reload).await;
    refused.refused("name: has changed");
    refused.refused("hint: restart the coordinator");
    // Two on one switch.
    rack.write(HEAD, &[("a", "1"), ("b", "1")]);
    rack.0.pilab(&reload).await.refused("rack-b has the power of rack-a");
    signal(&coordinator, Signal::HUP);
    rack.devices(&["rack-a"]).await;
    // A board that cannot be made: a coordinator of another lab has its journal's lock.
    let held = rack.0.state().join("devices/rack-c/journal");
    std::fs::create_dir_all(&held).unwrap();
    let lock = std::fs::File::create(held.join("lock")).unwrap();
    lock.try_lock().unwrap();
    rack.write(HEAD, &[("a", "1"), ("b", "2"), ("c", "3")]);
    rack.0.pilab(&reload).await.refused("rack-c is in use");
    rack.devices(&["rack-a"]).await;
    // What was made before it is ended again.
    drop(lock);
    rack.0.pilab(&reload).await.done();
    rack.devices(&["rack-a", "rack-b", "rack-c"]).await;
    // The rules may be others.
    rack.write(&format!("{HEAD}[leases]\nmax = \"1h\"\n"), &[("a", "1")]);
    rack.0.pilab(&["reserve", "rack-a", "--for", "2h", "--json"]).await.done();
    rack.0.pilab(&reload).await.done();
    rack.0.pilab(&["reserve", "rack-a", "--for", "2h", "--no-wait"]).await.refused("3600 s");
    finish(coordinator).await;
}
