//! The servers that are compared: ours, in a process of its own, and those that are installed.

use crate::group::Group;
use pilab::netboot::tftp::{BootPath, Content, Limits, Refusal, TftpOptions, TftpServer};
use pilab::support::command::Command;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One server that runs.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) group: Group,
    child: Child,
}

/// Serves a directory, as the child of the measuring process.
pub(crate) async fn serve(dir: PathBuf, address: SocketAddr) {
    let files = move |_: SocketAddr, path: &BootPath| {
        Content::open(&dir.join(path.as_str())).map_err(|_| Refusal::NotFound)
    };
    // All clients have one address here.
    let limits = Limits { per_address: 256, requests: 10_000, ..Limits::default() };
    let server = TftpServer::bind(TftpOptions { limits, ..TftpOptions::new(address) }).unwrap();
    let (sender, mut events) = mpsc::channel(1024);
    let tasks = tokio_util::task::TaskTracker::new();
    server.start(Arc::new(files), sender, &tasks, CancellationToken::new()).unwrap();
    while events.recv().await.is_some() {}
}

/// Starts each server that is there, on ports of its own.
pub(crate) async fn start(dir: &Path) -> Vec<Peer> {
    let root = dir.display().to_string();
    let own = std::env::current_exe().unwrap().display().to_string();
    let commands = [
        ("pilab", "127.0.0.1:6901", Command::new(own).args(["--serve", &root])),
        (
            // It has no option for the port, so it gets an address of its own.
            "dnsmasq",
            "127.0.0.69:69",
            Command::new("dnsmasq").args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"]).args(
                [
                    "--user=root",
                    "--group=root",
                    "--pid-file=",
                    "--bind-interfaces",
                    "--listen-address=127.0.0.69",
                    "--enable-tftp",
                    "--tftp-max=300",
                    &format!("--tftp-root={root}"),
                ],
            ),
        ),
        (
            "tftpd-hpa",
            "127.0.0.1:6902",
            Command::new("in.tftpd").args(["-L", "-u", "root", "-a", "127.0.0.1:6902", "-s", &root]),
        ),
        (
            "atftpd",
            "127.0.0.1:6903",
            Command::new("atftpd")
                .args(["--daemon", "--no-fork", "--bind-address", "127.0.0.1", "--port", "6903"])
                .args(["--maxthread", "300", "--user", "root.root", "--logfile", "/dev/null", "--verbose=0"])
                .arg(&root),
        ),
    ];
    let mut peers = Vec::new();
    for (name, address, command) in commands {
        let address = address.parse().unwrap();
        let spawned =
            command.build().stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
        let Ok(child) = spawned else { continue };
        let group = Group::of(child.id().unwrap());
        let mut peer = Peer { name, address, group, child };
        if peer.is_up().await {
            peers.push(peer);
        }
    }
    peers
}

impl Peer {
    /// Waits until it serves a small file; false when it does not.
    async fn is_up(&mut self) -> bool {
        while self.child.try_wait().unwrap().is_none() {
            let address = self.address;
            let fetched =
                tokio::task::spawn_blocking(move || super::client::fetch(address, "small", 1)).await;
            if matches!(fetched, Ok(Ok(Some(_)))) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Ends it and its children.
    pub(crate) async fn stop(mut self) {
        self.child.kill().await.unwrap();
        self.group.end().await;
    }
}
