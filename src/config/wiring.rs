//! `[[devices]]` of a lab file: real devices, and how each is wired.

mod card;
mod gpio;
mod switch;

pub use card::is_user;
pub use gpio::{kernel_keeps, kernel_says};

use super::error::ConfigError;
use super::netboot::{self, Netboot, NetbootDevice, RawBoot};
use super::raw::{RawDuration, Source};
use super::simulate::{self, RawSimulate};
use crate::model::device::{Backend, Capability, Device, Model};
use crate::model::id::{DeviceId, LabName};
use crate::model::simulation::Simulation;
use crate::model::wiring::{CardLogin, ConsoleLine, PowerSwitch};
use card::RawCard;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;
use switch::RawPower;
use toml::Spanned;

/// What a Pi's bootloader and kernel speak.
const DEFAULT_BAUD: u32 = 115_200;
/// The longest least time off.
const MAX_MIN_OFF: Duration = Duration::from_secs(600);

/// How many cycles under load the relay of a board of relays is good for: the data sheet of Songle's SRD-05VDC, "electrical life".
const RELAY_CYCLES: u64 = 100_000;
/// What a relay may be rated for.
const RATED_CYCLES: RangeInclusive<u64> = 1_000..=1_000_000_000;

/// A real device of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WiredDevice {
    /// What scenarios see.
    pub device: Device,
    /// Its MAC address, lower-case with colons.
    pub mac: Option<String>,
    /// The line of its console.
    pub console: Option<ConsoleLine>,
    /// The switch of its power.
    pub power: PowerSwitch,
    /// The least time without power between off and on, where it is not the usual one.
    pub min_off: Option<Duration>,
    /// How many cycles of on and off its relay is rated for; none for what is not known to wear.
    pub rated_cycles: Option<u64>,
    /// How it boots from the lab; none where it boots what it finds by itself.
    pub netboot: Option<NetbootDevice>,
    /// How the lab logs in to one that boots from its own card, to give its agent there what a ticket brings others.
    pub card: Option<CardLogin>,
    /// How it is simulated; none for one that is really there. What is simulated has neither console nor switch of its own: the
    /// virtual rack gives it both.
    pub simulation: Option<Simulation>,
}

/// What a device that the lab boots can do with the lab's image, whatever it is wired to.
const NETBOOT_CAPABILITIES: [Capability; 4] =
    [Capability::Boot, Capability::Image, Capability::Ssh, Capability::Network];
