//! The agent put on a Debian that is not the lab's, over SSH, and taken off it again: a machine on QEMU with the base root of
//! an image (Debian's packages, nothing of the lab's), its systemd, its sshd, its podman.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use crate::guest::{PATIENCE, skip};
use crate::pilab::Bench;
use ::pilab::image::{Recipe, Store};
use ::pilab::model::device::Arch;
use ::pilab::model::id::DeviceId;
use ::pilab::model::wiring::CardLogin;
use ::pilab::ssh::{HostKey, KeyPair, Remote, Way, generate_key};
use ::pilab::support::command::Command;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const DEVICE: &str = "card-pi-1";
const POLL: Duration = Duration::from_millis(100);
/// All files of the machine's own, with kind, mode, owner and size, but for what lies in places for temporary files.
const FILES: &str = r"find / -xdev \( -path '/tmp/*' -o -path '/var/tmp/*' \) -prune -o \
    -type d -printf '%p %y %m %u\n' -o -printf '%p %y %m %u %s\n'
    find /run -xdev -name '*pilab*'";

/// A machine that runs until it is dropped.
struct Debian {
    _qemu: Child,
    port: u16,
    host_key: KeyPair,
}

/// An archive of files, as the kernel unpacks it behind another (cpio "newc").
fn cpio(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    let end: (&str, u32, &[u8]) = ("TRAILER!!!", 0, &[]);
    for (inode, (name, mode, content)) in (1..).zip(files.iter().chain([&end])) {
        let (size, length) = (u32::try_from(content.len()).unwrap(), u32::try_from(name.len() + 1).unwrap());
        archive.extend(b"070701");
        for number in [inode, *mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0] {
            archive.extend(format!("{number:08X}").bytes());
        }
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(*content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

impl Debian {
    /// Boots it, and waits for its sshd.
    async fn boot(dir: &Path, authorized: &str) -> Option<Self> {
        let store = Store::from_environment();
        let image = store.find(&Recipe::built_in("trixie").unwrap(), Arch::Aarch64).unwrap();
        let Some(image) = image else {
            skip("the image trixie is not built");
            return None;
        };
        let host_key = generate_key("debian").unwrap();
        let mut initramfs = fs::read(&image.initramfs).unwrap();
        initramfs.resize(initramfs.len().next_multiple_of(4), 0);
        // Debian's own package of sudo, where the one who runs the test has it.
        let deb = std::env::var_os("PILAB_VM_SUDO_DEB").map(|path| fs::read(path).unwrap());
        let mut files: Vec<(&str, u32, &[u8])> = vec![
            ("init", 0o100_755, include_bytes!("debian/init")),
            ("sudo", 0o100_755, include_bytes!("debian/sudo")),
            ("masked", 0o100_644, include_bytes!("../../firmware/masked")),
            ("authorized_keys", 0o100_600, authorized.as_bytes()),
            ("host_key", 0o100_600, host_key.private.as_bytes()),
        ];
        files.extend(deb.iter().map(|deb| ("sudo.deb", 0o100_644, deb.as_slice())));
        initramfs.extend(cpio(&files));
        let (initrd, console) = (dir.join("initrd"), dir.join("console"));
        fs::write(&initrd, initramfs).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let drive = |path: &Path| format!("file={},format=raw,readonly=on,if=none,id=d", path.display());
        let cmdline = format!("console=ttyAMA0 {}", image.manifest.cmdline.join(" "));
        let mut qemu = Command::new("qemu-system-aarch64");
        qemu = qemu.args(["-machine", "virt,gic-version=2", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024"]);
        qemu = qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-monitor", "none"]);
        qemu = qemu.args(["-serial", &format!("file:{}", console.display())]);
        qemu = qemu.args(["-netdev", &format!("user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22")]);
        qemu = qemu.args(["-device", "virtio-net-pci,netdev=n,romfile=", "-device", "virtio-rng-pci"]);
        qemu = qemu.args(["-drive", &drive(&image.layers[0].path), "-device", "virtio-blk-pci,drive=d"]);
        qemu = qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&initrd).args(["-append", &cmdline]);
        let qemu = qemu.build().stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
            if said.contains("debian: sshd is up") {
                return Some(Self { _qemu: qemu, port, host_key });
            }
            assert!(Instant::now() < deadline, "it does not come up:\n{said}");
            sleep(POLL).await;
        }
    }
}

/// A Debian that is the one device of a lab, which enters it as the user that its file names, if any; and the test's own way in, as root.
struct Card {
    debian: Debian,
    lab: String,
    shown: HostKey,
    remote: Remote,
}

impl Card {
    /// None when there is no machine to be had.
    async fn new(bench: &Bench, user: &str) -> Option<Self> {
        let key = generate_key("lab").unwrap();
        let debian = Debian::boot(&bench.path(""), &key.public).await?;
        let (lab, identity, port) = (bench.path("card.toml"), bench.path("lab.key"), debian.port);
        fs::write(&identity, &key.private).unwrap();
        fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "name = \"card\"\n[[devices]]\nid = \"pi-1\"\nmodel = \"pi4b\"\n\
             ssh = {{ address = \"127.0.0.1\", port = {port}, {user}identity = \"lab.key\", lab_address = \"10.0.2.2\" }}\n"
        );
        fs::write(&lab, text).unwrap();
        let login = CardLogin {
            address: Ipv4Addr::LOCALHOST.into(),
            port,
            user: "root".to_owned(),
            identity,
            lab_address: None,
        };
        let way = Way { device: DeviceId::new(DEVICE).unwrap(), login, pin: bench.path("pin") };
        let shown = way.glance().await.unwrap();
        let remote = way.connect_to(&shown, PATIENCE).await.unwrap();
        Some(Self { debian, lab: lab.to_str().unwrap().to_owned(), shown, remote })
    }
}

async fn sh(remote: &Remote, script: &str) -> String {
    let command: Vec<String> = ["sh", "-c", script].map(str::to_owned).to_vec();
    let output = remote.run(&command, PATIENCE).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What is in one text and not in the other, line by line.
fn difference(before: &str, after: &str) -> Vec<String> {
    let only = |these: &str, those: &str, sign: char| -> Vec<String> {
        let those: std::collections::BTreeSet<&str> = those.lines().collect();
        these.lines().filter(|line| !those.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    [only(before, after, '-'), only(after, before, '+')].concat()
}

#[tokio::test]
async fn a_debian_gets_the_agent_takes_part_and_is_as_it_was_afterwards() {
    let Some(bench) = Bench::new().await else { return };
    let Some(card) = Card::new(&bench, "").await else { return };
    let lab = card.lab.as_str();
    let setup =
        async |args: &[&str]| bench.call("device", &[&["setup", DEVICE, "--lab", lab], args].concat()).await;

    let Card { debian, shown, remote, .. } = &card;
    assert_eq!(shown.public.split(' ').nth(1), debian.host_key.public.split(' ').nth(1));
    // What podman makes at its first call is no part of the set-up.
    sh(remote, "podman ps; systemctl start podman.socket; systemctl stop podman.socket podman.service").await;
    let before = sh(remote, FILES).await;

    // Nobody is trusted unasked, and looking changes nothing.
    setup(&["--yes"]).await.exits(2).says("There is nobody to ask").says(&shown.fingerprint);
    setup(&["--yes", "--fingerprint", "SHA256:x"]).await.exits(2).says("not SHA256:x");
    let looked = setup(&["--dry-run", "--fingerprint", &shown.fingerprint]).await.exits(0);
    looked.says("+ /usr/lib/pilab/pilab-agent (").says("+ /etc/systemd/system/pilab-agent.service (");
    assert_eq!(sh(remote, "ls -d /usr/lib/pilab /etc/systemd/system/pilab*").await, "");

    let coordinator = bench.coordinator_of("card", &["--lab", lab]).await;
    let done = setup(&["--yes", "--fingerprint", &shown.fingerprint]).await.exits(0);
    done.says("card-pi-1 is set up: agent ");
    bench.run(&["ping", "--lab", lab]).await.exits(0).says("passed");

    // At rest it has no credentials, nothing runs, and a second call finds nothing to do.
    bench.device(DEVICE, "it to be free", |row| row["usage"]["state"] == "free").await;
    assert_eq!(sh(remote, "systemctl is-active pilab-agent; ls -A /run/pilab-agent").await, "inactive\n");
    setup(&["--dry-run"]).await.exits(0).says("nothing to change");

    // A link that was lost, and a file that somebody has changed: the next call mends both.
    sh(
        remote,
        "echo half > /usr/lib/pilab/pilab-agent.pilab-new; echo >> /etc/systemd/system/pilab-agent.service",
    )
    .await;
    let mended = setup(&["--yes", "--json"]).await.exits(0);
    let told: Vec<serde_json::Value> =
        mended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let changes: Vec<&str> = told[0]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        changes,
        ["/usr/lib/pilab/pilab-agent.pilab-new", "/etc/systemd/system/pilab-agent.service"],
        "{told:?}"
    );
    assert!(told[1]["agent"].is_string(), "{told:?}");

    let removed = setup(&["--remove", "--yes"]).await.exits(0);
    removed.says("- /usr/lib/pilab/pilab-agent").says("nothing of the lab's is left");
    assert_eq!(difference(&before, &sh(remote, FILES).await), Vec::<String>::new());
    coordinator.signal("TERM").await;
    coordinator.end().await.exits(0);
}

/// A way to the device on which a link breaks off: what goes there stops after so many bytes, and the way is shut when
/// this is dropped.
struct BadLink {
    port: u16,
    stalled: watch::Receiver<bool>,
    _pump: JoinSet<()>,
}

impl BadLink {
    async fn to(device: u16, bytes: u64) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stalls, stalled) = watch::channel(false);
        let mut pump = JoinSet::new();
        pump.spawn(async move {
            let mut links = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, device)).await.unwrap();
                let stalls = stalls.clone();
                links.spawn(async move {
                    let ((mut answers, mut asks), (from, mut to)) = (far.split(), near.split());
                    let there = async {
                        if tokio::io::copy(&mut from.take(bytes), &mut asks).await.is_ok_and(|n| n == bytes) {
                            stalls.send_replace(true);
                            std::future::pending::<()>().await;
                        }
                    };
                    let back = tokio::io::copy(&mut answers, &mut to);
                    tokio::select! { () = there => {}, _ = back => {} }
                });
            }
        });
        Self { port, stalled, _pump: pump }
    }

    async fn until_stalled(&mut self) {
        let stalled = timeout(PATIENCE, self.stalled.wait_for(|stalled| *stalled)).await;
        assert!(stalled.is_ok_and(|stalled| stalled.is_ok()), "it does not upload");
    }
}

