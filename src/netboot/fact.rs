//! From what the servers see to facts of devices' journals.

use super::dhcp::DhcpNews;
use super::office::LayerSent;
use super::pi_boot::PiFiles;
use super::tftp::content::Refusal;
use super::tftp::event::{Abort, FileEvent, FileProgress, Refused};
use super::tftp::table::FRAME_BLOCK;
use crate::model::id::DeviceId;
use crate::model::netboot::NetbootFact;
use std::time::Duration;

/// The most characters that are kept of what a client or a file system said.
const WORDS: usize = 200;

/// Whose a fact is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A device's.
    Device(DeviceId),
    /// Perhaps that of any device that is on and has not been heard.
    Unheard,
    /// No device's: the lab's log has it.
    Nobody,
}

/// A fact of a journal, or none, where only the log is told; with whose it is.
pub fn of_dhcp(news: &DhcpNews, files: &PiFiles) -> (Whose, Option<NetbootFact>) {
    let device = |device: &DeviceId| Whose::Device(device.clone());
    match news {
        DhcpNews::Discovered { device: who, boots } => {
            (device(who), Some(NetbootFact::Discovered { boots: *boots }))
        }
        DhcpNews::Offered { device: who, address } => {
            (device(who), Some(NetbootFact::Offered { address: *address }))
        }
        DhcpNews::Acknowledged { device: who, address } => {
            (device(who), Some(NetbootFact::Acknowledged { address: *address }))
        }
        DhcpNews::Denied { device: who, asked } => (device(who), Some(NetbootFact::Denied { asked: *asked })),
        DhcpNews::Declined { device: who, address } => {
            (device(who), Some(NetbootFact::Declined { address: *address }))
        }
        DhcpNews::Contradiction { device: who, known, sent } => {
            let (known, sent) = (format!("{known:08x}"), format!("{sent:08x}"));
            (device(who), Some(NetbootFact::Contradicted { known, sent }))
        }
        DhcpNews::Stranger { mac, class, serial, looks_like } => {
            let fact = NetbootFact::Stranger {
                mac: mac.to_string(),
                class: class.as_deref().map(printable),
                serial: serial.map(|serial| format!("{serial:08x}")),
                ours: looks_like.is_some(),
            };
            (looks_like.as_ref().map_or(Whose::Unheard, device), Some(fact))
        }
        DhcpNews::OtherServer { server, expected, gave, mac } => {
            let fact = NetbootFact::OtherServer { server: *server, gave: *gave, expected: *expected };
            (files.of_card(*mac).map_or(Whose::Unheard, Whose::Device), Some(fact))
        }
        DhcpNews::Flooded { .. } | DhcpNews::Malformed(_) => (Whose::Nobody, None),
    }
}

/// The same of a file; none for what is not worth a line, such as its first byte.
pub fn of_file(event: &FileEvent, files: &PiFiles) -> Option<(Whose, NetbootFact)> {
    let (whose, path) = match files.who(event.peer.ip(), &event.path) {
        Some((device, path)) => (Whose::Device(device), path),
        None => (Whose::Nobody, event.path.to_string()),
    };
    let path = printable(&path);
    let fact = match &event.what {
        FileProgress::FirstByte => return None,
        FileProgress::Requested { length, .. } => NetbootFact::FileAsked { path, bytes: *length },
        FileProgress::Done { bytes, took, .. } => {
            NetbootFact::FileDone { path, bytes: *bytes, took: seconds(*took) }
        }
        FileProgress::Aborted { bytes, took, cause } => match cause {
            // A board looks whether a file is there, and ends it at once: whoever has had more has given it up.
            Abort::Client { code: 0, .. } if *bytes <= u64::from(FRAME_BLOCK) => {
                NetbootFact::FileProbed { path }
            }
            // EDK2 asks how long it is, and then refuses the options that told it ("User aborted the transfer").
            Abort::Client { code: 8, .. } if *bytes == 0 => NetbootFact::FileProbed { path },
            Abort::Stalled => NetbootFact::FileStalled { path, bytes: *bytes, took: seconds(*took) },
            cause => NetbootFact::FileAborted { path, bytes: *bytes, cause: printable(&cause.to_string()) },
        },
        FileProgress::Refused(Refused::File(Refusal::NotFound)) => NetbootFact::FileMissing { path },
        FileProgress::Refused(cause) => {
            NetbootFact::FileRefused { path, cause: printable(&cause.to_string()) }
        }
    };
    Some((whose, fact))
}

/// The same of a layer.
pub fn of_layer(layer: &LayerSent, files: &PiFiles) -> (Whose, NetbootFact) {
    let whose = files.who(layer.to, "").map_or(Whose::Nobody, |(device, _)| Whose::Device(device));
    let LayerSent { sha256, sent, bytes, .. } = layer;
    (whose, NetbootFact::Layer { sha256: sha256.clone(), sent: *sent, bytes: *bytes })
}

