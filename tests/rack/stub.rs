//! Racks of stub boards: real boot loaders, tickets, agents, in a second; no kernel.

use crate::program::Program;
use crate::script;
use crate::store::{Store, sha256};
use pilab::support::command::Command;
use serde_json::Value;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tokio::process::Child;

/// What stub boards run.
const BOARD: &str = include_str!("board.sh");

/// A board of such a rack.
pub(crate) struct Stub {
    pub(crate) name: String,
    pub(crate) model: &'static str,
    /// More lines of `[devices.simulate]`.
    pub(crate) simulate: String,
    /// What is wrong with its software, in words of the shell; see `board.sh`. `@FIRST@` is the first board's serial number.
    pub(crate) software: String,
}

/// A rack, in a place of its own.
pub(crate) struct Rig {
    pub(crate) program: Program,
    name: String,
    /// The first three bytes of its addresses.
    net: String,
    /// The last but one byte of its boards' MAC addresses, and the one before.
    tag: [u8; 2],
}

impl Rig {
    /// With these boards, and these lines at the end of the first table of its lab file. `second` tells it from others of
    /// this process.
    pub(crate) fn new(second: u8, more: &str, boards: &[Stub]) -> Self {
        Self::beside(second, more, boards, false)
    }

    /// The same; `proxy`: another DHCP server lends the addresses.
    pub(crate) fn beside(second: u8, more: &str, boards: &[Stub], proxy: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tag = [second, crate::net()];
        let (name, net) = (format!("stub{second}x{}", tag[1]), format!("10.{second}.{}", tag[1]));
        // `ip netns exec` keeps the mounts, but not this directory's secrecy: they are root's anyway.
        let agent = Path::new(env!("CARGO_BIN_EXE_pilab-agent"));
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        symlink(agent, bin.join("agent")).unwrap();
        let program = bin.join("board");
        script::write(&program, BOARD);
        let images = dir.path().join("images");
        let store = Store::with_agent(&images, &sha256(&std::fs::read(agent).unwrap()));
        let mut lab = format!("name = \"{name}\"\nimage = \"{}\"\nstagger = \"1ms\"\n{more}\n", store.image);
        lab += &format!("[netboot]\naddress = \"{net}.1\"\n");
        if proxy {
            lab += "mode = \"proxy\"\n";
        }
        for (number, board) in (11_u8..).zip(boards) {
            let Stub { name, model, simulate, software } = board;
            lab += &format!(
                "[[devices]]\nid = \"{name}\"\nmodel = \"{model}\"\nboot = \"netboot\"\nmin_off = \"100ms\"\nmac = \"{}\"\n\
                 serial = \"{:02x}{:02x}00{number:02x}\"\n",
                mac(tag, number),
                tag[0],
                tag[1],
            );
            if !proxy {
                lab += &format!("address = \"{net}.{number}\"\n");
            }
            lab += &format!("[devices.simulate]\ntarget = \"stub\"\nstub = {program:?}\n{simulate}\n");
            if !software.is_empty() {
                let first = format!("{:02x}{:02x}000b", tag[0], tag[1]);
                let software = software.replace("@FIRST@", &first);
                std::fs::write(bin.join(format!("{net}.{number}.sh")), software).unwrap();
            }
        }
        let program = Program { images: Some(images), ..Program::within(dir, &lab) };
        Self { program, name, net, tag }
    }

    pub(crate) async fn coordinator(&self) -> Child {
        self.program.coordinator_with(&["--simulate"]).await
    }

    pub(crate) fn device(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    pub(crate) fn address(&self, last: u8) -> String {
        format!("{}.{last}", self.net)
    }

    /// Where the board of this place, counted from 0, has its address, and its MAC address.
    pub(crate) fn card(&self, place: u8) -> (String, String) {
        (self.address(11 + place), mac(self.tag, 11 + place))
    }

    /// A scenario on one board, by its path.
    pub(crate) fn scenario(&self, name: &str, under_test: &str, boot_timeout: &str, steps: &str) -> String {
        let path = self.program.path(&format!("{name}.toml"));
        let text = format!(
            "summary = \"x\"\nunder_test = \"{under_test}\"\nboot_timeout = \"{boot_timeout}\"\n\
             [needs.dut]\ndevice = \"{}\"\n{steps}\n",
            self.device(name)
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs these scenarios, and follows them.
    pub(crate) fn run(&self, scenarios: &[String]) -> Child {
        let bundles = self.program.path("bundles");
        let fixed = [
            "run",
            "--json",
            "--lab",
            self.program.lab.to_str().unwrap(),
            "--bundle",
            bundles.to_str().unwrap(),
        ];
        let args: Vec<&str> = fixed.into_iter().chain(scenarios.iter().map(String::as_str)).collect();
        self.program.spawn(&args)
    }

    /// The namespace of its wires, which its boards hang on.
    pub(crate) async fn bridge(&self) -> String {
        let board = self.namespaces().await.into_iter().next().expect("no namespace of a board");
        board.rsplit_once('-').unwrap().0.to_owned()
    }

    /// The namespaces of its boards.
    pub(crate) async fn namespaces(&self) -> Vec<String> {
        let mac = format!("dc:a6:32:{:02x}:{:02x}:", self.tag[0], self.tag[1]);
        let namespaces = Command::new("ip").args(["netns", "list"]).output().await.unwrap();
        let mut ours = Vec::new();
        for name in String::from_utf8_lossy(&namespaces).lines().filter_map(|l| l.split_whitespace().next()) {
            // Another's may be gone by now.
            let links =
                Command::new("ip").args(["-n", name, "-o", "link"]).output().await.unwrap_or_default();
            if String::from_utf8_lossy(&links).contains(&mac) {
                ours.push(name.to_owned());
            }
        }
        ours
    }

    /// Processes that this rack has started and that still run, by the words of their command lines.
    pub(crate) fn processes(&self) -> Vec<String> {
        let place = self.program.dir.path().to_str().unwrap().to_owned();
        let line = |process: PathBuf| {
            let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ")
        };
        let all = std::fs::read_dir("/proc").unwrap().map(|entry| line(entry.unwrap().path()));
        all.filter(|line| line.contains(&place)).collect()
    }
}

fn mac(tag: [u8; 2], number: u8) -> String {
    format!("dc:a6:32:{:02x}:{:02x}:{number:02x}", tag[0], tag[1])
}

/// How the last attempt of a run came out, and what decided that.
#[derive(Debug, Clone, Default)]
pub(crate) struct Came {
    pub(crate) verdict: String,
    pub(crate) reason: String,
    pub(crate) suspect: String,
    /// The decisive event, as it stands in the stream.
    pub(crate) decisive: String,
    /// How many attempts there were.
    pub(crate) attempts: usize,
}

/// What the runs of a scenario came to.
pub(crate) fn came(events: &[Value], scenario: &str) -> Came {
    let mut came = Came::default();
    let is_its = |event: &&Value| {
        event["run"].as_str().and_then(|run| run.strip_prefix(scenario)).is_some_and(|id| id.starts_with('-'))
    };
    for ended in events.iter().filter(is_its).filter(|event| event["kind"] == "ended") {
        let outcome = &ended["outcome"];
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let decides = |event: &&Value| event["run"] == ended["run"] && event["seq"] == outcome["decisive"];
        came = Came {
            verdict: word(&outcome["verdict"]),
            reason: word(&outcome["reason"]),
            suspect: word(&outcome["suspect"]),
            decisive: events.iter().find(decides).map(Value::to_string).unwrap_or_default(),
            attempts: came.attempts + 1,
        };
    }
    came
}
