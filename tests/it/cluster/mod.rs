//! Labs on their site's NATS servers: a cluster of three real ones on this machine, whose operator, accounts and keys the
//! program itself makes.

mod labs;
mod load;
mod standby;
mod tls;

use crate::agent::lab::installed;
use crate::nats::SOON;
use crate::support::program::{PATIENCE, Program, end};
use crate::support::script;
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::issuer::{COORDINATOR, Issuer};
use pilab::bus::servers::Servers;
use pilab::model::id::LabName;
use pilab::model::tls::TlsFiles;
use pilab::support::command::Command;
use pilab::wire::subject;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

const NODES: usize = 3;

/// A site: its servers, and what it keeps.
pub(crate) struct Site {
    dir: TempDir,
    ports: Vec<u16>,
    nodes: Vec<Option<Child>>,
    /// What stands in each server's configuration beside the usual.
    extra: String,
    /// How its servers are known.
    tls: Option<TlsFiles>,
}

/// Ports that are free now. Servers of a cluster must know each other's.
fn ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Site {
    /// None where there is no nats-server.
    pub(crate) async fn start() -> Option<Self> {
        Self::with(String::new(), None, tempfile::tempdir().unwrap()).await
    }

    async fn with(extra: String, tls: Option<TlsFiles>, dir: TempDir) -> Option<Self> {
        if !installed("nats-server", "podman") {
            return None;
        }
        let made = pilab(&["nats", "operator", dir.path().join("site").to_str().unwrap()]).await;
        assert!(made.is_done(), "{made:?}");
        let nodes = (0..NODES).map(|_| None).collect();
        let mut site = Self { dir, ports: ports(2 * NODES), nodes, extra, tls };
        for node in 0..NODES {
            site.start_node(node);
        }
        Some(site)
    }

    /// Starts a server that is not there, with what it had on its disk.
    pub(crate) fn start_node(&mut self, node: usize) {
        let dir = self.dir.path().join(format!("n{node}"));
        std::fs::create_dir_all(&dir).unwrap();
        let operator = std::fs::read_to_string(self.dir.path().join("site/operator.conf")).unwrap();
        let accounts = dir.join("accounts");
        let operator = operator.replace("./accounts", accounts.to_str().unwrap());
        let (clients, routes) = self.ports.split_at(NODES);
        let all: Vec<_> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let text = format!(
            "listen: \"127.0.0.1:{}\"\nserver_name: n{node}\n{operator}{}\n\
             jetstream: {{ store_dir: {:?}, max_memory_store: 16777216, max_file_store: 1073741824 }}\n\
             cluster: {{ name: site, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
            clients[node],
            self.extra,
            dir.join("store"),
            routes[node],
            all.join(", "),
        );
        let config = dir.join("server.conf");
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let program = pilab::bus::server::program().unwrap();
        let command = Command::new(program.to_string_lossy()).args(["-c", config.to_str().unwrap()]);
        let mut process = command.build();
        process.stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.nodes[node] = Some(process.spawn().unwrap());
    }

    /// SIGKILL.
    pub(crate) async fn kill_node(&mut self, node: usize) {
        self.nodes[node].take().unwrap().kill().await.unwrap();
    }

    fn urls(&self) -> Vec<String> {
        self.ports[..NODES].iter().map(|port| format!("nats://127.0.0.1:{port}")).collect()
    }

    fn servers(&self) -> Servers {
        Servers::from(self.urls().join(",")).with_tls(self.tls.clone())
    }

    pub(crate) fn keys(&self, lab: &str) -> PathBuf {
        self.dir.path().join(format!("{lab}.nats.json"))
    }

    /// Makes a lab's accounts: what the site's administrator does.
    pub(crate) async fn account(&self, lab: &str) -> PathBuf {
        let path = self.keys(lab);
        let file = |name: &str| self.dir.path().join("site").join(name).to_str().unwrap().to_owned();
        let (url, key, system) = (self.urls().join(","), file("signing.nk"), file("system.creds"));
        let out = path.to_str().unwrap();
        let mut args = vec![
            "nats",
            "account",
            lab,
            "--url",
            &url,
            "--operator-key",
            &key,
            "--system-creds",
            &system,
            "-o",
            out,
        ];
        let named = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_str().unwrap().to_owned());
        let tls = self.tls.clone().unwrap_or_default();
        let (ca, cert, key) = (named(&tls.ca), named(&tls.cert), named(&tls.key));
        for (option, value) in [("--tls-ca", &ca), ("--tls-cert", &cert), ("--tls-key", &key)] {
            if let Some(value) = value {
                args.extend([option, value]);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let made = pilab(&args).await;
            if made.is_done() {
                return path;
            }
            // The servers are just being started.
            assert!(Instant::now() < deadline, "{made:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a lab file says of this site.
    pub(crate) fn section(&self, lab: &str) -> String {
        let mut text = format!("[nats]\nurls = {:?}\nkeys = {:?}\n", self.urls(), self.keys(lab));
        if let Some(tls) = &self.tls {
            text += "[nats.tls]\n";
            for (name, path) in [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)] {
                if let Some(path) = path {
                    text += &format!("{name} = {path:?}\n");
                }
            }
        }
        text
    }

    /// A connection with the rights of a lab's coordinator.
    pub(crate) async fn bus(&self, lab: &str) -> Bus {
        let place = tempfile::tempdir().unwrap();
        let issuer = Issuer::of_site(&self.keys(lab), place.path().join("k"), &LabName::new(lab).unwrap());
        let creds = issuer.unwrap().coordinator(Duration::from_secs(3600)).unwrap().creds;
        let (name, inbox_prefix) = (COORDINATOR.to_owned(), subject::inbox(COORDINATOR));
        let options = BusOptions { url: self.servers(), creds, name, inbox_prefix };
        Bus::connect(options, Some(SOON)).await.unwrap()
    }

    /// The server that leads the stream of a lab's ledger.
    pub(crate) async fn leader(&self, lab: &str) -> usize {
        let stream = subject::stream(&subject::ledger_bucket(&LabName::new(lab).unwrap()));
        let bus = self.bus(lab).await;
        let info: serde_json::Value =
            bus.api(&format!("STREAM.INFO.{stream}"), &serde_json::Value::Null).await.unwrap();
        assert_eq!(info["config"]["num_replicas"], 3, "{info}");
        info["cluster"]["leader"].as_str().unwrap().trim_start_matches('n').parse().unwrap()
    }
}

async fn pilab(args: &[&str]) -> crate::support::program::Ended {
    let command = Command::new(env!("CARGO_BIN_EXE_pilab")).args(args.iter().copied());
    end(command.build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).await
}

/// A lab of boards behind a switch that is a program, and that all of its coordinators reach. It writes down what it is told.
pub(crate) fn boards(dir: &Path, lab: &str, boards: usize) -> String {
    let switch = dir.join("switch");
    script::write(&switch, "#!/bin/sh\necho \"$1 $2\" >> \"$(dirname \"$0\")/switched\"\n");
    let mut text = format!("name = {lab:?}\nstagger = \"0s\"\n[leases]\ndevices_per_user = 1000\n");
    text += "requests_per_user = 1000\n";
    for board in 1..=boards {
        let on = format!("[{switch:?}, \"on\", \"{board}\"]");
        text += &format!(
            "[[devices]]\nid = \"pi-{board}\"\nmodel = \"pi4b\"\nmin_off = \"1ms\"\n\
             power = {{ driver = \"command\", on = {on}, off = [{switch:?}, \"off\", \"{board}\"] }}\n"
        );
    }
    text
}

/// A lab of this site, with so many boards.
pub(crate) async fn lab(site: &Site, name: &str, count: usize) -> Program {
    if !site.keys(name).exists() {
        site.account(name).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let text = boards(dir.path(), name, count) + &site.section(name);
    Program::within(dir, &text)
}
