//! Debian's UEFI for 64-bit ARM boots from our servers, by PXE and by HTTP, until the agent answers: DHCP, TFTP and HTTP that
//! somebody else wrote meet ours on a wire.

use crate::program::{Program, end_within, finish};
use crate::{net, skip, turn};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// A bound for both: 40 s on a quiet host.
const PATIENCE: Duration = Duration::from_secs(400);
/// Debian's UEFI, and what it starts a kernel with.
const FIRMWARE: &str = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd";
const STUB: &str = "firmware/raspberry-pi/linuxaa64.efi.stub";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debian_s_uefi_boots_by_pxe_and_by_http_until_the_agent_answers() {
    let Some(_turn) = turn().await else { return };
    let store = std::env::var("PILAB_IMAGE_DIR").unwrap_or_else(|_| "/var/cache/pilab/images".to_owned());
    if !Path::new(FIRMWARE).exists() {
        return skip("there is no UEFI: install qemu-efi-aarch64");
    }
    if !Path::new(&store).join(STUB).exists() {
        return skip("the store has no stub for UEFI: run lab/firmware");
    }
    let net = net();
    let mut text =
        format!("name = \"uefi{net}\"\nstagger = \"1ms\"\n[netboot]\naddress = \"10.79.{net}.1\"\n");
    for (number, by) in [(11, "pxe"), (12, "http")] {
        text += &format!(
            "[[devices]]\nid = \"{by}\"\nmodel = \"uefi-arm64\"\nboot = \"netboot\"\nmin_off = \"100ms\"\n\
             mac = \"52:54:00:79:{net:02x}:{number:02x}\"\naddress = \"10.79.{net}.{number}\"\n\
             [devices.simulate]\nuefi = \"{by}\"\nmemory_mib = 768\n"
        );
    }
    let program = Program::new(&text);
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
