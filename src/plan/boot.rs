//! Where a board that boots over the network stands, from what its journal tells; and when it stands still, where, and
//! what to try. Times are since power-on.
//!
//! ```text
//!  Dark ── DISCOVER ──► Asking ── offer ──► Offered ── a file ──► Files ── the kernel ──► Loaded ── any sign ──► Up
//!                         ▲                                         │
//!                         └──────── DISCOVER: it began anew ────────┘
//! ```
//!
//! A boot ROM can stand still for ever where a system would try again: a Pi 3 whose DHCP found nobody sleeps until its power
//! is cut, a Pi 5 whose kernel stops half-way shows a black screen. So what a cut may cure is cut, a bounded number of
//! times; what it cannot is only told. Once a kernel runs nothing here is cut any more.

use crate::model::boot::BootStage;
use crate::model::device::Model;
use crate::model::event::Event;
use crate::model::netboot::NetbootFact;
use std::collections::BTreeSet;
use std::time::Duration;

/// No DISCOVER for so long: the link is up after 2 to 5 s, a Pi 3 looks for an SD card for 5 s and then asks for 25 s, a
/// switch's port that learns the spanning tree is closed for 30 s.
const DARK: Duration = Duration::from_secs(35);
/// The same where it is UEFI that asks: machines with it take a minute or two until they look for a network.
const DARK_UEFI: Duration = Duration::from_secs(180);
/// Between an offer and the first file: an EEPROM asks again after 4 s (`DHCP_REQ_TIMEOUT`), a 3B's ROM takes 2 s.
const OFFERED: Duration = Duration::from_secs(20);
/// Between two files: an EEPROM gives one up after 30 s (`TFTP_FILE_TIMEOUT`), and waits for 5 s before it tries again.
const SILENT: Duration = Duration::from_secs(40);
/// After a file that the board answers no more for: what tries again has done so after 5 s.
const STALLED: Duration = Duration::from_secs(10);
/// For one file: the longest that an EEPROM takes at all (91 MB before 2025-09) at a tenth of the rates that are seen (1.7 MB/s).
const ONE_FILE: Duration = Duration::from_secs(600);
/// From the kernel to a sign of it.
const LOADED: Duration = Duration::from_secs(60);
/// How often a board that stands still is power-cycled for one boot.
pub const MAX_CYCLES: u32 = 2;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// It has power, and nothing has been heard of it.
    Dark,
    /// It asks for an address.
    Asking,
    /// It was told where its files are.
    Offered,
    /// It fetches files.
    Files,
    /// It has its kernel.
    Loaded,
    /// A kernel runs.
    Up,
}

/// It stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// Where, one line.
    pub at: String,
    /// What to try, one line.
    pub hint: String,
    /// Whether cutting its power may help.
    pub cure: bool,
}

/// One boot attempt as it goes on.
#[derive(Debug, Clone)]
pub struct Watch {
    /// How long it may be dark.
    dark: Duration,
    /// The file after which it should show a sign of life; none where nobody knows it.
    kernel: Option<String>,
    place: Place,
    /// When it came there, or further.
    since: Duration,
    /// Files on their way.
    flying: BTreeSet<String>,
    /// The file that was told of last.
    last: Option<String>,
    stalled: Option<u64>,
    refused: Option<String>,
    contradicted: Option<String>,
    stranger: Option<(String, bool)>,
    other_server: Option<String>,
    /// Its boot loader or firmware speaks on the console.
    speaks: bool,
}

impl Watch {
    /// From power-on. `kernel` is the path, below the prefix, of the kernel that it is to fetch, where that is known.
    pub fn new(kernel: Option<&str>) -> Self {
        Self {
            dark: DARK,
            kernel: kernel.map(str::to_owned),
            place: Place::Dark,
            since: Duration::ZERO,
            flying: BTreeSet::new(),
            last: None,
            stalled: None,
            refused: None,
            contradicted: None,
            stranger: None,
            other_server: None,
            speaks: false,
        }
    }

    /// A device of this model.
    #[must_use]
    pub fn of(self, model: Model) -> Self {
        let dark = if model == Model::UefiArm64 { DARK_UEFI } else { DARK };
        Self { dark, ..self }
    }