#[tokio::test]
async fn an_ordinary_user_s_set_up_that_is_killed_half_way_is_mended_or_taken_back() {
    let Some(bench) = Bench::new().await else { return };
    let Some(card) = Card::new(&bench, "user = \"pi\", ").await else { return };
    let Card { debian, lab, shown, remote } = &card;
    let all = ["setup", DEVICE, "--lab", lab.as_str(), "--yes", "--fingerprint", shown.fingerprint.as_str()];
    let setup = async |args: &[&str]| bench.call("device", &[&all, args].concat()).await;

    // Where sudo wants a password it is said what to do, and that helps.
    let refused = setup(&[]).await.exits(4).says("pi is not root at 127.0.0.1:");
    let (_, hint) = refused.stderr.split_once("on the device: ").unwrap();
    sh(remote, hint.lines().next().unwrap()).await;
    sh(remote, "podman ps; systemctl start podman.socket; systemctl stop podman.socket podman.service").await;
    let before = sh(remote, FILES).await;

    // Killed in the middle of the upload, with no coordinator and with one: something is left, and no file that looks whole.
    let killed = async || {
        let mut link = BadLink::to(debian.port, 300_000).await;
        let through = link.port.to_string();
        let call = bench.begin("device", &[&all[..], &["--port", &through]].concat());
        link.until_stalled().await;
        let deadline = Instant::now() + PATIENCE;
        let there = async || sh(remote, "ls /usr/lib/pilab; ls /etc/systemd/system | grep pilab").await;
        while there().await != "pilab-agent.pilab-new\n" {
            assert!(Instant::now() < deadline, "nothing arrives: {}", there().await);
            sleep(POLL).await;
        }
        call.signal("KILL").await;
        assert_eq!(call.end().await.code, None);
        drop(link);
        assert_eq!(there().await, "pilab-agent.pilab-new\n");
    };
    killed().await;
    setup(&["--remove"]).await.exits(0).says("nothing of the lab's is left");
    assert_eq!(difference(&before, &sh(remote, FILES).await), Vec::<String>::new());
    let labs = fs::read_dir(bench.path("state/instances")).unwrap();
    assert_eq!(labs.count(), 0, "the lab of the one that was killed is left");

    let coordinator = bench.coordinator_of("card", &["--lab", lab]).await;
    killed().await;
    // The lease of the one that was killed ends by itself.
    let done = setup(&[]).await.exits(0);
    done.says("- /usr/lib/pilab/pilab-agent.pilab-new").says("card-pi-1 is set up: agent ");
    bench.run(&["ping", "--lab", lab]).await.exits(0).says("passed");
    bench.device(DEVICE, "it to be free", |row| row["usage"]["state"] == "free").await;
    let again = bench.call("device", &["setup", DEVICE, "--lab", lab, "--dry-run"]).await;
    again.exits(0).says("nothing to change");
    setup(&["--remove"]).await.exits(0).says("nothing of the lab's is left");
    assert_eq!(difference(&before, &sh(remote, FILES).await), Vec::<String>::new());
    coordinator.signal("TERM").await;
    coordinator.end().await.exits(0);
}