/// What one can do that boots from its own card and has our agent there: its image is its owner's.
const CARD_CAPABILITIES: [Capability; 3] = [Capability::Boot, Capability::Ssh, Capability::Network];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDevice {
    id: String,
    model: Model,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    console: Option<Spanned<RawConsole>>,
    power: Option<Spanned<RawPower>>,
    min_off: Option<Spanned<RawDuration>>,
    rated_cycles: Option<Spanned<u64>>,
    mac: Option<Spanned<String>>,
    serial: Option<Spanned<String>>,
    address: Option<Spanned<Ipv4Addr>>,
    #[serde(default)]
    boot: RawBoot,
    ssh: Option<Spanned<RawCard>>,
    simulate: Option<Spanned<RawSimulate>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConsole {
    tty: Option<PathBuf>,
    baud: Option<u32>,
    tcp: Option<String>,
    unix: Option<PathBuf>,
}

/// What is wrong, and with which key below the one at hand.
pub(super) type Wrong = (&'static str, String);

/// Who has something of which there is one, and in which line that stands.
type Takers = BTreeMap<String, (DeviceId, usize)>;

/// Checks all of them. `taken` are the ids of the lab's other devices.
pub(super) fn check(
    source: &Source,
    lab: &LabName,
    raw: Vec<Spanned<RawDevice>>,
    taken: BTreeSet<DeviceId>,
    netboot: Option<&Netboot>,
) -> Result<Vec<WiredDevice>, ConfigError> {
    let (mut ids, mut lines, mut switches, mut macs) =
        (Takers::new(), Takers::new(), Takers::new(), Takers::new());
    let (mut serials, mut addresses) = (Takers::new(), Takers::new());
    let mut devices = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = raw.span();
        let error = |at: &Range<usize>, key: &str, cause: String| {
            source.value(at, format!("devices[{index}].{key}"), cause)
        };
        let raw = raw.into_inner();
        let id = DeviceId::new(format!("{lab}-{}", raw.id)).map_err(|e| error(&at, "id", e.to_string()))?;
        if taken.contains(&id) {
            return Err(error(&at, "id", format!("{id} is a device of a pool")));
        }
        if raw.model.backend() == Backend::Sim && raw.simulate.is_none() {
            let cause =
                format!("a {} is known in a virtual rack alone: it has no [devices.simulate]", raw.model);
            return Err(error(&at, "model", cause));
        }
        if !matches!(raw.model.backend(), Backend::Pi | Backend::Sim) {
            return Err(error(&at, "model", format!("{} is the model of a pool", raw.model)));
        }
        // What the device has for itself, or who has it.
        let claim =
            |takers: &mut Takers, key: String, at: &Range<usize>, what: &str, shown: &str| match takers
                .insert(key, (id.clone(), source.line(at)))
            {
                None => Ok(()),
                Some((other, line)) => {
                    let cause = format!("{id} has the {what} of {other} (line {line}): {shown}");
                    Err(error(at, what, cause))
                }
            };
        claim(&mut ids, id.to_string(), &at, "id", id.as_str())?;
        let mut capabilities = BTreeSet::new();
        let simulation = match raw.simulate {
            Some(simulate) => {
                let at = simulate.span();
                let wired = [("console", raw.console.is_some()), ("power", raw.power.is_some())];
                if let Some((key, _)) = wired.iter().find(|(_, is_there)| *is_there) {
                    return Err(error(&at, key, "what is simulated has that of the virtual rack".to_owned()));
                }
                if raw.boot == RawBoot::Itself {
                    return Err(error(
                        &at,
                        "boot",
                        "what is simulated boots from the lab: \"netboot\"".to_owned(),
                    ));
                }
                let simulation = simulate::check(simulate.into_inner(), raw.model, raw.serial.is_some());
                let simulation =
                    simulation.map_err(|(key, cause)| error(&at, &format!("simulate{key}"), cause))?;
                capabilities.extend([Capability::Power, Capability::Console]);
                Some(simulation)
            }
            None => None,
        };
        let console = match raw.console {
            Some(raw) => {
                let at = raw.span();
                let line = console(raw.into_inner());
                let line = line.map_err(|(key, cause)| error(&at, &format!("console{key}"), cause))?;
                claim(&mut lines, line_key(&line), &at, "console", &line.to_string())?;
                capabilities.insert(Capability::Console);
                Some(line)
            }
            None => None,
        };
        let power = match raw.power {
            Some(raw) => {
                let at = raw.span();
                let switch = switch::check(raw.into_inner(), source.dir());
                let switch = switch.map_err(|(key, cause)| error(&at, &format!("power{key}"), cause))?;
                if let Some(key) = switch.key() {
                    claim(&mut switches, key, &at, "power", &switch.to_string())?;
                    capabilities.insert(Capability::Power);
                }
                switch
            }
            None => PowerSwitch::None,
        };
        let min_off = match raw.min_off {
            Some(raw) if raw.get_ref().0 > MAX_MIN_OFF => {
                let cause = format!("{:?} is more than {MAX_MIN_OFF:?}", raw.get_ref().0);
                return Err(error(&raw.span(), "min_off", cause));
            }
            raw => raw.map(|raw| raw.into_inner().0),
        };
        let rated_cycles = match raw.rated_cycles {
            Some(raw) if !RATED_CYCLES.contains(raw.get_ref()) => {
                let (from, to) = (RATED_CYCLES.start(), RATED_CYCLES.end());
                let cause = format!("{} is not between {from} and {to}", raw.get_ref());
                return Err(error(&raw.span(), "rated_cycles", cause));
            }
            Some(raw) => Some(raw.into_inner()),
            None => matches!(power, PowerSwitch::Gpio(_)).then_some(RELAY_CYCLES),
        };
        let mac = match raw.mac {
            Some(raw) => {
                let mac = mac(raw.get_ref()).map_err(|cause| error(&raw.span(), "mac", cause))?;
                claim(&mut macs, mac.clone(), &raw.span(), "mac", &mac)?;
                Some(mac)
            }
            None => None,
        };
        let serial = match &raw.serial {
            Some(raw) => {
                let serial = netboot::serial(raw.get_ref());
                let serial = serial.map_err(|cause| error(&raw.span(), "serial", cause))?;
                let shown = format!("{serial:08x}");
                claim(&mut serials, shown.clone(), &raw.span(), "serial", &shown)?;
                Some(serial)
            }
            None => None,
        };
        if let Some(raw) = &raw.address {
            let shown = raw.get_ref().to_string();
            claim(&mut addresses, shown.clone(), &raw.span(), "address", &shown)?;
        }
        let netboot = match raw.boot {
            RawBoot::Itself => None,
            RawBoot::Netboot => {
                let address = raw.address.as_ref().map(|address| *address.get_ref());
                let power = capabilities.contains(&Capability::Power);
                let asked = netboot::Asked { model: raw.model, mac: mac.clone(), serial, address, power };
                let checked = asked.check(netboot).map_err(|(key, cause)| {
                    let place = raw.address.as_ref().filter(|_| key == "address").map(Spanned::span);
                    error(&place.unwrap_or_else(|| at.clone()), key, cause)
                })?;
                capabilities.extend(NETBOOT_CAPABILITIES);
                // Nothing but the console tells when it goes down.
                let shows = capabilities.contains(&Capability::Console);
                capabilities.extend(shows.then_some(Capability::Reboot));
                Some(checked)
            }
        };
        let card = match raw.ssh {
            Some(raw) => {
                let at = raw.span();
                if netboot.is_some() || simulation.is_some() {
                    let cause = "only a device that boots from its own card is logged in to by this: what the lab boots has keys of each boot";
                    return Err(error(&at, "ssh", cause.to_owned()));
                }
                let login = card::check(raw.into_inner(), source.dir());
                let login = login.map_err(|(key, cause)| error(&at, &format!("ssh{key}"), cause))?;
                let place = format!("{} port {}", login.address, login.port);
                claim(&mut addresses, place.clone(), &at, "ssh", &place)?;
                capabilities.extend(CARD_CAPABILITIES);
                Some(login)
            }
            None => None,
        };
        let backend = if simulation.is_some() { Backend::Sim } else { Backend::Pi };
        let device = Device { id, backend, model: raw.model, labels: raw.labels, capabilities };
        devices.push(WiredDevice {
            device,
            mac,
            console,
            power,
            min_off,
            rated_cycles,
            netboot,
            card,
            simulation,
        });
    }
    Ok(devices)
}

fn console(raw: RawConsole) -> Result<ConsoleLine, Wrong> {
    let RawConsole { tty, baud, tcp, unix } = raw;
    if baud.is_some() && tty.is_none() {
        return Err((".baud", "only a `tty` has one".to_owned()));
    }
    match (tty, tcp, unix) {
        (Some(path), None, None) => {
            let baud = baud.unwrap_or(DEFAULT_BAUD);
            if !(300..=4_000_000).contains(&baud) {
                return Err((".baud", format!("{baud} is not between 300 and 4000000")));
            }
            Ok(ConsoleLine::Tty { path: absolute(".tty", path)?, baud })
        }
        (None, Some(address), None) => match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                Ok(ConsoleLine::Tcp { address })
            }
            _ => Err((".tcp", format!("{address:?} is not host:port"))),
        },
        (None, None, Some(path)) => Ok(ConsoleLine::Unix { path: absolute(".unix", path)? }),
        _ => Err(("", "is one of `tty`, `tcp` and `unix`".to_owned())),
    }
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, Wrong> {
    if path.is_absolute() { Ok(path) } else { Err((key, format!("{path:?} does not begin with /"))) }
}

