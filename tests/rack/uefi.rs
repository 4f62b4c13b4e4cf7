//! Debian's UEFI for 64-bit ARM boots from our servers, by PXE and by HTTP, until the agent answers: DHCP, TFTP and HTTP that
//! somebody else wrote meet ours on a wire.

use crate::program::{Program, end_within, finish};
use crate::{net, skip, turn};
use pilab::support::command::Command;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// A bound for boots: 40 s on a quiet host.
const PATIENCE: Duration = Duration::from_secs(400);
/// Debian's UEFI, and what it starts a kernel with.
const FIRMWARE: &str = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd";
const STUB: &str = "firmware/raspberry-pi/linuxaa64.efi.stub";

/// Whether this host has what runs, with the reason printed otherwise.
fn has_firmware() -> bool {
    let store = std::env::var("PILAB_IMAGE_DIR").unwrap_or_else(|_| "/var/cache/pilab/images".to_owned());
    if !Path::new(FIRMWARE).exists() {
        skip("there is no UEFI: install qemu-efi-aarch64");
        return false;
    }
    if !Path::new(&store).join(STUB).exists() {
        skip("the store has no stub for UEFI: run lab/firmware");
        return false;
    }
    true
}

/// A lab of machines that boot so.
fn lab(mode: &str, by: &[&str]) -> String {
    let net = net();
    let mut text = format!(
        "name = \"uefi{net}\"\nstagger = \"1ms\"\n[netboot]\naddress = \"10.79.{net}.1\"\nmode = \"{mode}\"\n"
    );
    for (number, by) in (11..).zip(by) {
        let address = match mode {
            "full" => format!("address = \"10.79.{net}.{number}\"\n"),
            _ => String::new(),
        };
        text += &format!(
            "[[devices]]\nid = \"{by}\"\nmodel = \"uefi-arm64\"\nboot = \"netboot\"\nmin_off = \"100ms\"\n\
             mac = \"52:54:00:79:{net:02x}:{number:02}\"\n{address}\
             [devices.simulate]\nuefi = \"{by}\"\nmemory_mib = 768\n"
        );
    }
    text
}

/// The namespace of this lab's rack: the one whose board has the card.
async fn rack() -> String {
    let mac = format!("52:54:00:79:{:02x}:11", net());
    let namespaces = Command::new("ip").args(["netns", "list"]).output().await.unwrap();
    for name in String::from_utf8_lossy(&namespaces).lines().filter_map(|line| line.split_whitespace().next())
    {
        // Another's may be gone by now.
        let links = Command::new("ip").args(["-n", name, "-o", "link"]).output().await.unwrap_or_default();
        if let Some(rack) = name.strip_suffix("-0").filter(|_| String::from_utf8_lossy(&links).contains(&mac))
        {
            return rack.to_owned();
        }
    }
    panic!("there is no rack");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_dnsmasq_uefi_takes_its_address_from_there_and_its_file_from_us() {
    let Some(_turn) = turn().await else { return };
    if !has_firmware() {
        return;
    }
    let net = net();
    let program = Program::new(&lab("proxy", &["pxe"]));
    let coordinator = program.coordinator_with(&["--simulate"]).await;
    let rack = rack().await;
    let other = format!("10.79.{net}.254");
    Command::new("ip")
        .args(["-n", &rack, "addr", "add", &format!("{other}/24"), "dev", "br0"])
        .output()
        .await
        .unwrap();
    let leases = program.path("leases");
    let dnsmasq =
        Command::new("ip").args(["netns", "exec", &rack, "dnsmasq", "--keep-in-foreground", "--port=0"]);
    let dnsmasq =
        dnsmasq.args(["--bind-interfaces", "--pid-file=", "--conf-file=/dev/null", "--interface=br0"]);
    let dnsmasq = dnsmasq.args(["--user=root", "--group=root"]);
    let range = format!("--dhcp-range=10.79.{net}.100,10.79.{net}.110,1h");
    let dnsmasq = dnsmasq.args([range, format!("--dhcp-leasefile={}", leases.display())]);
    let mut dnsmasq = dnsmasq.build().spawn().unwrap();

    let device = format!("uefi{net}-pxe");
    program.pilab(&["reserve", &device, "--for", "1h"]).await.done();
    let boot = program.spawn(&["boot", &device, "--until", "kernel", "--json"]);
    let boot = end_within(boot, PATIENCE).await.done();
    let told = |words: &str| boot.stdout.contains(words);
    assert!(told("\"address\":null"), "it was offered one by us: {}", boot.stdout);
    assert!(!told("\"what\":\"acknowledged\""), "{}", boot.stdout);
    assert!(told("\"what\":\"file_done\"") && told("vmlinuz.efi"), "{}", boot.stdout);
    assert!(told(&other), "the other server is not named: {}", boot.stdout);
    let lent = std::fs::read_to_string(leases).unwrap();
    assert!(lent.contains(&format!("52:54:00:79:{net:02x}:11 10.79.{net}.1")), "{lent}");
    dnsmasq.kill().await.unwrap();
    finish(coordinator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debian_s_uefi_boots_by_pxe_and_by_http_until_the_agent_answers() {
    let Some(_turn) = turn().await else { return };
    if !has_firmware() {
        return;
    }
    let net = net();
    let program = Program::new(&lab("full", &["pxe", "http"]));
    let coordinator = program.coordinator_with(&["--simulate"]).await;
    let login = program.state().join(format!("labs/uefi{net}/login.json"));
    let files = ["pxe", "http"].map(|by| {
        let path = program.path(&format!("{by}.toml"));
        let text = format!(
            "summary = \"x\"\nunder_test = \"image\"\n[needs.dut]\ndevice = \"uefi{net}-{by}\"\n\
             [[steps]]\nping = {{ on = \"dut\" }}\n"
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let args = ["run", &files[0], &files[1], "--json", "--login", login.to_str().unwrap()];
    let run = end_within(program.spawn(&args), PATIENCE).await.done();
    finish(coordinator).await;

    let events = run.json();
    let of = |by: &str| {
        let device = format!("uefi{net}-{by}");
        let facts =
            events.iter().filter(|event| event["device"] == device.as_str()).map(|event| &event["event"]);
        facts.cloned().collect::<Vec<Value>>()
    };
    for by in ["pxe", "http"] {
        let told = of(by);
        let count = |what: &str, key: &str, value: Value| {
            told.iter().filter(|fact| fact["what"] == what && fact[key] == value).count()
        };
        assert!(count("discovered", "boots", true.into()) >= 1, "{by}: {told:?}");
        // Both ask first how long it is, and then for all of it; nothing but the one file is asked for.
        assert_eq!(count("file_probed", "path", "vmlinuz.efi".into()), 1, "{by}: {told:?}");
        assert_eq!(count("file_done", "path", "vmlinuz.efi".into()), 1, "{by}: {told:?}");
        let others = told.iter().filter(|fact| !fact["path"].is_null() && fact["path"] != "vmlinuz.efi");
        assert_eq!(others.count(), 0, "{by}: {told:?}");
        assert!(told.iter().any(|fact| fact["event"] == "ticket_redeemed"), "{by}: {told:?}");
    }
}
