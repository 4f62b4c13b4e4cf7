//! Beside another DHCP server, which lends the addresses: a board of each model boots from a coordinator that lends none, from its
//! relay to its agent.

use crate::program::{PATIENCE, end_within, finish};
use crate::stub::{Rig, Stub, came};
use crate::turn;
use pilab::support::command::Command;

const MODELS: [(&str, &str); 4] = [("three", "pi3b"), ("four", "pi4b"), ("module", "cm4"), ("five", "pi5")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_model_boots_beside_dnsmasq() {
    let Some(_turn) = turn().await else { return };
    let board = |(name, model): (&str, &'static str)| Stub {
        name: name.to_owned(),
        model,
        simulate: String::new(),
        software: String::new(),
    };
    let rig = Rig::beside(84, "", &MODELS.map(board), true);
    let coordinator = rig.coordinator().await;
    let bridge = rig.bridge().await;
    let address = format!("{}/24", rig.address(250));
    Command::new("ip").args(["-n", &bridge, "addr", "add", &address, "dev", "br0"]).output().await.unwrap();
    let log = rig.program.path("dnsmasq.log");
    let mut dnsmasq = Command::new("ip")
        .args(["netns", "exec", &bridge, "dnsmasq", "--keep-in-foreground", "--port=0", "--bind-interfaces"])
        .args([
            "--pid-file=",
            "--conf-file=/dev/null",
            "--user=root",
            "--interface=br0",
            "--no-ping",
            "--dhcp-broadcast",
            "--log-dhcp",
        ])
        .arg(format!("--log-facility={}", log.display()))
        .arg(format!("--dhcp-leasefile={}", rig.program.path("leases").display()))
        // What answers a 3B at once is not heard by it.
        .arg("--dhcp-reply-delay=tag:pi3b,1")
        .arg(format!("--dhcp-range={},static", rig.address(0)));
    for (place, (_, model)) in (0..).zip(MODELS) {
        let (address, mac) = rig.card(place);
        dnsmasq = dnsmasq.arg(format!("--dhcp-host={mac},set:{model},{address}"));
    }
    let mut dnsmasq = dnsmasq.build().spawn().unwrap();
    let ping = "[[steps]]\nping = { on = \"dut\" }\n";
    let scenarios = MODELS.map(|(name, _)| rig.scenario(name, "agent", "50s", ping));
    let run = end_within(rig.run(&scenarios), PATIENCE).await;
    dnsmasq.kill().await.unwrap();
    let lent = std::fs::read_to_string(log).unwrap();
    let events = run.json();
    for (place, (name, model)) in (0..).zip(MODELS) {
        let came = came(&events, name);
        assert_eq!(came.verdict, "passed", "{model}: {came:?}\n{lent}\n{}", run.stdout);
        let (address, mac) = rig.card(place);
        assert!(
            lent.contains(&format!("DHCPACK(br0) {address} {mac}")) || model == "pi3b",
            "{model}:\n{lent}"
        );
        let its = |what: &str| {
            let device = rig.device(name);
            events
                .iter()
                .filter(|event| event["device"] == device.as_str())
                .any(|event| event["event"]["what"] == what)
        };
        assert!(its("offered") && !its("acknowledged"), "{model}: the lab lends nothing\n{}", run.stdout);
    }
    finish(coordinator).await;
    assert_eq!((rig.namespaces().await, rig.processes()), (Vec::<String>::new(), Vec::<String>::new()));
}
