//! The netboot servers on a wire of their own, with their real ports: a network namespace, BusyBox's DHCP and TFTP
//! clients and ISC's DHCP client in it, and dnsmasq as the other server. Needs root.

use crate::agent::lab::{installed, skip};
use crate::support::script;
use pilab::model::id::DeviceId;
use pilab::netboot::board::Board;
use pilab::netboot::dhcp::{Client, DhcpEvent, DhcpNews, DhcpOptions, DhcpServer, Mode, Responder, probe};
use pilab::netboot::tftp::{BootPath, Content, TftpOptions, TftpServer};
use pilab::support::command::Command;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DEADLINE: Duration = Duration::from_secs(60);
const MAC: &str = "dc:a6:32:00:00:04";
const PXE: &str = "PXEClient:Arch:00000:UNDI:002001";

/// A wire between this host and a namespace; gone when dropped.
struct Wire {
    namespace: String,
    /// This host's end, and the other.
    here: String,
    there: String,
    /// The third byte of its addresses, 10.213.x.0/24.
    net: u8,
    dir: tempfile::TempDir,
    events: mpsc::Receiver<DhcpEvent>,
    sender: mpsc::Sender<DhcpEvent>,
    tasks: TaskTracker,
    token: CancellationToken,
}

impl Wire {
    async fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !["ip", "busybox"].iter().all(|tool| installed(tool, "rack")) {
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            skip("rack", "network namespaces need root");
            return None;
        }
        // Unlike those of any other test process: the interfaces of all are on one host.
        let number = std::process::id() * 4 % 100_000 + COUNT.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = mpsc::channel(100);
        let wire = Self {
            namespace: format!("pilab-test-{number}"),
            here: format!("plh{number}"),
            there: format!("plt{number}"),
            net: u8::try_from(number % 250).unwrap(),
            dir: tempfile::tempdir().unwrap(),
            events,
            sender,
            tasks: TaskTracker::new(),
            token: CancellationToken::new(),
        };
        let (namespace, here, there) = (&wire.namespace, &wire.here, &wire.there);
        if let Err(error) = Command::new("ip").args(["netns", "add", namespace]).output().await {
            skip("rack", &error.to_string());
            return None;
        }
        wire.ip(&["link", "add", here, "type", "veth", "peer", "name", there, "netns", namespace]).await;
        wire.ip(&["-n", namespace, "link", "set", there, "address", MAC, "up"]).await;
        wire.ip(&["addr", "add", &format!("{}/24", wire.address(1)), "dev", here]).await;
        wire.ip(&["link", "set", here, "up"]).await;
        Some(wire)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.net, last)
    }

    async fn ip(&self, arguments: &[&str]) {
        Command::new("ip").args(arguments.iter().copied()).output().await.unwrap();
    }

    /// A command at the other end.
    fn there(&self, arguments: &[&str]) -> Command {
        let command = Command::new("ip").args(["netns", "exec", &self.namespace, "busybox"]);
        command.args(arguments.iter().copied()).timeout(DEADLINE)
    }

    /// Serves DHCP at this end for the one device.
    fn serve(&self, server: Ipv4Addr, mode: Mode) {
        let client = Client {
            device: DeviceId::new("lab-four").unwrap(),
            mac: MAC.parse().unwrap(),
            board: Board::Pi4B,
            serial: None,
            address: self.address(44),
        };
        let responder = Responder::new(server, mode, [client]);
        let server = DhcpServer::bind(DhcpOptions::new(&self.here), responder).unwrap();
        self.tasks.spawn(server.run(self.sender.clone(), self.token.clone()));
    }

    /// Lets BusyBox's DHCP client at the other end ask; what it hands its script, `key=value` a line.
    async fn lease(&self, class: &str) -> String {
        self.ask(self.there(&["udhcpc", "-i", &self.there, "-V", class])).await
    }

    /// Runs a DHCP client to its end.
    async fn ask(&self, client: Command) -> String {
        let script = self.dir.path().join("script");
        let result = self.dir.path().join("lease");
        let text = format!("#!/bin/sh\n[ \"$1\" != bound ] || env > {}\n", result.display());
        script::write(&script, &text);
        let script = script.display().to_string();
        let client = client.args(["-f", "-n", "-q", "-t", "10", "-T", "1", "-O", "tftp", "-s", &script]);
        client.output().await.unwrap();
        std::fs::read_to_string(result).unwrap()
    }

    /// Lets ISC's DHCP client at the other end ask; what it hands its script once it has a lease, `key=value` a line.
    async fn dhclient(&self, class: &str) -> String {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let (script, config, result) = (path("isc-script"), path("isc-config"), path("isc-lease"));
        // Renamed into place: who looks sees it whole.
        let text = format!(
            "#!/bin/sh\n[ \"$reason\" != BOUND ] || {{ env > {result}.new; mv {result}.new {result}; }}\n"
        );
        script::write(&script, &text);
        let wanted = "subnet-mask, broadcast-address, routers, domain-name-servers, dhcp-renewal-time, tftp-server-name, \
                      vendor-encapsulated-options";
        std::fs::write(&config, format!("{class}\nrequest {wanted};\ninitial-interval 1;\n")).unwrap();
        let command =
            Command::new("ip").args(["netns", "exec", &self.namespace, "dhclient", "-4", "-1", "-d"]);
        let command =
            command.args(["-sf", &script, "-cf", &config, "-lf", "/dev/null", "-pf", &path("isc-pid")]);
        let mut client = command.arg(&self.there).build().spawn().unwrap();
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !std::path::Path::new(&result).exists() {
            assert!(tokio::time::Instant::now() < deadline, "it got no lease");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.kill().await.unwrap();
        let lease = std::fs::read_to_string(&result).unwrap();
        std::fs::remove_file(result).unwrap();
        lease
    }

    /// dnsmasq as a DHCP server on an interface, by the command that runs it.
    fn dnsmasq(&self, command: Command, interface: &str) -> Command {
        let range = format!("--dhcp-range={},{},1h", self.address(100), self.address(110));
        let leases = format!("--dhcp-leasefile={}", self.dir.path().join("leases").display());
        let command = command.args(["--keep-in-foreground", "--port=0", "--bind-interfaces", "--pid-file="]);
        let command = command.args(["--conf-file=/dev/null", "--user=root", "--group=root"]);
        command.args([format!("--interface={interface}"), range, leases])
    }

    async fn event(&mut self) -> DhcpNews {
        tokio::time::timeout(DEADLINE, self.events.recv()).await.expect("nothing happened").unwrap().what
    }

    async fn end(self) {
        self.token.cancel();
        self.tasks.close();
        tokio::time::timeout(DEADLINE, self.tasks.wait()).await.expect("the servers did not end");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The interfaces go with the namespace.
        #[expect(clippy::disallowed_methods, reason = "nothing can be awaited here")]
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

fn has(lease: &str, key: &str, value: impl ToString) {
    let wanted = format!("{key}={}", value.to_string());
    assert!(lease.lines().any(|line| line == wanted), "no {wanted} in\n{lease}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_gets_its_address_and_then_its_files_from_the_same_place() {
    let Some(mut wire) = Wire::new().await else { return };
    let server = wire.address(1);
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    let time = Duration::from_secs(600);
    wire.serve(server, Mode::Full { mask, router: Some(server), name_servers: vec![server], time });
    let lease = wire.lease(PXE).await;
    for (key, value) in [("ip", wire.address(44)), ("siaddr", server), ("serverid", server), ("tftp", server)]
    {
        has(&lease, key, value);
    }
    for (key, value) in
        [("router", server), ("dns", server), ("subnet", mask), ("broadcast", wire.address(255))]
    {
        has(&lease, key, value);
    }
    has(&lease, "lease", 600);
    let device = DeviceId::new("lab-four").unwrap();
    assert_eq!(wire.event().await, DhcpNews::Discovered { device: device.clone(), boots: true });
    let address = wire.address(44);
    assert_eq!(wire.event().await, DhcpNews::Offered { device: device.clone(), address: Some(address) });
    assert_eq!(wire.event().await, DhcpNews::Acknowledged { device, address });

    let files = move |peer: SocketAddr, path: &BootPath| {
        assert_eq!((peer.ip(), path.as_str()), (address.into(), "9ffefdef/config.txt"));
        Ok(Content::Bytes("arm_64bit=1\n".into()))
    };
    let tftp = TftpServer::bind(TftpOptions::new(SocketAddr::from((server, 69)))).unwrap();
    let (sender, _events) = mpsc::channel(10);
    tftp.start(Arc::new(files), sender, &wire.tasks, wire.token.clone()).unwrap();
    wire.ip(&["-n", &wire.namespace, "addr", "add", &format!("{address}/24"), "dev", &wire.there]).await;
    let target: PathBuf = wire.dir.path().join("config.txt");
    let server = server.to_string();
    let fetch =
        wire.there(&["tftp", "-g", "-r", "9ffefdef//config.txt", "-b", "1468"]).arg("-l").arg(&target);
    fetch.arg(server).output().await.unwrap();
    assert_eq!(std::fs::read_to_string(target).unwrap(), "arm_64bit=1\n");
    wire.end().await;
}

/// The 3B's boot ROM asks whoever answered it, whatever the answer says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_from_the_address_that_was_asked_for_also_where_it_is_not_the_interface_s_first() {
    if !installed("socat", "rack") {
        return;
    }
    let Some(wire) = Wire::new().await else { return };
    let server = wire.address(2);
    let mode = Mode::Full {
        mask: Ipv4Addr::new(255, 255, 255, 0),
        router: None,
        name_servers: vec![],
        time: Duration::from_secs(600),
    };
    // The interface has another.
    let missing = Responder::new(server, mode.clone(), []);
    let Err(error) = DhcpServer::bind(DhcpOptions::new(&wire.here), missing) else { panic!("it was opened") };
    assert!(error.hint().unwrap().contains("ip addr add"), "{error}");
    wire.ip(&["addr", "add", &format!("{server}/24"), "dev", &wire.here]).await;
    wire.serve(server, mode);
    wire.ip(&["-n", &wire.namespace, "addr", "add", &format!("{}/24", wire.address(50)), "dev", &wire.there])
        .await;
    let heard = wire.dir.path().join("heard");
    let tell = format!("SYSTEM:echo $SOCAT_PEERADDR > {0}.new && mv {0}.new {0}", heard.display());
    let ear = Command::new("ip").args(["netns", "exec", &wire.namespace, "socat", "-u"]);
    let mut ear = ear.args(["UDP4-RECVFROM:68,broadcast", &tell]).build().spawn().unwrap();
    // It asks until it has the lease; the ear may have come too late for the first answers.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !heard.exists() {
        assert!(tokio::time::Instant::now() < deadline, "no answer was heard");
        wire.lease(PXE).await;
    }
    assert_eq!(std::fs::read_to_string(heard).unwrap().trim(), server.to_string());
    ear.kill().await.unwrap();
    wire.end().await;
}

/// ISC's client takes options apart by itself, and is stricter than BusyBox's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isc_s_client_takes_what_a_boot_rom_is_told_and_what_a_system_is() {
    if !installed("dhclient", "rack") {
        return;
    }
    let Some(wire) = Wire::new().await else { return };
    let server = wire.address(1);
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    let time = Duration::from_secs(600);
    wire.serve(server, Mode::Full { mask, router: Some(server), name_servers: vec![server], time });
    let boots = format!("send vendor-class-identifier \"{PXE}\";");
    for (class, is_told) in [(boots.as_str(), true), ("", false)] {
        let lease = wire.dhclient(class).await;
        for (key, value) in [
            ("new_ip_address", wire.address(44)),
            ("new_dhcp_server_identifier", server),
            ("new_subnet_mask", mask),
            ("new_broadcast_address", wire.address(255)),
            ("new_routers", server),
            ("new_domain_name_servers", server),
        ] {
            has(&lease, key, value);
        }
        has(&lease, "new_dhcp_lease_time", 600);
        has(&lease, "new_dhcp_renewal_time", 300);
        let told = format!("new_tftp_server_name={server}");
        assert_eq!(lease.lines().any(|line| line == told), is_told, "{lease}");
        // The menu, in the colons and digits that it has for bytes.
        assert_eq!(
            lease.contains("new_vendor_encapsulated_options=6:1:3:a:4:0:50:58:45:9:"),
            is_told,
            "{lease}"
        );
    }
    wire.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_dnsmasq_a_system_gets_its_address_from_it_and_we_name_it() {
    if !installed("dnsmasq", "rack") {
        return;
    }
    let Some(mut wire) = Wire::new().await else { return };
    let (other, ours) = (wire.address(1), wire.address(2));
    wire.ip(&["addr", "add", &format!("{ours}/24"), "dev", &wire.here]).await;
    let mut child = wire.dnsmasq(Command::new("dnsmasq"), &wire.here).build().spawn().unwrap();
    wire.serve(ours, Mode::Beside { server: None });
    let lease = wire.lease("udhcp").await;
    has(&lease, "serverid", other);
    let device = DeviceId::new("lab-four").unwrap();
    assert_eq!(wire.event().await, DhcpNews::Discovered { device, boots: false });
    loop {
        match wire.event().await {
            // Again, for dnsmasq may not have been there at once.
            DhcpNews::Discovered { .. } => {}
            DhcpNews::OtherServer { server, expected: true, .. } => break assert_eq!(server, other),
            news => panic!("{news:?}"),
        }
    }
    child.kill().await.unwrap();
    wire.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_wire_is_named_by_its_own_offers() {
    if !installed("dnsmasq", "rack") {
        return;
    }
    let Some(mut wire) = Wire::new().await else { return };
    let other = wire.address(9);
    wire.ip(&["-n", &wire.namespace, "addr", "add", &format!("{other}/24"), "dev", &wire.there]).await;
    let dnsmasq = Command::new("ip").args(["netns", "exec", &wire.namespace, "dnsmasq"]);
    let mut child = wire.dnsmasq(dnsmasq, &wire.there).build().spawn().unwrap();
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    let time = Duration::from_secs(600);
    wire.serve(wire.address(1), Mode::Full { mask, router: None, name_servers: vec![], time });
    // The client is at our end, and asks that answers go to all: so we do not hear it, but what it is answered.
    let client = Command::new("busybox").args(["udhcpc", "-i", &wire.here, "-B"]).timeout(DEADLINE);
    let lease = wire.ask(client).await;
    has(&lease, "serverid", other);
    match wire.event().await {
        DhcpNews::OtherServer { server, expected: false, gave: Some(gave), .. } => {
            assert_eq!(server, other);
            has(&lease, "ip", gave);
        }
        news => panic!("{news:?}"),
    }
    // Whoever looks sees the other one alone: ours serves no strangers.
    let found = async {
        loop {
            let found = probe::servers(&DhcpOptions::new(&wire.here)).await.unwrap();
            if !found.is_empty() {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(DEADLINE, found).await.expect("dnsmasq does not come up");
    assert_eq!(found, [other].into());
    child.kill().await.unwrap();
    wire.end().await;
}

#[tokio::test]
async fn an_interface_that_is_not_there_is_an_error_with_a_hint() {
    let mode = Mode::Beside { server: None };
    let responder = Responder::new(Ipv4Addr::LOCALHOST, mode, []);
    let options = DhcpOptions { server_port: 0, client_port: 0, ..DhcpOptions::new("no-such-if") };
    let Err(error) = DhcpServer::bind(options, responder) else { panic!("it was opened") };
    assert_eq!(error.to_string(), "cannot serve DHCP on port 0 of no-such-if");
    assert!(error.hint().unwrap().contains("no interface no-such-if"), "{:?}", error.hint());
}
