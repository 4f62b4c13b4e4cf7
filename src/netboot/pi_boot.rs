//! The port `Boot` for boards that the lab boots over the network: one tree for each device, and the files of all for the TFTP server.

use super::board::Board;
use super::layers::LayerSource;
use super::mac::Mac;
use super::neighbours::Neighbours;
use super::tftp::content::{BootFiles, Content, Refusal};
use super::tftp::path::BootPath;
use super::tree::{Firmware, Forest, Resident, Source, TreeError, TreeSpec};
use crate::device::ports::{Boot, BootOffer, PortError, PortFuture};
use crate::model::id::DeviceId;
use crate::model::lease::{Fence, FencingToken};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// What all Pis of a lab boot from; give it to [`super::tftp::TftpServer::start`] as the files.
pub struct PiFiles {
    forest: RwLock<Forest>,
    neighbours: Box<dyn Neighbours>,
}

impl PiFiles {
    /// For the devices of a lab; none boots anything yet.
    pub fn new(residents: Vec<Resident>, neighbours: Box<dyn Neighbours>) -> Arc<Self> {
        Arc::new(Self { forest: RwLock::new(Forest::new(residents)), neighbours })
    }

    /// Whose network card that is.
    pub fn of_card(&self, mac: Mac) -> Option<DeviceId> {
        self.forest.read().unwrap_or_else(PoisonError::into_inner).of_card(mac).cloned()
    }

    /// Which device asked from `address` for `path`, and what of the path lies in its tree; none for strangers.
    pub fn who(&self, address: IpAddr, path: &str) -> Option<(DeviceId, String)> {
        let address = address.to_canonical();
        let mac = self.neighbours.mac(address).and_then(|mac| mac.parse().ok());
        let forest = self.forest.read().unwrap_or_else(PoisonError::into_inner);
        forest.who(address, mac, path).map(|(device, path)| (device.clone(), path.to_owned()))
    }
}

impl BootFiles for PiFiles {
    fn open(&self, peer: SocketAddr, path: &BootPath) -> Result<Content, Refusal> {
        let address = peer.ip().to_canonical();
        let mac = self.neighbours.mac(address).and_then(|mac| mac.parse().ok());
        let source = {
            let forest = self.forest.read().unwrap_or_else(PoisonError::into_inner);
            forest.find(address, mac, path)?.clone()
        };
        source.open()
    }
}

/// Where one Pi boots from.
pub struct PiBoot {
    device: DeviceId,
    board: Board,
    /// Firmware, device trees and overlays for it.
    firmware: Firmware,
    files: Arc<PiFiles>,
    layers: LayerSource,
    /// Held while the tree is changed: who comes later has seen what came before.
    fence: Mutex<Fence>,
}

impl PiBoot {
    /// The device boots nothing yet.
    pub fn new(
        device: DeviceId,
        board: Board,
        firmware: Firmware,
        files: Arc<PiFiles>,
        layers: LayerSource,
    ) -> Self {
        Self { device, board, firmware, files, layers, fence: Mutex::default() }
    }

    fn fence(&self) -> MutexGuard<'_, Fence> {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, token: FencingToken, offer: Option<BootOffer>) -> Result<(), PortError> {
        let mut fence = self.fence();
        fence.admit(token)?;
        let tree = offer.map(|offer| self.tree(offer)).transpose().map_err(|error| PortError::Failed {
            operation: format!("offer {} its boot files", self.device),
            hint: error.hint(),
            source: Box::new(error),
        });
        let mut forest = self.files.forest.write().unwrap_or_else(PoisonError::into_inner);
        // Also when there is no new tree: the old one is of an attempt that is over.
        forest.fell(&self.device);
        if let Some(tree) = tree? {
            forest.plant(self.device.clone(), tree);
        }
        Ok(())
    }

    fn tree(&self, offer: BootOffer) -> Result<super::tree::BootTree, TreeError> {
        for layer in &offer.layers {
            self.layers.register(layer);
        }
        let firmware = match offer.tree {
            None => self.firmware.clone(),
            Some(tree) => {
                let mut own = Firmware::default();
                for (path, file) in tree {
                    own.add(&path, Source::File(file))?;
                }
                own
            }
        };
        let spec = TreeSpec {
            board: self.board,
            firmware,
            kernel: offer.kernel.map(Source::File),
            initramfs: offer.initramfs.map(Source::File),
            device_tree: offer.device_tree.map(Source::File),
            cmdline: offer.cmdline,
        };
        spec.build()
    }
}

