//! Cases of the lab as a whole: one after the other, on a few boards.

use super::{AFTER, BOOT, Case, Done, Followed, PATIENCE, PING, WRONG, Whose, is_gone, once_deployed};
use crate::program::{end_within, finish, signal, signal_process};
use crate::store::{LAYER, sha256};
use crate::stub::{Rig, Stub};
use pilab::support::command::Command;
use rustix::process::Signal;
use serde_json::Value;
use std::path::PathBuf;

/// The children of a process that run this program.
fn children(parent: u32, program: &str) -> Vec<u32> {
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let is_child = rest.split(' ').nth(1)? == parent.to_string();
        (name == program && is_child).then_some(pid)
    };
    std::fs::read_dir("/proc").unwrap().filter_map(of).collect()
}

/// What happens to the lab as a whole, one after the other on a few boards.
pub(super) async fn as_a_whole() -> Vec<Done> {
    let waits = once_deployed("sleep 3; say \"stub: now\"");
    let board = |name: &str, simulate: &str| Stub {
        name: name.to_owned(),
        model: "pi4b",
        simulate: simulate.to_owned(),
        software: waits.clone(),
    };
    // A contact that bounces draws its inrush more than twice.
    let bounces = "faults = [{ kind = \"chatters\" }]";
    let boards = [board("trips", bounces), board("one", ""), board("two", "")];
    let rig = Rig::new(82, "simulate = { inrush = 2 }", &boards);
    let mut coordinator = rig.coordinator().await;
    let mut done = Vec::new();
    let case = |name, whose, what, verdict, decided_by| Case { name, whose, what, verdict, decided_by };
    let on = |name: &str, board: &str, steps: &[&str]| {
        let path = rig.scenario(name, "agent", BOOT, &steps.concat());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&rig.device(name), &rig.device(board))).unwrap();
        path
    };

    let events = Followed::new(rig.run(&[on("trips", "trips", &[PING])])).end().await;
    let hiccup = |event: &Value| {
        event["stage"] == "bootloader" && (event["after"].as_f64() > Some(2.0) || event["boot"] == 2)
    };
    assert!(events.iter().any(hiccup), "the supply did not trip");
    let what = "a bouncing contact trips the supply";
    done.push(Done::new(case("trips", Whose::Lab, what, "passed", "agent_answered"), &events));

    let bridge = rig.bridge().await;
    let (ours, from, to) = (rig.address(250), rig.address(200), rig.address(210));
    Command::new("ip")
        .args(["-n", &bridge, "addr", "add", &format!("{ours}/24"), "dev", "br0"])
        .output()
        .await
        .unwrap();
    let dnsmasq =
        Command::new("ip").args(["netns", "exec", &bridge, "dnsmasq", "--keep-in-foreground", "--port=0"]);
    let dnsmasq = dnsmasq.args(["--bind-interfaces", "--pid-file=", "--conf-file=/dev/null", "--user=root"]);
    let log = rig.program.path("dnsmasq.log");
    let log_to = format!("--log-facility={}", log.display());
    let dnsmasq = dnsmasq.args(["--interface=br0", "--no-ping", "--log-dhcp", &log_to]);
    let leases = format!("--dhcp-leasefile={}", rig.program.path("leases").display());
    let mut dnsmasq = dnsmasq.args([format!("--dhcp-range={from},{to},1h"), leases]).build().spawn().unwrap();
    let events = Followed::new(rig.run(&[on("beside", "one", &[PING])])).end().await;
    dnsmasq.kill().await.unwrap();
    let heard = std::fs::read_to_string(log).unwrap();
    assert!(heard.contains("DHCPOFFER"), "the other server offered nothing:\n{heard}");
    let what = "another DHCP server is on the wire";
    done.push(Done::new(case("beside", Whose::Lab, what, "passed", "agent_answered"), &events));

    // The NATS server dies in mid-run.
    let runs = [on("natsdies", "one", &[AFTER, PING]), on("natswrong", "two", &[AFTER, WRONG])];
    let mut followed = Followed::new(rig.run(&runs));
    let awaits = |event: &Value| event["kind"] == "step_started" && event["step"] == 1;
    for _ in &runs {
        followed.until(awaits).await.unwrap();
    }
    for server in children(coordinator.id().unwrap(), "nats-server") {
        signal_process(server, Signal::KILL);
    }
    let events = followed.end().await;
    done.push(Done::new(
        case("natsdies", Whose::Lab, "the NATS server is killed in mid-run", "passed", "agent_answered"),
        &events,
    ));
    done.push(Done::new(
        case(
            "natswrong",
            Whose::Product,
            "the product is wrong, and the NATS server is killed",
            "failed",
            "MalformedDesired",
        ),
        &events,
    ));

    // The coordinator dies in mid-run: told as that, and tried again once; what was wrong with the product before stays so.
    let mut followed = Followed::new(rig.run(&[on("coordinator", "one", &[AFTER, PING])]));
    followed.until(awaits).await.unwrap();
    signal(&coordinator, Signal::KILL);
    coordinator.wait().await.unwrap();
    coordinator = rig.coordinator().await;
    let first = followed.until(|event| event["kind"] == "ended").await.unwrap();
    assert!(
        first["outcome"]["verdict"] == "lab" && first.to_string().contains("the coordinator died"),
        "{first}"
    );
    let events = followed.end().await;
    done.push(Done::new(
        case("coordinator", Whose::Lab, "the coordinator is killed in mid-run", "passed", "agent_answered"),
        &events,
    ));

    // A layer of the image goes bad on the host's disk.
    let layer = rig.program.path("images/parts").join(sha256(LAYER));
    std::fs::write(layer, vec![b'x'; LAYER.len()]).unwrap();
    let events = Followed::new(rig.run(&[on("layer", "two", &[PING])])).end().await;
    done.push(Done::new(
        case(
            "layer",
            Whose::Lab,
            "a layer of the image goes bad on the host",
            "lab",
            "Attempted to kill init",
        ),
        &events,
    ));
    finish(coordinator).await;
    is_gone(&rig).await;
    done
}