/// A line by the name of what it is now: by-id and by-path are two names of one adapter.
fn line_key(line: &ConsoleLine) -> String {
    match line {
        ConsoleLine::Tty { path, .. } | ConsoleLine::Unix { path } => {
            fs::canonicalize(path).unwrap_or_else(|_| path.clone()).display().to_string()
        }
        ConsoleLine::Tcp { address } => address.to_ascii_lowercase(),
    }
}

/// A MAC address in lower case.
fn mac(text: &str) -> Result<String, String> {
    let octets: Vec<Option<u8>> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).ok().filter(|_| octet.len() == 2))
        .collect();
    match octets.as_slice() {
        // The lowest bit of the first octet tells of a group (IEEE 802-2014 §8.2).
        [Some(first), rest @ ..] if first & 1 == 0 && rest.len() == 5 && rest.iter().all(Option::is_some) => {
            Ok(text.to_ascii_lowercase())
        }
        _ => Err(format!("{text:?} is not the MAC address of a device, such as dc:a6:32:01:36:c2")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::lab::{Lab, load};
    use crate::model::wiring::{Credentials, Dialect, HttpSwitch};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// Loads a lab file beside a password file that only its owner may read and one that all may.
    fn load_text(text: &str) -> Result<Lab, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("secret", 0o600), ("shared", 0o640)] {
            fs::write(dir.path().join(name), "joker\n").unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = dir.path().join("lab.toml");
        fs::write(&path, text).unwrap();
        load(&path, None, None).map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), ""))
    }

    #[test]
    fn a_device_is_what_it_is_wired_to() {
        let text = "name = \"l\"\nstagger = \"2s\"\n\
            [[devices]]\nid = \"pi-1\"\nmodel = \"pi4b\"\nlabels = { rack = \"a\" }\nmin_off = \"10s\"\n\
            mac = \"DC:A6:32:01:36:C2\"\n\
            console = { tty = \"/dev/serial/by-id/usb-FTDI_x-if00-port0\" }\n\
            power = { driver = \"http\", kind = \"shelly-gen2\", url = \"http://Plug.Lab:80/\", password_file = \"secret\" }\n\
            [[devices]]\nid = \"pi-2\"\nmodel = \"pi3b\"\nconsole = { tcp = \"10.0.0.9:4001\" }\n\
            power = { driver = \"none\" }\n\
            [[devices]]\nid = \"pi-3\"\nmodel = \"cm4\"\n\
            power = { driver = \"command\", on = [\"relay\", \"3\", \"on\"], off = [\"relay\", \"3\", \"off\"] }\n";
        let lab = load_text(text).unwrap();
        assert_eq!(lab.backend(None), Some(Backend::Pi));
        assert_eq!(lab.stagger, Duration::from_secs(2));
        let [one, two, three] = lab.wired.as_slice() else { panic!("{:?}", lab.wired) };
        assert_eq!(
            (one.device.id.as_str(), one.device.model, one.device.backend),
            ("l-pi-1", Model::Pi4B, Backend::Pi)
        );
        assert_eq!(one.device.capabilities, [Capability::Power, Capability::Console].into(), "and not boot");
        assert_eq!(
            (one.mac.as_deref(), one.min_off),
            (Some("dc:a6:32:01:36:c2"), Some(Duration::from_secs(10)))
        );
        assert_eq!(one.power.to_string(), "http://plug.lab switch 0");
        let PowerSwitch::Http(HttpSwitch { credentials: Some(Credentials { user, password_file }), .. }) =
            &one.power
        else {
            panic!("{:?}", one.power)
        };
        assert_eq!((user.as_str(), password_file.file_name()), ("admin", Some("secret".as_ref())));
        let line = ConsoleLine::Tty { path: "/dev/serial/by-id/usb-FTDI_x-if00-port0".into(), baud: 115_200 };
        assert_eq!(one.console, Some(line));
        assert_eq!(two.device.capabilities, [Capability::Console].into());
        assert_eq!(three.device.capabilities, [Capability::Power].into());
        assert_eq!((&three.console, three.min_off), (&None, None));
    }

    #[test]
    fn a_switch_of_any_kind_is_described_call_by_call() {
        let text = "name = \"l\"\n[[devices]]\nid = \"a\"\nmodel = \"pi5\"\n[devices.power]\ndriver = \"http\"\nkind = \"generic\"\n\
            on = { url = \"http://h/on\", method = \"POST\", body = \"{}\", content_type = \"application/json\" }\n\
            off = { url = \"http://h/off\" }\nget = { url = \"http://h/\", json = \"/state\", reads_on = \"^up$\" }\n";
        let lab = load_text(text).unwrap();
        let PowerSwitch::Http(HttpSwitch { dialect: Dialect::Generic(generic), .. }) = &lab.wired[0].power
        else {
            panic!("{:?}", lab.wired)
        };
        assert_eq!((generic.on.method.as_str(), generic.off.method.as_str()), ("POST", "GET"));
        let (call, read) = generic.get.as_ref().unwrap();
        assert_eq!(
            (call.url.as_str(), read.pointer.as_deref(), read.on.as_str()),
            ("http://h/", Some("/state"), "^up$")
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let head = "name = \"l\"\n[[devices]]\nid = \"a\"\nmodel = \"pi4b\"\n";
        let http = |rest: &str| format!("power = {{ driver = \"http\", kind = \"tasmota\", {rest} }}\n");
        let table = [
            ("colour = 1\n".to_owned(), "/lab.toml:5:1: unknown field `colour`"),
            ("mac = \"dc:a6:32:01:36\"\n".to_owned(), "/lab.toml:5: devices[0].mac: \"dc:a6:32:01:36\" is not the MAC"),
            ("mac = \"01:00:5e:00:00:01\"\n".to_owned(), "/lab.toml:5: devices[0].mac: "),
            ("min_off = \"1h\"\n".to_owned(), "/lab.toml:5: devices[0].min_off: 3600s is more than 600s"),
            ("console = { }\n".to_owned(), "/lab.toml:5: devices[0].console: is one of `tty`, `tcp` and `unix`"),
            (
                "console = { tty = \"/dev/ttyS0\", tcp = \"h:1\" }\n".to_owned(),
                "/lab.toml:5: devices[0].console: is one of",
            ),
            ("console = { tty = \"ttyS0\" }\n".to_owned(), "/lab.toml:5: devices[0].console.tty: \"ttyS0\" does not begin"),
            ("console = { tcp = \"h\" }\n".to_owned(), "/lab.toml:5: devices[0].console.tcp: \"h\" is not host:port"),
            ("console = { tcp = \"h:1\", baud = 9600 }\n".to_owned(), "/lab.toml:5: devices[0].console.baud: only a `tty`"),
            ("console = { tty = \"/dev/x\", speed = 1 }\n".to_owned(), "/lab.toml:5:29: unknown field `speed`"),
            ("power = { driver = \"gpio\" }\n".to_owned(), "/lab.toml:5:20: devices[0].power.driver: unknown variant `gpio`"),
            ("power = { driver = \"none\", pin = 1 }\n".to_owned(), "/lab.toml:5:9: unknown field `pin`"),
            (http("url = \"http://h\", colour = 1"), "/lab.toml:5:9: unknown field `colour`"),
            (http("url = \"https://h\""), "/lab.toml:5: devices[0].power.url: is not http://"),
            (http("url = \"h\""), "/lab.toml:5: devices[0].power.url: is no URL"),
            (http("url = \"http://h/cm\""), "/lab.toml:5: devices[0].power.url: http://h/cm is more than"),
            (http("url = \"http://h\", switch = 0"), "/lab.toml:5: devices[0].power.switch: 0 is not between 1 and 32"),
            (http("url = \"http://h\", user = \"u\""), "/lab.toml:5: devices[0].power.user: has no `password_file`"),
            (http("url = \"http://h\", timeout = \"2m\""), "/lab.toml:5: devices[0].power.timeout: 120s is not between"),
            (http("url = \"http://h\", password_file = \"none\""), "/lab.toml:5: devices[0].power.password_file: cannot read /none"),
            (
                http("url = \"http://h\", password_file = \"shared\""),
                "/lab.toml:5: devices[0].power.password_file: /shared is not a file for its owner alone: chmod 600",
            ),
            (
                "power = { driver = \"command\", on = [], off = [\"x\"] }\n".to_owned(),
                "/lab.toml:5: devices[0].power.on: names no program",
            ),
            (
                "power = { driver = \"command\", on = [\"x\"], off = [\"y\"], get = [\"z\"], reads_on = \"(\" }\n".to_owned(),
                "/lab.toml:5: devices[0].power.reads_on: regex parse error",
            ),
            (
                "power = { driver = \"command\", on = [\"x\"], off = [\"y\"], reads_on = \"on\" }\n".to_owned(),
                "/lab.toml:5: devices[0].power.get: is missing",
            ),
        ];
        for (text, expected) in table {
            let error = load_text(&format!("{head}{text}")).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}, not {expected:?}");
        }
        let error = load_text(&format!("{head}{}", http("url = \"http://admin:joker@h\""))).unwrap_err();
        assert!(error.contains("power.url: holds credentials") && !error.contains("joker"), "{error}");
        let error = load_text(&head.replace("pi4b", "vm-aarch64")).unwrap_err();
        assert_eq!(error, "/lab.toml:2: devices[0].model: vm-aarch64 is the model of a pool");
        let error = load_text(&head.replace("pi4b", "pi-zero")).unwrap_err();
        assert!(
            error.starts_with(
                "/lab.toml:4:9: devices[0].model: unknown variant `pi-zero`, expected one of `pi3b`"
            ),
            "{error}"
        );
    }

    #[test]
    fn what_two_devices_share_is_named_with_both() {
        let dir = tempfile::tempdir().unwrap();
        let (tty, link) = (dir.path().join("ttyUSB0"), dir.path().join("by-path"));
        fs::write(&tty, "").unwrap();
        std::os::unix::fs::symlink(&tty, &link).unwrap();
        let plug = |kind: &str, url: &str, switch: u8| {
            format!("power = {{ driver = \"http\", kind = \"{kind}\", url = \"{url}\", switch = {switch} }}")
        };
        let tool =
            |get: &str| format!("power = {{ driver = \"command\", on = [\"r\", \"1\"], off = [\"{get}\"] }}");
        let relay = |driver: &str, pin: u8, on_crash: &str| {
            format!(
                "power = {{ driver = \"{driver}\", pin = {pin}, active_low = false, contact = \"no\", on_crash = \"{on_crash}\" }}"
            )
        };
        let tty_of = |path: &Path| format!("console = {{ tty = {path:?} }}");
        let table = [
            ("".to_owned(), "".to_owned(), "a", "devices[1].id: l-a has the id of l-a (line 2)"),
            (tty_of(&tty), tty_of(&link), "b", "devices[1].console: l-b has the console of l-a (line 5)"),
            (
                "console = { tcp = \"H:1\" }".to_owned(),
                "console = { tcp = \"h:1\" }".to_owned(),
                "b",
                "devices[1].console: ",
            ),
            (
                plug("shelly-gen1", "http://h", 1),
                plug("shelly-gen2", "http://H:80/", 1),
                "b",
                "devices[1].power: l-b has the power of l-a (line 5): http://h switch 1",
            ),
            (plug("tasmota", "http://h", 1), plug("shelly-gen1", "http://h", 0), "b", "devices[1].power: "),
            (tool("x"), tool("y"), "b", "devices[1].power: l-b has the power of l-a (line 5): r"),
            (
                relay("gpio-rppal", 17, "holds"),
                relay("gpio-rppal", 17, "holds"),
                "b",
                "devices[1].power: l-b has the power of l-a (line 5): gpio-rppal pin 17",
            ),
            (
                "mac = \"dc:a6:32:01:36:c2\"".to_owned(),
                "mac = \"DC:A6:32:01:36:C2\"".to_owned(),
                "b",
                "devices[1].mac: l-b has the mac of l-a (line 5): dc:a6:32:01:36:c2",
            ),
        ];
        let lab = |first: &str, second: &str, id: &str| {
            format!(
                "name = \"l\"\n[[devices]]\nid = \"a\"\nmodel = \"pi4b\"\n{first}\n\
                 [[devices]]\nid = \"{id}\"\nmodel = \"pi5\"\n{second}\n"
            )
        };
        for (first, second, id, expected) in table {
            let line = if id == "a" { 6 } else { 9 };
            let error = load_text(&lab(&first, &second, id)).unwrap_err();
            assert!(error.starts_with(&format!("/lab.toml:{line}: {expected}")), "{error}");
        }
        load_text(&lab(&plug("tasmota", "http://h", 1), &plug("tasmota", "http://h", 2), "b")).unwrap();
        // One header, whichever way to it.
        let of_kernel = relay("gpio-cdev", 17, if kernel_keeps() { "holds" } else { "releases" });
        let error = load_text(&lab(&relay("gpio-rppal", 17, "holds"), &of_kernel, "b")).unwrap_err();
        assert!(error.contains("devices[1].power: l-b has the power of l-a (line 5)"), "{error}");
        load_text(&lab(&relay("gpio-rppal", 18, "holds"), &of_kernel, "b")).unwrap();
        let pool = "[[pools]]\nname = \"vm\"\nbackend = \"vm\"\ncount = 1\n";
        let error = load_text(&format!("{}{pool}", lab("", "", "vm-1"))).unwrap_err();
        assert_eq!(error, "/lab.toml:6: devices[1].id: l-vm-1 is a device of a pool");
        let error = load_text("name = \"l\"\n[[device]]\nid = \"a\"\n").unwrap_err();
        assert!(error.starts_with("/lab.toml:2:3: unknown field `device`"), "{error}");
        let error = load_text("name = \"l\"\n").unwrap_err();
        assert_eq!(error, "/lab.toml:1: pools: a lab has devices: at least one of [[pools]] and [[devices]]");
        let error = load_text("name = \"l\"\nstagger = \"2m\"\n").unwrap_err();
        assert_eq!(error, "/lab.toml:2: stagger: 120s is more than 60s");
    }
}
