//! A real coordinator over whatever devices a test has, on a real nats-server. Its owner is `ann`, and her clock stands still.

use crate::nats::{Lab, lab_name};
use pilab::bus::connect::Bus;
use pilab::coordinator::parts::{BootImage, KeyPair, LabDevice, NoImage, Parts};
use pilab::model::id::UserName;
use pilab::model::time::{Moment, Stamp};
use pilab::plan::lease::{Policy, Quota};
use pilab::support::term::Term;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Some boot of some host.
const BOOT: &str = "0f3c2a51-9d0e-4b6a-8c11-00000000beef";
/// The SSH host key that every device of it gets.
pub const HOST_KEY: &str = "ssh-ed25519 AAAAhost";

fn policy() -> Policy {
    let hour = Duration::from_secs(3600);
    let quota = Quota { devices: 1, requests: 1 };
    Policy {
        max_lease: hour,
        default_lease: hour,
        handover: hour,
        aging: hour,
        booking_ahead: hour,
        quota,
        quotas: BTreeMap::new(),
        trust: Default::default(),
        care: Default::default(),
    }
}

/// What such a coordinator is made of.
pub fn parts(lab: &Lab, bus: Bus, devices: Vec<LabDevice>) -> Parts {
    let image = BootImage {
        id: String::new(),
        manifest: String::new(),
        kernel: PathBuf::new(),
        initramfs: PathBuf::new(),
        layers: Vec::new(),
        cmdline: Vec::new(),
        agent_sha256: String::new(),
    };
    Parts {
        lab: lab_name(),
        bus,
        issuer: lab.issuer.clone(),
        nats_url: lab.server.url().into(),
        lasting: false,
        owner: UserName::new("ann").unwrap(),
        policy: policy(),
        clock: Arc::new(|| {
            let at = Stamp { boot_ns: 1, wall_ms: 1 };
            Moment { boot: BOOT.parse().unwrap(), at, synchronised: true }
        }),
        term: Term::endless(),
        longest_act: Duration::ZERO,
        revive: Arc::new(|| ()),
        silence: None,
        hook: None,
        dir: lab.dir.path().to_owned(),
        devices,
        workshop: None,
        image,
        images: BTreeMap::new(),
        find_image: Box::new(|_, _| {
            Box::pin(async { Err(NoImage { error: "there is no other image".to_owned(), hint: None }) })
        }),
        uploads: lab.dir.path().join("uploads"),
        keys: |_| Ok(KeyPair { private: "client".to_owned(), public: HOST_KEY.to_owned() }),
        bundles: lab.dir.path().join("bundles"),
        retention: pilab::model::bundle::Retention::default(),
        keep_lines: Box::new(|_, _| Vec::new()),
        broke: tokio::sync::watch::channel(pilab::device::ports::Broken::default()).1,
    }
}