    /// How far it has come.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Takes in what was journaled, `at` after power-on.
    pub fn see(&mut self, event: &Event, at: Duration) {
        match event {
            Event::Netboot { fact } => self.fact(fact, at),
            Event::Stage { stage: BootStage::Bootloader | BootStage::Firmware, .. } => self.speaks = true,
            Event::Stage { .. } | Event::TicketRedeemed { .. } | Event::AgentAnswered { .. } => {
                self.come(Place::Up, at);
            }
            _ => {}
        }
    }

    fn fact(&mut self, fact: &NetbootFact, at: Duration) {
        match fact {
            NetbootFact::Discovered { boots: true } if self.place != Place::Up => {
                // It asks again every few seconds; that it did so first is what counts.
                if self.place != Place::Asking && self.place != Place::Offered {
                    (self.place, self.since) = (Place::Asking, at);
                    (self.flying, self.stalled) = (BTreeSet::new(), None);
                }
            }
            NetbootFact::Offered { .. } => self.come(Place::Offered, at),
            NetbootFact::Discovered { .. } | NetbootFact::Layer { .. } => self.come(Place::Up, at),
            NetbootFact::FileAsked { path, .. } => {
                self.file(path, at);
                self.flying.insert(path.clone());
            }
            NetbootFact::FileDone { path, .. } => {
                self.file(path, at);
                if self.kernel.as_ref() == Some(path) {
                    self.come(Place::Loaded, at);
                }
            }
            NetbootFact::FileProbed { path }
            | NetbootFact::FileMissing { path }
            | NetbootFact::FileAborted { path, .. } => self.file(path, at),
            NetbootFact::FileStalled { path, bytes, .. } => {
                self.file(path, at);
                self.stalled = Some(*bytes);
            }
            NetbootFact::FileRefused { path, cause } => {
                self.file(path, at);
                self.refused = Some(format!("{path}: {cause}"));
            }
            NetbootFact::Contradicted { .. } => self.contradicted = Some(fact.to_string()),
            NetbootFact::Stranger { mac, ours, .. } => {
                if self.stranger.as_ref().is_none_or(|(_, certain)| !certain) {
                    self.stranger = Some((mac.clone(), *ours));
                }
            }
            NetbootFact::OtherServer { server, expected: false, .. } => {
                self.other_server = Some(server.to_string());
            }
            NetbootFact::Acknowledged { .. }
            | NetbootFact::Denied { .. }
            | NetbootFact::Declined { .. }
            | NetbootFact::OtherServer { .. } => {}
        }
    }

    fn file(&mut self, path: &str, at: Duration) {
        self.flying.remove(path);
        self.stalled = None;
        self.last = Some(path.to_owned());
        if self.place <= Place::Files {
            (self.place, self.since) = (Place::Files, at);
        }
    }

    fn come(&mut self, place: Place, at: Duration) {
        if self.place < place {
            (self.place, self.since) = (place, at);
        }
    }

    /// How long it may stay where it is.
    fn limit(&self) -> Option<Duration> {
        match self.place {
            Place::Dark => Some(self.dark),
            Place::Asking | Place::Offered => Some(OFFERED),
            Place::Files if self.stalled.is_some() => Some(STALLED),
            Place::Files if !self.flying.is_empty() => Some(ONE_FILE),
            Place::Files => Some(SILENT),
            Place::Loaded => Some(LOADED),
            Place::Up => None,
        }
    }

    /// When it has to be judged again, unless it is heard before; none when never.
    pub fn due(&self) -> Option<Duration> {
        self.limit().map(|limit| self.since + limit)
    }

    /// Whether it stands still.
    pub fn judge(&self, now: Duration) -> Option<Stall> {
        let limit = self.limit().filter(|limit| now >= self.since + *limit)?;
        let seconds = limit.as_secs();
        let last = self.last.as_deref().unwrap_or("nothing");
        let (at, cure) = match self.place {
            Place::Dark => (format!("no DISCOVER within {seconds} s of power-on"), true),
            Place::Asking => (format!("it asks for an address and gets none, for {seconds} s"), false),
            Place::Offered => {
                (format!("it was told where its files are, and asks for none within {seconds} s"), true)
            }
            Place::Files => match self.stalled {
                Some(bytes) => (format!("it answers no more after {bytes} bytes of {last}"), true),
                None if !self.flying.is_empty() => (format!("{last} is not there after {seconds} s"), true),
                // Whether that was all is known only where the kernel's name is.
                None => {
                    (format!("it asks for nothing more after {last}, for {seconds} s"), self.kernel.is_some())
                }
            },
            Place::Loaded => {
                (format!("it has its kernel, and shows no sign of it within {seconds} s"), false)
            }
            Place::Up => return None,
        };
        Some(Stall { at, hint: self.hint(), cure })
    }

