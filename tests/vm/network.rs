//! A libvirt network of one's own whose bridge somebody has removed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::guest::{Bench, skip};
use ::pilab::support::command::Command;
use ::pilab::vm::{Host, HostOptions, VmError, look};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

async fn run(program: &str, args: &[&str]) {
    Command::new(program).args(args.iter().copied()).output().await.unwrap();
}

/// A network that is destroyed however the test ends.
struct Own {
    name: String,
    xml: PathBuf,
}

impl Own {
    async fn new(dir: &Path) -> Self {
        let name = format!("own{}", std::process::id());
        let xml = dir.join("network.xml");
        let text = format!(
            "<network><name>{name}</name><forward mode='nat'/><bridge name='vb-{name}' stp='off'/>\
             <ip address='192.168.199.1' netmask='255.255.255.0'/></network>"
        );
        std::fs::write(&xml, text).unwrap();
        let own = Self { name, xml };
        own.create().await;
        own
    }

    async fn create(&self) {
        run("virsh", &["net-create", self.xml.to_str().unwrap()]).await;
    }
}

impl Drop for Own {
    #[expect(clippy::disallowed_methods, reason = "a destructor cannot wait for a future")]
    fn drop(&mut self) {
        // It may be destroyed already.
        let _ = std::process::Command::new("virsh").args(["net-destroy", &self.name]).output();
    }
}

#[tokio::test]
async fn a_network_whose_bridge_is_gone_is_told_with_what_mends_it() {
    let Some(bench) = Bench::new("bridge").await else { return };
    if !rustix::process::geteuid().is_root() {
        return skip("only root removes a bridge");
    }
    let own = Own::new(bench.dir.path()).await;
    let options = HostOptions {
        network: own.name.clone(),
        ..HostOptions::new("test-bridge", bench.dir.path().join("own"))
    };
    let gateway = Ipv4Addr::new(192, 168, 199, 1);
    assert_eq!(Host::connect(options.clone()).await.unwrap().gateway(), gateway);

    run("ip", &["link", "delete", &format!("vb-{}", own.name)]).await;
    let error = Host::connect(options.clone()).await.err().unwrap();
    assert!(matches!(&error, VmError::NoBridge { network, .. } if *network == own.name), "{error:?}");
    let mends = format!("virsh net-destroy {}", own.name);
    assert!(error.hint().unwrap().contains(&mends), "{:?}", error.hint());
    let seen = look(&options, &BTreeSet::new()).await;
    assert!(matches!(seen, Err(VmError::NoBridge { .. })));

    run("virsh", &["net-destroy", &own.name]).await;
    own.create().await;
    assert_eq!(Host::connect(options.clone()).await.unwrap().gateway(), gateway);
    assert_eq!(look(&options, &BTreeSet::new()).await.unwrap().gateway, Some(gateway));
}