/// A small file system of its own; gone when dropped.
struct Small(PathBuf);

impl Small {
    async fn new(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", path.to_str().unwrap()];
        Command::new("mount").args(mount).output().await.unwrap();
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "nothing can be awaited here")]
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The host's disk is full.
pub(super) async fn disk() -> Vec<Done> {
    let software = once_deployed("sleep 2; say \"stub: now\"");
    let board = Stub { name: "full".to_owned(), model: "pi4b", simulate: String::new(), software };
    let rig = Rig::new(83, "", &[board]);
    let small = Small::new(rig.program.state()).await;
    let state = &small.0;
    let coordinator = rig.coordinator().await;
    let mut followed =
        Followed::new(rig.run(&[rig.scenario("full", "agent", BOOT, &[AFTER, PING].concat())]));
    followed.until(|event| event["kind"] == "step_started" && event["step"] == 1).await.unwrap();
    let full = std::fs::File::create(state.join("ballast")).unwrap();
    let mut piece = 1 << 20;
    while piece > 0 {
        if std::io::Write::write(&mut &full, &vec![1; piece]).is_err() {
            piece /= 2;
        }
    }
    let events = followed.end().await;
    let case = Case {
        name: "full",
        whose: Whose::Lab,
        what: "the host's disk is full",
        verdict: "lab",
        decided_by: "No space left",
    };
    let done = Done::new(case, &events);
    drop(full);
    std::fs::remove_file(state.join("ballast")).unwrap();
    signal(&coordinator, Signal::TERM);
    // It may not have found room for its last words.
    end_within(coordinator, PATIENCE).await;
    drop(small);
    is_gone(&rig).await;
    vec![done]
}
