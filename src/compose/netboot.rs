//! A lab's netboot servers, on its address on the devices' segment: DHCP, TFTP, and the ticket office. What they see goes
//! into the devices' journals.

use super::devices::Layer;
use super::failed;
use crate::cli::error::CliError;
use crate::config::lab::Lab;
use crate::config::netboot::{Netboot as Settings, NetbootMode};
use crate::config::wiring::WiredDevice;
use crate::device::DeviceHandle;
use crate::device::ports::TicketOffice;
use crate::image::Store;
use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::id::DeviceId;
use crate::model::netboot::NetbootFact;
use crate::model::power::PowerReading;
use crate::netboot::board::Board;
use crate::netboot::dhcp::{Client, DhcpEvent, DhcpOptions, DhcpServer, Mode, Responder};
use crate::netboot::fact::{self, Whose};
use crate::netboot::mac::Mac;
use crate::netboot::neighbours::KernelNeighbours;
use crate::netboot::pi_boot::{PiBoot, PiFiles};
use crate::netboot::tftp::{FileEvent, TftpOptions, TftpServer};
use crate::netboot::tree::{Firmware, Resident};
use crate::netboot::{HttpFiles, LayerSent, LayerSource, Office, OfficeOptions};
use crate::support::chain::Chain;
use crate::support::segment::Segment;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Where Debian's package `raspi-firmware` puts its files.
const DEBIAN_FIRMWARE: &str = "/usr/lib/raspi-firmware";
/// Where firmware is looked for in the store of images.
pub(super) const STORE_FIRMWARE: &str = "firmware/raspberry-pi";
/// What to do when a board's firmware is not there.
pub(super) const FIRMWARE_HINT: &str = "lab/firmware fetches it from Debian; a directory that has it is named by netboot.firmware in the lab file";
/// For how long an address is lent. It is always the same one, so nothing hangs on it.
const LEASE: Duration = Duration::from_secs(3600);
/// How many events may wait to be journaled. A Pi asks for some 100 files while it boots.
const NEWS: usize = 4096;

/// The servers of a lab.
pub(super) struct Netboot {
    address: Ipv4Addr,
    files: Arc<PiFiles>,
    office: Arc<dyn TicketOffice>,
    layers: LayerSource,
    firmware: Firmware,
    news: News,
}

/// What the servers see.
struct News {
    dhcp: mpsc::Receiver<DhcpEvent>,
    files: mpsc::Receiver<FileEvent>,
    layers: mpsc::Receiver<LayerSent>,
}

impl Netboot {
    /// Starts them, where the lab file has them; no device boots anything yet.
    pub(super) async fn start(lab: &Lab, layer: &Layer) -> Result<Option<Self>, CliError> {
        let Some(settings) = lab.netboot.as_ref().filter(|_| lab.netbooted().next().is_some()) else {
            return Ok(None);
        };
        let address = settings.address;
        let firmware = firmware(settings)?;
        let (mut clients, mut residents) = (Vec::new(), Vec::new());
        for wired in &lab.wired {
            let Some(Member { client, resident }) = member(wired)? else { continue };
            let lacks =
                firmware.lacks(client.board).map(|file| format!("{} needs {file}", wired.device.model));
            if let Some(cause) = lacks {
                return Err(failed("find the boards' firmware", Some(FIRMWARE_HINT.to_owned()), cause));
            }
            clients.push(client);
            residents.push(resident);
        }
        let files = PiFiles::new(residents, Box::new(KernelNeighbours));
        let (layer_news, layers_seen) = mpsc::channel(NEWS);
        let layers = LayerSource::default();
        let listener = TcpListener::bind(SocketAddr::from((address, settings.http_port))).await;
        let listener = listener.map_err(|error| {
            let hint = (error.kind() == std::io::ErrorKind::AddrNotAvailable)
                .then(|| format!("no interface has {address}: ip addr add {address}/24 dev INTERFACE"));
            failed(format!("serve boot tickets on {address}"), hint, error)
        })?;
        let at = listener.local_addr().map_err(|e| failed("serve boot tickets", None, e))?;
        let (sender, seen) = mpsc::channel(NEWS);
        let over_http = HttpFiles { files: Arc::clone(&files) as _, news: sender.clone() };
        let options = OfficeOptions {
            layer_news: Some(layer_news),
            boot_files: Some(over_http),
            ..OfficeOptions::new(format!("http://{at}"), layers.clone())
        };
        let office: Arc<dyn TicketOffice> =
            Office::start(listener, options, &layer.tracker, layer.token.clone());
        let dhcp = serve_dhcp(settings, clients, Some(at), layer)?;
        let tftp = TftpServer::bind(TftpOptions::new(SocketAddr::from((address, settings.tftp_port))));
        let tftp = tftp.and_then(|server| {
            let at = server.address();
            server.start(Arc::clone(&files) as _, sender, &layer.tracker, layer.token.clone())?;
            Ok(at)
        });
        let tftp = tftp.map_err(|error| failed("netboot the lab's devices", error.hint(), error))?;
        tracing::info!(http = %at, %tftp, dhcp = settings.dhcp_port, "netboot is served");
        let news = News { dhcp, files: seen, layers: layers_seen };
        Ok(Some(Self { address, files, office, layers, firmware, news }))
    }

