//! Servers that speak TLS and ask for certificates: the coordinator, people and devices all reach them.

use super::{Site, lab};
use crate::agent::lab::installed;
use crate::nats::{HOUR, LOCALHOST, REFUSED_WITHIN, SOON, denied, device_id};
use crate::support::program::{Program, finish};
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::gate::{Gate, Upstream};
use pilab::bus::issuer::Issuer;
use pilab::model::id::LabName;
use pilab::model::tls::TlsFiles;
use pilab::support::command::Command;
use pilab::wire::subject;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Makes an authority, and certificates of it: EC keys, for a day.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    async fn openssl(&self, args: &[&str]) {
        let made = Command::new("openssl").args(args.iter().copied()).output().await;
        made.unwrap_or_else(|e| panic!("openssl {args:?}: {e:?}"));
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    async fn new(dir: &Path, name: &str) -> Self {
        let this = Self { dir: dir.join(name) };
        std::fs::create_dir_all(&this.dir).unwrap();
        let (key, cert) = (this.path("ca.key"), this.path("ca.pem"));
        let curve = "ec_paramgen_curve:prime256v1";
        let ca =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-days", "1", "-subj", "/CN=test"];
        this.openssl(&[&ca[..], &["-keyout", &key, "-out", &cert]].concat()).await;
        this
    }

    /// A certificate for this machine, and for clients of that name.
    async fn sign(&self, name: &str) -> TlsFiles {
        let file = |kind: &str| self.path(&format!("{name}.{kind}"));
        let (key, request, cert, extensions) = (file("key"), file("csr"), file("pem"), file("ext"));
        std::fs::write(&extensions, "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
        let (curve, subject) = ("ec_paramgen_curve:prime256v1", format!("/CN={name}"));
        let new = ["req", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-subj", &subject];
        self.openssl(&[&new[..], &["-keyout", &key, "-out", &request]].concat()).await;
        let (ca, ca_key) = (self.path("ca.pem"), self.path("ca.key"));
        let sign =
            ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", "1"];
        self.openssl(&[&sign[..], &["-extfile", &extensions, "-out", &cert]].concat()).await;
        TlsFiles { ca: Some(ca.into()), cert: Some(cert.into()), key: Some(key.into()) }
    }
}

/// Without TLS to its gate, and by TLS from there, with its own rights; a revocation cuts it off on all servers.
async fn a_device_comes_through_its_gate(site: &Site) {
    let (lab, device) = (LabName::new("east").unwrap(), device_id("east-pi-1"));
    let issuer = Issuer::of_site(&site.keys("east"), site.dir.path().join("issued"), &lab).unwrap();
    let creds = issuer.device(&device, HOUR).unwrap().creds;
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let upstream = Upstream::new(&site.servers()).unwrap();
    let gate = Gate::open(SocketAddr::new(LOCALHOST, 0), upstream, &tracker, stop.clone()).await.unwrap();
    let connect = async |patience| {
        let (url, name) = (gate.url().into(), device.to_string());
        let options = BusOptions { url, creds: creds.clone(), inbox_prefix: subject::inbox(&name), name };
        Bus::connect(options, Some(patience)).await
    };
    let bus = connect(SOON).await.unwrap();
    bus.kv_put(subject::STATUS, "east-pi-1.web", "ok").await.unwrap();
    denied(&bus, &subject::key(subject::STATUS, "east-pi-2.web"), "no").await;
    issuer.revoke_device(site.servers(), &device, None).await.unwrap();
    let mut connection = bus.connection();
    tokio::time::timeout(SOON, connection.wait_for(|now| !now.up)).await.unwrap().unwrap();
    assert!(connect(REFUSED_WITHIN).await.is_err());
    stop.cancel();
    tracker.close();
    tracker.wait().await;
}

async fn secured(dir: TempDir, authority: &Authority) -> Option<Site> {
    let TlsFiles { ca, cert, key } = authority.sign("server").await;
    let [ca, cert, key] = [ca, cert, key].map(Option::unwrap);
    let extra = format!("tls: {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}");
    Site::with(extra, Some(authority.sign("coordinator").await), dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_is_on_servers_that_ask_for_certificates() {
    if !installed("openssl", "podman") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "own").await;
    let stranger = Authority::new(dir.path(), "stranger").await;
    let (ann, eve) = (authority.sign("ann").await, stranger.sign("eve").await);
    let Some(site) = secured(dir, &authority).await else { return };
    let east: Program = lab(&site, "east", 1).await;
    let coordinator = east.coordinator().await;
    east.pilab(&["devices"]).await.done();

    let path = east.path("ann.json");
    let login = async |files: &TlsFiles| {
        let file = |path: &Option<PathBuf>| path.as_ref().unwrap().to_str().unwrap().to_owned();
        let (cert, key) = (file(&files.cert), file(&files.key));
        let made = ["login", "ann", "-o", path.to_str().unwrap(), "--tls-cert", &cert, "--tls-key", &key];
        east.pilab(&made).await.done();
        assert!(path.with_file_name("ann.json.ca.pem").is_file(), "who signs for the servers goes with it");
        east.as_user(&path, &["devices"]).await
    };
    a_device_comes_through_its_gate(&site).await;
    login(&ann).await.done();
    login(&eve).await.refused("does not answer");
    // Without one at all.
    let made = east.pilab(&["login", "ann", "-o", path.to_str().unwrap()]).await.done();
    assert!(made.stderr.contains("--tls-cert"), "{}", made.stderr);
    east.as_user(&path, &["devices"]).await.refused("does not answer");
    finish(coordinator).await;

    // A key that others may read is no secret.
    let key = site.tls.as_ref().unwrap().key.as_ref().unwrap();
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let exposed = east.pilab(&["coordinator", "--lab", east.lab.to_str().unwrap()]).await;
    exposed.refused("must have mode 600");
}

/// A lab of boards behind a switch that does nothing, with a server of its own that speaks TLS by these files.
fn own_server(dir: TempDir, files: &TlsFiles, clients: bool) -> Program {
    let [ca, cert, key] = [&files.ca, &files.cert, &files.key].map(|path| path.as_ref().unwrap());
    let text = format!(
        "name = \"own\"\n[server.tls]\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\nclients = {clients}\n\
         [[devices]]\nid = \"pi-1\"\nmodel = \"pi4b\"\n\
         power = {{ driver = \"command\", on = [\"/bin/true\", \"on\"], off = [\"/bin/true\", \"off\"] }}\n"
    );
    Program::within(dir, &text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_coordinators_own_speaks_tls_and_asks_for_certificates() {
    if !installed("openssl", "podman") || !installed("nats-server", "podman") {
        return;
    }
    for clients in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "own").await;
        let stranger = Authority::new(dir.path(), "stranger").await;
        let (server, ann, eve) =
            (authority.sign("server").await, authority.sign("ann").await, stranger.sign("eve").await);
        let lab = own_server(dir, &server, clients);
        let coordinator = lab.coordinator().await;
        lab.pilab(&["reserve", "own-pi-1", "--json"]).await.done();
        let path = lab.path("ann.json");
        let made = lab.pilab(&["login", "ann", "-o", path.to_str().unwrap()]).await.done();
        assert_eq!(made.stderr.contains("--tls-cert"), clients, "{}", made.stderr);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("tls://") && text.contains("ann.json.ca.pem"), "{text}");
        let without = lab.as_user(&path, &["devices"]).await;
        if !clients {
            without.done();
            // Who does not know the authority does not trust the server.
            std::fs::copy(eve.ca.as_ref().unwrap(), lab.path("ann.json.ca.pem")).unwrap();
            lab.as_user(&path, &["devices"]).await.refused("does not answer");
            finish(coordinator).await;
            continue;
        }
        without.refused("asks for a certificate");
        let login = async |files: &TlsFiles| {
            let file = |path: &Option<PathBuf>| path.as_ref().unwrap().to_str().unwrap().to_owned();
            let (cert, key) = (file(&files.cert), file(&files.key));
            let made = ["login", "ann", "-o", path.to_str().unwrap(), "--tls-cert", &cert, "--tls-key", &key];
            lab.pilab(&made).await.done();
            lab.as_user(&path, &["devices"]).await
        };
        login(&ann).await.done();
        login(&eve).await.refused("does not answer");
        finish(coordinator).await;

        // A key that others may read is no secret.
        let key = server.key.as_ref().unwrap();
        std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let exposed = lab.pilab(&["coordinator", "--lab", lab.lab.to_str().unwrap()]).await;
        exposed.refused("must have mode 600");
    }
}
