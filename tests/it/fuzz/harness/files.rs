//! Lab files, scenarios and deployments, as texts.

use pilab::config::{deployment, lab, scenario};
use std::path::Path;

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let texts = [
        include_str!("../../../../lab/laptop.toml"),
        include_str!("../../../../lab/rack.example.toml"),
        include_str!("../../../../lab/virtual-rack.toml"),
        include_str!("../../../../lab/scenarios/ping.toml"),
        include_str!("../../../../lab/scenarios/rollback.toml"),
        include_str!("../../../../lab/scenarios/init-containers.toml"),
        include_str!("../../../../lab/scenarios/boot.toml"),
        include_str!("../../../../lab/deployments/hello.toml"),
        "name = \"l\"\n[[devices]]\nid = \"a\"\nmodel = \"pi4b\"\nconsole = { tty = \"/dev/../etc/shadow\" }\n",
        "name = \"l\"\n[[pools]]\nname = \"v\"\nbackend = \"vm\"\ncount = 18446744073709551615\nmemory_mib = -1\n",
        "[matrix]\na = [1, 2, 3]\nb = [\"x\", \"y\"]\nc = [1, 2, 3, 4, 5, 6, 7, 8, 9]\n[needs.dut]\n[[steps]]\nping = {}\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// Each is right, or is refused with words that name the file.
pub(crate) fn run(data: &[u8]) {
    thread_local! {
        static DIR: tempfile::TempDir = tempfile::tempdir().unwrap();
    }
    DIR.with(|dir| {
        let path = dir.path().join("fuzzed.toml");
        std::fs::write(&path, data).unwrap();
        told(lab::load(&path, None, None).err(), &path);
        told(scenario::load_all(&path).err(), &path);
        told(deployment::load(&path).err(), &path);
    });
}

fn told(error: Option<impl std::fmt::Display>, path: &Path) {
    let Some(text) = error.map(|error| error.to_string()) else { return };
    let file = path.file_name().unwrap().to_string_lossy();
    assert!(text.contains(&*file), "{text}");
}