    /// Where devices that it boots reach this machine.
    pub(super) fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// Who issues tickets to such devices.
    pub(super) fn office(&self) -> Arc<dyn TicketOffice> {
        Arc::clone(&self.office)
    }

    /// Where such a device boots from.
    pub(super) fn boot(&self, wired: &WiredDevice) -> Result<PiBoot, CliError> {
        let id = &wired.device.id;
        let board = Board::try_from(wired.device.model);
        let board = board.map_err(|e| failed(format!("netboot {id}"), None, e))?;
        let (files, layers) = (Arc::clone(&self.files), self.layers.clone());
        Ok(PiBoot::new(id.clone(), board, self.firmware.clone(), files, layers))
    }

    /// From now on what is seen goes into the journals of these devices.
    pub(super) fn tell(self, devices: Vec<DeviceHandle>, layer: &Layer) {
        let devices = devices.into_iter().map(|handle| (handle.id().clone(), handle)).collect();
        let teller = Teller { devices, heard: BTreeMap::new(), files: self.files };
        let token = layer.token.clone();
        layer.tracker.spawn(async move { token.run_until_cancelled(teller.run(self.news)).await });
    }
}

/// A device as the servers know it.
struct Member {
    client: Client,
    resident: Resident,
}

/// None for one that boots by itself.
fn member(wired: &WiredDevice) -> Result<Option<Member>, CliError> {
    let Some(netboot) = &wired.netboot else { return Ok(None) };
    let device = wired.device.id.clone();
    let wrong = |e: Box<dyn std::error::Error + Send + Sync>| failed(format!("netboot {device}"), None, e);
    let board = Board::try_from(wired.device.model).map_err(|e| wrong(e.into()))?;
    let mac: Mac = netboot.mac.parse().map_err(|e: crate::netboot::mac::NoMac| wrong(e.into()))?;
    // Not used beside another server.
    let address = netboot.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let client = Client { device: device.clone(), mac, board, serial: netboot.serial, address };
    let address = netboot.address.map(IpAddr::from);
    Ok(Some(Member { client, resident: Resident { device, mac, serial: netboot.serial, address } }))
}

