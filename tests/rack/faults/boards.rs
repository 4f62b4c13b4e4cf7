//! Cases that trouble nobody but their own board: all at once, in one rack.

use super::Whose::{self, Device, Lab, Nobody, Product};
use super::{AFTER, BOOT, CYCLE, Case, Done, Followed, PING, SHOWS, WRONG, begins, is_gone, once_deployed};
use crate::program::{finish, signal};
use crate::stub::{Rig, Stub};
use rustix::process::Signal;

/// A case on a board of its own.
struct OnABoard {
    case: Case,
    model: &'static str,
    simulate: &'static str,
    software: String,
    under_test: &'static str,
    boot_timeout: &'static str,
    steps: String,
}

impl OnABoard {
    fn new(
        name: &'static str,
        whose: Whose,
        what: &'static str,
        verdict: &'static str,
        decided_by: &'static str,
    ) -> Self {
        let case = Case { name, whose, what, verdict, decided_by };
        let (under_test, boot_timeout, steps) = ("agent", BOOT, PING.to_owned());
        Self { case, model: "pi4b", simulate: "", software: String::new(), under_test, boot_timeout, steps }
    }

    fn on(self, model: &'static str) -> Self {
        Self { model, ..self }
    }

    fn simulate(self, simulate: &'static str) -> Self {
        Self { simulate, ..self }
    }

    fn software(self, software: impl Into<String>) -> Self {
        Self { software: software.into(), ..self }
    }

    fn tests(self, under_test: &'static str) -> Self {
        Self { under_test, ..self }
    }

    fn within(self, boot_timeout: &'static str) -> Self {
        Self { boot_timeout, ..self }
    }

    fn does(self, steps: &[&str]) -> Self {
        Self { steps: steps.concat(), ..self }
    }
}

/// The cases that trouble nobody but their own board.
fn on_boards() -> Vec<OnABoard> {
    let on = OnABoard::new;
    let ends = "pkill -KILL -f \"$PWD/identity\"; say \"stub: now\"";
    vec![
        on("healthy", Nobody, "nothing", "passed", "agent_answered").on("pi5"),
        on("nolink", Lab, "the cable is out", "timeout", "no DISCOVER").within("38s").simulate("faults = [{ kind = \"no-link\" }]"),
        on("learns", Nobody, "the switch learns for 8 s", "passed", "discovered").simulate("faults = [{ kind = \"stp-delay\", for = \"8s\" }]"),
        on("loses", Nobody, "each 300th packet is lost", "passed", "file_done").on("pi5").simulate("faults = [{ kind = \"lost-packets\", every = 300 }]"),
        on("hangs", Device, "the boot ROM hangs at the kernel, each time", "timeout", "vmlinuz").within("40s").simulate("faults = [{ kind = \"rom-stall\", at = \"vmlinuz\" }]"),
        on("heals", Nobody, "the boot ROM hangs at the kernel, once", "passed", "boot_stalled").simulate("faults = [{ kind = \"rom-stall\", at = \"vmlinuz\", boots = 1 }]"),
        on("corrupts", Lab, "the initramfs arrives with wrong bytes", "lab", "Unable to mount root fs").simulate("faults = [{ kind = \"corrupt-file\", file = \"initrd.img\" }]"),
        on("browns", Device, "the supply breaks down once, in systemd", "device", "began anew").on("pi5").software("services() { sleep 1; agent; }\n").simulate("faults = [{ kind = \"brown-out\", at = \"systemd\", boots = 1 }]"),
        on("weak", Device, "the supply breaks down whenever the kernel starts", "device", "began anew").within("15s").simulate("faults = [{ kind = \"brown-out\", at = \"kernel\" }]"),
        on("deadline", Lab, "the console's line is dead", "passed", "agent_answered").simulate("faults = [{ kind = \"dead-uart\" }]"),
        on("unheard", Lab, "the console's line is dead, and the console is asked", "lab", "console").does(&[SHOWS]).simulate("faults = [{ kind = \"dead-uart\" }]"),
        on("pulled", Lab, "the adapter is pulled out while the console is asked", "lab", "has a hole").does(&[AFTER]).software(once_deployed("say \"stub login: \"; sleep 1; say \"stub: now\"")).simulate("faults = [{ kind = \"uart-pulled\", at = \"login\", for = \"2s\" }]"),
        on("reboots", Product, "what is under test restarts the device while it boots", "timeout", "began anew").software("services() { agent; sleep 1; say \"\"; exit 0; }\n").does(&[AFTER]),
        on("panics", Lab, "our own kernel panics", "lab", "Kernel panic").simulate("faults = [{ kind = \"kernel-panic\" }]"),
        on("crashes", Product, "the kernel under test panics", "failed", "Kernel panic").tests("kernel").simulate("faults = [{ kind = \"kernel-panic\" }]"),
        on("welded", Device, "the relay's contact is welded", "timeout", "no boot stage").within("12s").does(&[PING, CYCLE]).simulate("faults = [{ kind = \"welded\" }]"),
        on("chatters", Nobody, "the relay's contact bounces", "passed", "agent_answered").does(&[PING, CYCLE]).simulate("faults = [{ kind = \"chatters\" }]"),
        on("dies", Product, "the agent under test dies", "failed", "no answer to ping").does(&[AFTER, "[[steps]]\ntimeout = \"3s\"\nping = { on = \"dut\" }\n"]).software(once_deployed(ends)),
        on("silent", Lab, "our agent dies while the kernel is under test", "lab", "no answer to ping").tests("kernel").does(&[AFTER, "[[steps]]\ntimeout = \"3s\"\nping = { on = \"dut\" }\n"]).software(once_deployed(ends)),
        on("never", Product, "the system's services hang", "timeout", "systemd").within("12s").software("services() { :; }\n"),
        on("another", Lab, "another agent runs than the image has", "lab", "SHA-256").software("services() { cp -L \"$here/agent\" other; echo >> other; chmod +x other; say \"pilab: agent started\"; ./other --identity-dir \"$PWD/identity\" --state-dir \"$PWD/state\" --podman-socket \"$PWD/none\" > /dev/null & }\n"),
        on("wrong", Product, "the product is wrong", "failed", "MalformedDesired").does(&[WRONG]),
        on("wrongsick", Product, "the product is wrong, on a board that loses packets and whose line is dead", "failed", "MalformedDesired").does(&[WRONG]).simulate("faults = [{ kind = \"dead-uart\" }, { kind = \"lost-packets\", every = 400 }, { kind = \"brown-out\", at = \"kernel\", boots = 1 }]"),
        on("wide", Product, "the device may publish what it must not", "failed", "permits the device: publish").does(&["[[steps]]\nexpect_denied = { on = \"dut\", publish = [\"$KV.status.{dut}.web\"] }\n"]),
        on("replays", Nobody, "a ticket is used twice, and the second time is refused", "passed", "ticket_refused").does(&["[[steps]]\ntimeout = \"10s\"\nconsole = { on = \"dut\", pattern = \"stub: again 403\" }\n", PING]).software("services() { say \"stub: again $(curl -s -o /dev/null -w '%{http_code}' --data-binary \"$ticket\" \"$url/v1/ticket\")\"; agent; }\n"),
        on("spends", Product, "the image under test uses its ticket twice", "failed", "Attempted to kill init").tests("image").software("exchange() { curl -s -o /dev/null --data-binary \"$ticket\" \"$url/v1/ticket\"; curl -s -o identity.tar -w '%{http_code}' --data-binary \"$ticket\" \"$url/v1/ticket\"; }\n"),
        on("asks", Nobody, "another device's files are asked for", "passed", "file_refused").does(&["[[steps]]\ntimeout = \"10s\"\nconsole = { on = \"dut\", pattern = \"stub: refused\" }\n", PING]).software("services() { curl -s -m 8 -o stolen \"tftp://${address%.*}.1/@FIRST@/vmlinuz\" || say \"stub: refused\"; agent; }\n"),
    ]
}