/// To the millisecond.
fn seconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1000.0).round() / 1000.0
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netboot::mac::Mac;
    use crate::netboot::neighbours::Neighbours;
    use crate::netboot::tree::Resident;
    use std::net::IpAddr;
    use std::sync::Arc;
    use tokio::time::Instant;

    struct Nobody;

    impl Neighbours for Nobody {
        fn mac(&self, _: IpAddr) -> Option<String> {
            None
        }
    }

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    fn files() -> Arc<PiFiles> {
        let resident = |name: &str, last: u8| Resident {
            device: device(name),
            mac: Mac([2, 0, 0, 0, 0, last]),
            serial: Some(u32::from(last)),
            address: Some([10, 0, 0, last].into()),
        };
        PiFiles::new(vec![resident("l-one", 1), resident("l-two", 2)], Box::new(Nobody))
    }

    #[test]
    fn a_file_is_told_to_whoever_asked() {
        let tell = |last: u8, path: &str, what| {
            let peer = (IpAddr::from([10, 0, 0, last]), 1000).into();
            let event = FileEvent { at: Instant::now(), peer, path: path.into(), what };
            of_file(&event, &files())
        };
        let one = Whose::Device(device("l-one"));
        let took = Duration::from_millis(1500);
        let done = FileProgress::Done { bytes: 7, took, confirmed: true };
        let fact = NetbootFact::FileDone { path: "a".to_owned(), bytes: 7, took: 1.5 };
        assert_eq!(tell(1, "00000001/a", done), Some((one.clone(), fact)));
        let aborted = |cause| FileProgress::Aborted { bytes: 0, took, cause };
        let early = || Abort::Client { code: 0, message: "Early terminate".to_owned() };
        let probe = aborted(early());
        assert_eq!(
            tell(1, "00000001/a", probe),
            Some((one.clone(), NetbootFact::FileProbed { path: "a".to_owned() }))
        );
        let looks = FileProgress::Aborted { bytes: 1468, took, cause: early() };
        assert!(matches!(tell(1, "00000001/a", looks).unwrap().1, NetbootFact::FileProbed { .. }));
        let given_up = FileProgress::Aborted { bytes: 40_000_000, took, cause: early() };
        let fact = tell(1, "00000001/a", given_up).unwrap().1;
        assert!(matches!(fact, NetbootFact::FileAborted { bytes: 40_000_000, .. }), "{fact:?}");
        let of_uefi = || Abort::Client { code: 8, message: "User aborted the transfer".to_owned() };
        let fact = tell(1, "00000001/a", aborted(of_uefi())).unwrap().1;
        assert!(matches!(fact, NetbootFact::FileProbed { .. }), "{fact:?}");
        let later = FileProgress::Aborted { bytes: 1, took, cause: of_uefi() };
        let fact = tell(1, "00000001/a", later).unwrap().1;
        assert!(matches!(fact, NetbootFact::FileAborted { .. }), "{fact:?}");
        assert!(matches!(
            tell(1, "00000001/a", aborted(Abort::Stalled)),
            Some((_, NetbootFact::FileStalled { .. }))
        ));
        let refused = |refusal| FileProgress::Refused(Refused::File(refusal));
        assert!(matches!(
            tell(1, "00000001/b", refused(Refusal::NotFound)),
            Some((_, NetbootFact::FileMissing { .. }))
        ));
        let (cause, path) = ("l-one asks for a file of l-two".to_owned(), "00000002/a".to_owned());
        let theirs = refused(Refusal::Forbidden(cause.clone()));
        assert_eq!(
            tell(1, &path, theirs),
            Some((one, NetbootFact::FileRefused { path: path.clone(), cause }))
        );
        assert_eq!(tell(1, "00000001/a", FileProgress::FirstByte), None);
        assert!(matches!(tell(9, "x", refused(Refusal::NotFound)), Some((Whose::Nobody, _))));
    }

    #[test]
    fn a_stranger_is_perhaps_one_of_those_who_are_not_heard() {
        let stranger = |looks_like| DhcpNews::Stranger {
            mac: Mac([2; 6]),
            class: Some("PXE\u{1b}".to_owned()),
            serial: Some(1),
            looks_like,
        };
        let of_dhcp = |news: &DhcpNews| of_dhcp(news, &files());
        let (whose, fact) = of_dhcp(&stranger(None));
        assert_eq!(whose, Whose::Unheard);
        let Some(NetbootFact::Stranger { class, serial, ours: false, .. }) = fact else { panic!("{fact:?}") };
        assert_eq!((class.as_deref(), serial.as_deref()), (Some("PXE?"), Some("00000001")));
        assert_eq!(of_dhcp(&stranger(Some(device("l-one")))).0, Whose::Device(device("l-one")));
        let other = |last| {
            let (server, mac) = ([10, 0, 0, 9].into(), Mac([2, 0, 0, 0, 0, last]));
            of_dhcp(&DhcpNews::OtherServer { server, expected: false, mac, gave: None }).0
        };
        assert_eq!((other(2), other(9)), (Whose::Device(device("l-two")), Whose::Unheard));
    }
}