impl Boot for PiBoot {
    fn offer(&self, token: FencingToken, offer: BootOffer) -> PortFuture<'_, ()> {
        Box::pin(async move { self.set(token, Some(offer)) })
    }

    fn withdraw(&self, token: FencingToken) -> PortFuture<'_, ()> {
        Box::pin(async move { self.set(token, None) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::boot::BootAttempt;

    struct Nobody;

    impl Neighbours for Nobody {
        fn mac(&self, _: IpAddr) -> Option<String> {
            None
        }
    }

    fn token(sequence: u64) -> FencingToken {
        FencingToken { epoch: 1, sequence }
    }

    fn offer(dir: &std::path::Path, ticket: &str) -> BootOffer {
        BootOffer {
            attempt: BootAttempt(1),
            kernel: Some(dir.join("kernel")),
            initramfs: Some(dir.join("initramfs")),
            layers: Vec::new(),
            cmdline: vec![format!("pilab.ticket={ticket}")],
            ..BootOffer::default()
        }
    }

    #[tokio::test]
    async fn a_device_boots_what_the_newest_lease_offered_and_nothing_after_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kernel"), "kernel!").unwrap();
        let device = DeviceId::new("lab-five").unwrap();
        let resident =
            Resident { device: device.clone(), mac: Mac([2; 6]), serial: Some(0xabcd), address: None };
        let files = PiFiles::new(vec![resident], Box::new(Nobody));
        let boot =
            PiBoot::new(device, Board::Pi5, Firmware::default(), Arc::clone(&files), LayerSource::default());
        let read = |path: &str| {
            let path = BootPath::parse(path.as_bytes()).unwrap();
            files.open("10.0.0.5:1000".parse().unwrap(), &path).map(|content| match content {
                Content::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                content => content.length().to_string(),
            })
        };
        let nothing = Err(Refusal::Forbidden("lab-five is to boot nothing now".to_owned()));
        assert_eq!(read("0000abcd/config.txt"), nothing);

        boot.offer(token(2), offer(dir.path(), "one")).await.unwrap();
        assert_eq!(read("0000abcd/cmdline.txt").unwrap(), "console=ttyAMA10,115200 pilab.ticket=one\n");
        assert_eq!(read("02-02-02-02-02-02/vmlinuz").unwrap(), "7");
        assert!(matches!(read("0000abcd/initrd.img"), Err(Refusal::Unreadable(_))), "it is not on the disk");

        let late = boot.offer(token(1), offer(dir.path(), "late")).await;
        assert!(matches!(late, Err(PortError::Fenced(_))), "{late:?}");
        assert!(matches!(boot.withdraw(token(1)).await, Err(PortError::Fenced(_))));
        assert!(read("0000abcd/cmdline.txt").unwrap().contains("ticket=one"));

        let wrong = boot.offer(token(3), offer(dir.path(), "a\nb")).await.unwrap_err();
        assert_eq!(wrong.to_string(), "cannot offer lab-five its boot files");
        assert_eq!(read("0000abcd/cmdline.txt"), nothing, "the attempt before is over");
        boot.offer(token(3), offer(dir.path(), "two")).await.unwrap();
        boot.withdraw(token(3)).await.unwrap();
        assert_eq!(read("0000abcd/cmdline.txt"), nothing);
    }
}