/// All boards of the first rack, side by side, one that nobody has, and one run that is stopped.
pub(super) async fn all() -> Vec<Done> {
    let cases = on_boards();
    let mut boards: Vec<Stub> = cases
        .iter()
        .map(|on| Stub {
            name: on.case.name.to_owned(),
            model: on.model,
            simulate: on.simulate.to_owned(),
            software: on.software.clone(),
        })
        .collect();
    boards.push(Stub {
        name: "stopped".to_owned(),
        model: "pi4b",
        simulate: String::new(),
        software: String::new(),
    });
    let rig = Rig::new(81, "leases = { devices_per_user = 40, requests_per_user = 40 }", &boards);
    let coordinator = rig.coordinator().await;
    let mut scenarios: Vec<String> = cases
        .iter()
        .map(|on| rig.scenario(on.case.name, on.under_test, on.boot_timeout, &on.steps))
        .collect();
    let lacks = rig.program.path("lacks.toml");
    std::fs::write(
        &lacks,
        format!("summary = \"x\"\nunder_test = \"agent\"\n[needs.dut]\nmodel = \"cm4\"\n{PING}"),
    )
    .unwrap();
    scenarios.push(lacks.to_str().unwrap().to_owned());
    let waits =
        "[[steps]]\nname = \"waits\"\ntimeout = \"5m\"\nconsole = { on = \"dut\", pattern = \"never\" }\n";
    let mut stopped = Followed::new(rig.run(&[rig.scenario("stopped", "agent", BOOT, waits)]));
    let all = Followed::new(rig.run(&scenarios));
    stopped.until(begins("waits")).await.expect("it does not come to its step");
    signal(&stopped.child, Signal::INT);
    let (stopped, events) = tokio::join!(stopped.end(), all.end());
    let mut done: Vec<Done> = cases.into_iter().map(|on| Done::new(on.case, &events)).collect();
    let case =
        |name, what, verdict, decided_by| Case { name, whose: Whose::Nobody, what, verdict, decided_by };
    done.push(Done::new(case("lacks", "the lab has no such model", "skipped", "cm4"), &events));
    done.push(Done::new(case("stopped", "somebody stops it", "cancelled", "stopped"), &stopped));
    finish(coordinator).await;
    is_gone(&rig).await;
    done
}