/// Answers these on the segment, and nobody else. Where boot files are there over HTTP too, that is told.
pub(super) fn serve_dhcp(
    settings: &Settings,
    clients: Vec<Client>,
    http: Option<SocketAddr>,
    layer: &Layer,
) -> Result<mpsc::Receiver<DhcpEvent>, CliError> {
    let address = settings.address;
    let segment = Segment::of(address);
    let interface = settings.interface.clone().or_else(|| Some(segment.as_ref()?.interface.clone()));
    let (Some(interface), Some(segment)) = (interface, segment) else {
        let hint = format!("give this machine {address}: ip addr add {address}/24 dev INTERFACE");
        let cause = format!("this machine is connected to no segment that has {address}");
        return Err(failed("netboot the lab's devices", Some(hint), cause));
    };
    let mode = match settings.mode {
        NetbootMode::Full => {
            Mode::Full { mask: segment.mask, router: None, name_servers: Vec::new(), time: LEASE }
        }
        NetbootMode::Proxy => Mode::Beside { server: None },
    };
    let responder = Responder::new(address, mode, clients);
    let responder = match http {
        Some(at) => responder.with_http(format!("http://{at}{}", HttpFiles::PATH)),
        None => responder,
    };
    let options =
        DhcpOptions { interface, server_port: settings.dhcp_port, client_port: settings.dhcp_client_port };
    let server = DhcpServer::bind(options, responder)
        .map_err(|error| failed("netboot the lab's devices", error.hint(), error))?;
    let (sender, seen) = mpsc::channel(NEWS);
    layer.tracker.spawn(server.run(sender, layer.token.clone()));
    Ok(seen)
}

/// The directory that the lab file names, else what is in the store of images, else what Debian's package has installed.
pub(super) fn firmware(settings: &Settings) -> Result<Firmware, CliError> {
    let usual = [Store::from_environment().root().join(STORE_FIRMWARE), PathBuf::from(DEBIAN_FIRMWARE)];
    let dir = settings.firmware.clone().or_else(|| usual.into_iter().find(|dir| dir.is_dir()));
    let Some(dir) = dir else { return Ok(Firmware::default()) };
    Firmware::read(&dir).map_err(|error| {
        let hint = error.hint().or_else(|| Some("netboot.firmware in the lab file names it".to_owned()));
        failed("read the boards' firmware", hint, error)
    })
}

/// Writes what is seen into the journals.
struct Teller {
    devices: BTreeMap<DeviceId, DeviceHandle>,
    /// In which boot attempt each was heard last.
    heard: BTreeMap<DeviceId, BootAttempt>,
    files: Arc<PiFiles>,
}

impl Teller {
    async fn run(mut self, mut news: News) {
        loop {
            tokio::select! {
                Some(event) = news.dhcp.recv() => {
                    tracing::info!("{}", event.what);
                    if let (whose, Some(fact)) = fact::of_dhcp(&event.what, &self.files) {
                        self.tell(whose, fact).await;
                    }
                }
                Some(event) = news.files.recv() => {
                    if let Some((whose, fact)) = fact::of_file(&event, &self.files) {
                        tracing::info!(peer = %event.peer, "{fact}");
                        self.tell(whose, fact).await;
                    }
                }
                Some(layer) = news.layers.recv() => {
                    let (whose, fact) = fact::of_layer(&layer, &self.files);
                    self.tell(whose, fact).await;
                }
                else => return,
            }
        }
    }

    async fn tell(&mut self, whose: Whose, fact: NetbootFact) {
        match whose {
            Whose::Device(device) => {
                let Some(handle) = self.devices.get(&device) else { return };
                // A stranger that looks like it is not yet it.
                if !matches!(fact, NetbootFact::Stranger { .. }) {
                    self.heard.insert(device, handle.state().borrow().attempt);
                }
                note(handle, fact).await;
            }
            Whose::Unheard => {
                for (device, handle) in &self.devices {
                    let (power, attempt) = {
                        let state = handle.state();
                        let state = state.borrow();
                        (state.power, state.attempt)
                    };
                    if power != PowerReading::Off && self.heard.get(device) != Some(&attempt) {
                        note(handle, fact.clone()).await;
                    }
                }
                tracing::warn!("{fact}");
            }
            Whose::Nobody => tracing::warn!("of no device of the lab: {fact}"),
        }
    }
}

async fn note(device: &DeviceHandle, fact: NetbootFact) {
    let attempt = device.state().borrow().attempt;
    if let Err(error) = device.journal().event(attempt, Event::Netboot { fact }).await {
        tracing::error!(device = %device.id(), "an event is lost: {}", Chain(&error));
    }
}