    fn hint(&self) -> String {
        if let Some(contradicted) = &self.contradicted {
            return format!("{contradicted}: correct `serial`, or swap the cables of two boards back");
        }
        if let (Some((mac, true)), Place::Dark) = (&self.stranger, self.place) {
            return format!("{mac} asks with its serial number: correct `mac` in the lab file");
        }
        if let (Some(server), Place::Dark | Place::Asking | Place::Offered) = (&self.other_server, self.place)
        {
            return format!(
                "another DHCP server answers on this wire, {server}: stop it, or say mode = \"proxy\" in [netboot]"
            );
        }
        match self.place {
            Place::Dark => match &self.stranger {
                Some((mac, _)) => format!(
                    "{mac}, which is not in the lab file, asks for an address: if that is this board, correct `mac`"
                ),
                None if self.speaks => {
                    "its boot loader speaks, so it has power: look at the Ethernet link, at BOOT_ORDER (2 is the network) and for an SD card"
                        .to_owned()
                }
                None => "look at its supply, at the Ethernet cable, at the switch's port (spanning tree closes it for 30 s: \
                         set portfast), at `mac` in the lab file, at BOOT_ORDER, and for an SD card that it boots from"
                    .to_owned(),
            },
            Place::Asking | Place::Offered => {
                "something between filters UDP, or its EEPROM has a TFTP_IP of its own".to_owned()
            }
            Place::Files => match &self.refused {
                Some(refused) => refused.clone(),
                None if self.stalled.is_some() => {
                    "packets are lost on the way, or the file is too long for its EEPROM (91 MB before 2025-09, 64 MB before 2022-10)"
                        .to_owned()
                }
                None => "its console says why, where the EEPROM has BOOT_UART=1; is the firmware that of this board?".to_owned(),
            },
            Place::Loaded => {
                "is the kernel for this board, and its console wired? pilab console shows what it says".to_owned()
            }
            Place::Up => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(fact: NetbootFact) -> Event {
        Event::Netboot { fact }
    }

    #[test]
    fn uefi_may_be_dark_for_minutes() {
        let dark = |model| Watch::new(None).of(model).due();
        assert_eq!(dark(Model::Pi5), Some(DARK));
        assert_eq!(dark(Model::UefiArm64), Some(DARK_UEFI));
    }

    fn path(path: &str) -> String {
        path.to_owned()
    }

    fn discover(boots: bool) -> Event {
        fact(NetbootFact::Discovered { boots })
    }

    fn offer() -> Event {
        fact(NetbootFact::Offered { address: None })
    }

    fn asked(name: &str) -> Event {
        fact(NetbootFact::FileAsked { path: path(name), bytes: 1 })
    }

    fn done(name: &str) -> Event {
        fact(NetbootFact::FileDone { path: path(name), bytes: 1, took: 0.1 })
    }

    fn stalled(name: &str) -> Event {
        fact(NetbootFact::FileStalled { path: path(name), bytes: 7, took: 6.0 })
    }

    fn stranger(ours: bool) -> Event {
        fact(NetbootFact::Stranger { mac: "02:00:00:00:00:09".to_owned(), class: None, serial: None, ours })
    }

    fn stage(stage: BootStage) -> Event {
        Event::Stage { stage, line: String::new(), offset: 0, boot: 1 }
    }

    fn watch(events: &[(u64, Event)]) -> Watch {
        let mut watch = Watch::new(Some("vmlinuz"));
        for (at, event) in events {
            watch.see(event, Duration::from_secs(*at));
        }
        watch
    }

    #[test]
    fn a_board_that_stands_still_is_told_where_and_what_to_try() {
        let server =
            fact(NetbootFact::OtherServer { server: [10, 0, 0, 9].into(), gave: None, expected: false });
        let contradicted = fact(NetbootFact::Contradicted { known: "1".to_owned(), sent: "2".to_owned() });
        let refused = fact(NetbootFact::FileRefused { path: path("x/a"), cause: "l-b's".to_owned() });
        let table = [
            (vec![], 35, "no DISCOVER within 35 s", "portfast", true),
            (vec![(3, stage(BootStage::Bootloader))], 35, "no DISCOVER", "its boot loader speaks", true),
            (vec![(3, stranger(false))], 35, "no DISCOVER", "if that is this board, correct `mac`", true),
            (
                vec![(3, stranger(true)), (4, stranger(false))],
                35,
                "no DISCOVER",
                "asks with its serial number: correct `mac`",
                true,
            ),
            (vec![(3, contradicted)], 35, "no DISCOVER", "correct `serial`", true),
            (vec![(5, discover(true))], 25, "asks for an address and gets none", "filters UDP", false),
            (
                vec![(5, discover(true)), (6, offer()), (9, discover(true))],
                26,
                "asks for none",
                "TFTP_IP",
                true,
            ),
            (
                vec![(5, discover(true)), (6, offer()), (6, server)],
                26,
                "asks for none",
                "10.0.0.9: stop it",
                true,
            ),
            (
                vec![(6, offer()), (7, asked("a")), (8, done("a"))],
                48,
                "nothing more after a,",
                "BOOT_UART",
                true,
            ),
            (vec![(7, refused)], 47, "nothing more after x/a", "x/a: l-b's", true),
            (vec![(7, asked("a")), (12, stalled("a"))], 22, "after 7 bytes of a", "packets are lost", true),
            (vec![(7, asked("big"))], 607, "big is not there after 600 s", "BOOT_UART", true),
            (
                vec![(7, asked("vmlinuz")), (17, done("vmlinuz"))],
                77,
                "it has its kernel",
                "console wired",
                false,
            ),
        ];
        for (events, at, words, hint, cure) in table {
            let watch = watch(&events);
            assert_eq!(watch.due(), Some(Duration::from_secs(at)), "{events:?}");
            assert_eq!(watch.judge(Duration::from_secs(at - 1)), None, "{events:?}");
            let stall = watch.judge(Duration::from_secs(at)).unwrap();
            assert!(stall.at.contains(words) && stall.hint.contains(hint), "{stall:?} of {events:?}");
            assert_eq!(stall.cure, cure, "{stall:?}");
        }
    }

    #[test]
    fn what_runs_is_judged_no_more_and_what_goes_on_begins_to_wait_anew() {
        for sign in [
            discover(false),
            stage(BootStage::Kernel),
            stage(BootStage::Panic),
            Event::TicketRedeemed { address: String::new() },
            fact(NetbootFact::Layer { sha256: String::new(), sent: 0, bytes: 1 }),
        ] {
            let watch = watch(&[(5, discover(true)), (6, offer()), (7, done("vmlinuz")), (8, sign)]);
            assert_eq!((watch.place(), watch.due()), (Place::Up, None));
            assert_eq!(watch.judge(Duration::from_secs(10_000)), None);
        }
        let mut again = watch(&[(6, offer()), (7, asked("a")), (13, stalled("a"))]);
        again.see(&asked("a"), Duration::from_secs(18));
        assert_eq!(again.due(), Some(Duration::from_secs(618)), "it tries again by itself");
        again.see(&discover(true), Duration::from_secs(20));
        assert_eq!((again.place(), again.due()), (Place::Asking, Some(Duration::from_secs(40))));
        // Late news of what was before is not taken for progress backwards.
        let mut up = watch(&[(7, stage(BootStage::Kernel))]);
        up.see(&discover(true), Duration::from_secs(8));
        assert_eq!(up.place(), Place::Up);
        // Where nobody knows the kernel, silence may be its beginning: nothing is cut.
        let mut own = Watch::new(None);
        own.see(&done("kernel8.img"), Duration::from_secs(9));
        assert!(!own.judge(Duration::from_secs(49)).unwrap().cure);
    }
}
