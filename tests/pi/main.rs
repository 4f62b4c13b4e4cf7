//! The rack level: the coordinator on an emulated Raspberry Pi 3, with Debian's kernel, systemd as the service manager and
//! real drivers of its pins, which are read from outside. `tests/pi/make` makes what is booted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod board;
mod initramfs;

use board::{Board, Pins};
use std::time::{SystemTime, UNIX_EPOCH};

/// The pins in the lab file (`tests/pi/root/etc/pilab/lab.toml`): rppal; the kernel's, normally open; the kernel's, active
/// low and normally closed.
const HELD: usize = 17;
const KEPT: usize = 22;
const CLOSED: usize = 5;
const ALL: [usize; 3] = [HELD, KEPT, CLOSED];

const START: &str = "systemctl start pilab-coordinator || { cat /run/coordinator.log; false; }";
/// Waits until a unit that was killed is up again, under another process.
const KILL_AND_WAIT: &str = "old=$(systemctl show -P MainPID pilab-coordinator); systemctl kill -s KILL pilab-coordinator; \
    for i in $(seq 1 600); do new=$(systemctl show -P MainPID -P ActiveState pilab-coordinator | tr '\\n' ' '); \
    case $new in \"$old active \"|0*) ;; *' active ') exit 0 ;; esac; sleep 0.2; done; cat /run/coordinator.log; exit 1";

/// What our pins drive: high or not; none for an input. The emulation gives an input the level that it drove last, for
/// nothing pulls it, so its level tells nothing.
fn of(pins: &Pins) -> [Option<bool>; 3] {
    ALL.map(|pin| pins.is_output(pin).then(|| pins.is_high(pin)))
}

const LOW: Option<bool> = Some(false);
const HIGH: Option<bool> = Some(true);
const INPUT: Option<bool> = None;

async fn shows(board: &mut Board, expected: [Option<bool>; 3], when: &str) {
    let pins = of(&board.pins().await);
    assert_eq!(pins, expected, "{when}: what {ALL:?} drive");
}

/// Runs a command during which no pin may move.
async fn steady(board: &mut Board, command: &str, expected: [Option<bool>; 3]) {
    let (_, seen) = board.watched(command).await;
    for pins in seen {
        assert_eq!(of(&pins), expected, "a pin moved during: {command}");
    }
}

/// What the switches say, and how often each has switched, in the order of [`ALL`].
async fn devices(board: &mut Board) -> [(String, u64); 3] {
    let said = board.run("pilab devices --json").await;
    let rows: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    ["pi-held", "pi-kept", "pi-closed"].map(|id| {
        let row = rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("{said}"));
        (row["power"].as_str().unwrap().to_owned(), row["switched"].as_u64().unwrap())
    })
}

fn on(switched: u64) -> (String, u64) {
    ("on".to_owned(), switched)
}

fn off(switched: u64) -> (String, u64) {
    ("off".to_owned(), switched)
}

/// One boot for all: it takes half a minute.
#[tokio::test]
async fn relays_on_pins_do_what_is_said_of_them_and_a_restart_moves_none() {
    let Some(mut board) = Board::boot().await else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // It has no clock of its own.
    board.run(&format!("date -s @{now}")).await;
    let checked = board.run("pilab check --lab /etc/pilab/lab.toml").await;
    for line in [
        "pi-held (pi4b): console: none, power: gpio-rppal pin 17, when nobody drives the pin: off",
        "pi-closed (pi4b): console: none, power: gpio-cdev pin 5, when nobody drives the pin: on",
    ] {
        assert!(checked.contains(line), "{checked}");
    }
    let wrong = "sed s/holds/releases/ /etc/pilab/lab.toml > /run/lab.toml; pilab check --lab /run/lab.toml";
    let refused = board.ends(wrong, 2).await;
    assert!(
        refused.contains("devices[0].power.on_crash: the wiring needs a pin that \"releases\""),
        "{refused}"
    );

    // Inputs become outputs at the level that they have.
    shows(&mut board, [INPUT; 3], "before the first start").await;
    assert_eq!(board.run("pilab pin look 17 --driver gpio-rppal").await, "pin 17: input, low\n");
    board.run(START).await;
    shows(&mut board, [LOW; 3], "after the first start").await;
    let refused = board.ends("pilab pin hold 22 high", 4).await;
    assert!(refused.contains("pin 22 is in use by \"pilab\""), "{refused}");
    // Low energises the third, and opens its contact.
    assert_eq!(devices(&mut board).await, [off(0), off(0), off(0)]);

    // Set and read back.
    board.run("pilab reserve pi-held pi-kept pi-closed --for 1h").await;
    for device in ["held", "kept", "closed"] {
        let said = board.run(&format!("pilab power on pi-{device}")).await;
        assert!(said.starts_with(&format!("pi-{device}: on")), "{said}");
    }
    shows(&mut board, [HIGH; 3], "all on").await;

    // A restart, and a death, with the service manager's store.
    steady(&mut board, "systemctl restart pilab-coordinator", [HIGH; 3]).await;
    steady(&mut board, KILL_AND_WAIT, [HIGH; 3]).await;
    board.run("pilab power off pi-kept").await;
    shows(&mut board, [HIGH, LOW, HIGH], "the lines that came from the store are driven").await;
    board.run("pilab power on pi-kept").await;
    assert_eq!(devices(&mut board).await, [on(1), on(3), on(1)], "counted over restarts");

    // A death without the store: what the drivers say of themselves.
    board.run("mkdir -p /run/systemd/system/pilab-coordinator.service.d; printf '[Service]\\nRestart=no\\nFileDescriptorStoreMax=0\\n' \
               > /run/systemd/system/pilab-coordinator.service.d/bare.conf; systemctl daemon-reload").await;
    board.run("systemctl stop pilab-coordinator").await;
    shows(&mut board, [HIGH, INPUT, INPUT], "after a stop").await;
    let (_, seen) = board.watched(START).await;
    for pins in seen.iter().map(of) {
        assert_eq!(pins[0], HIGH, "a pin that was held moved when it was taken");
        assert!(!pins.contains(&LOW), "a pin moved when it was taken: {pins:?}");
    }
    shows(&mut board, [HIGH; 3], "after the next start").await;
    board
        .run(
            "systemctl kill -s KILL pilab-coordinator; \
             while systemctl is-active -q pilab-coordinator; do sleep 0.1; done",
        )
        .await;
    shows(&mut board, [HIGH, INPUT, INPUT], "after it was killed").await;
    board.off().await;
}
