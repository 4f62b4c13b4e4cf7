//! How a real device is wired: the line of its console and the switch of its power.

use super::relay::{GpioPin, Relay, Released};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where a console's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleLine {
    /// A terminal device; a pseudo terminal works as well.
    Tty {
        /// Its stable name, such as `/dev/serial/by-id/…`.
        path: PathBuf,
        /// Bits per second.
        baud: u32,
    },
    /// A TCP server that passes bytes on as they are, such as ser2net in raw mode.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// A unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
    },
}

impl fmt::Display for ConsoleLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tty { path, .. } | Self::Unix { path } => write!(f, "{}", path.display()),
            Self::Tcp { address } => f.write_str(address),
        }
    }
}

/// How the lab logs in to a device that boots from its own card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardLogin {
    /// Its address.
    pub address: IpAddr,
    /// The port of its sshd.
    pub port: u16,
    /// As whom: root, or who may use sudo without a password.
    pub user: String,
    /// The file of the private key that lets the lab in.
    pub identity: PathBuf,
    /// Under which address the device reaches this machine; none where that is the one from which it is reached.
    pub lab_address: Option<IpAddr>,
}

/// What switches a device's power.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PowerSwitch {
    /// Nothing: it is always on, or switched by hand.
    None,
    /// A program.
    Command(CommandSwitch),
    /// A plug, a relay board or another thing that is told over HTTP.
    Http(HttpSwitch),
    /// A relay on a pin of the machine that the coordinator runs on.
    Gpio(GpioSwitch),
}

impl PowerSwitch {
    /// Tells whether two switches are the same; none when there is no switch. Compared, not shown: it may
    /// hold what only the owner should see.
    pub fn key(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Command(command) => Some(command.on.join("\0")),
            // A machine has one header, whatever its driver and its chip are called.
            Self::Gpio(gpio) => Some(format!("gpio {}", gpio.pin.number)),
            Self::Http(http) => Some(match &http.dialect {
                Dialect::ShellyGen1 { base, switch } | Dialect::ShellyGen2 { base, switch } => {
                    format!("{base} {switch}")
                }
                // Counts from 1, where a Shelly with its own firmware counts from 0.
                Dialect::Tasmota { base, switch } => format!("{base} {}", switch.saturating_sub(1)),
                Dialect::Generic(generic) => {
                    let HttpCall { method, url, body, .. } = &generic.on;
                    [method, url, body.as_deref().unwrap_or_default()].join(" ")
                }
            }),
        }
    }
}

impl PowerSwitch {
    /// How long one act of it may take; zero for one that acts at once, or not at all.
    pub fn timeout(&self) -> Duration {
        match self {
            Self::Command(command) => command.timeout,
            Self::Http(http) => http.timeout,
            _ => Duration::ZERO,
        }
    }
}

/// The address of a switch, without secrets.
impl fmt::Display for PowerSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no switch"),
            Self::Gpio(gpio) => gpio.pin.fmt(f),
            Self::Command(command) => f.write_str(command.on.first().map_or("no program", String::as_str)),
            Self::Http(http) => match &http.dialect {
                Dialect::ShellyGen1 { base, switch }
                | Dialect::ShellyGen2 { base, switch }
                | Dialect::Tasmota { base, switch } => write!(f, "{base} switch {switch}"),
                // A query may hold a key.
                Dialect::Generic(generic) => {
                    f.write_str(generic.on.url.split('?').next().unwrap_or_default())
                }
            },
        }
    }
}

/// A relay on a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpioSwitch {
    /// The pin.
    pub pin: GpioPin,
    /// What is between pin and device.
    pub relay: Relay,
}

impl GpioSwitch {
    /// What the device is when nobody drives the pin.
    pub fn released(&self) -> Released {
        self.relay.released(self.pin.number)
    }
}

/// Programs that switch; each is a program and its arguments, run without a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSwitch {
    /// Switches on; exit code 0 means that it did.
    pub on: Vec<String>,
    /// Switches off.
    pub off: Vec<String>,
    /// Reads back: what it writes, without blanks around it, is read.
    pub get: Option<(Vec<String>, ReadBack)>,
    /// How long each may take.
    pub timeout: Duration,
}

/// What in an answer tells the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    /// Where in a JSON answer to look (RFC 6901); none for all of an answer of any kind.
    pub pointer: Option<String>,
    /// Matches there when it is on: a pattern of the crate `regex`.
    pub on: String,
    /// Matches there when it is off.
    pub off: String,
}

/// A switch that is told over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSwitch {
    /// What it understands.
    pub dialect: Dialect,
    /// Who may switch it.
    pub credentials: Option<Credentials>,
    /// How long one exchange may take.
    pub timeout: Duration,
}

/// What a switch understands. A `base` is `http://host` or `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// Shelly, first generation: `/relay/N`.
    ShellyGen1 {
        /// Where it is.
        base: String,
        /// Which of its switches, from 0.
        switch: u8,
    },
    /// Shelly, second generation and later: `/rpc/Switch.…`.
    ShellyGen2 {
        /// Where it is.
        base: String,
        /// Which of its switches, from 0.
        switch: u8,
    },
    /// Tasmota: `/cm?cmnd=Power…`.
    Tasmota {
        /// Where it is.
        base: String,
        /// Which of its switches, from 1.
        switch: u8,
    },
    /// Anything else.
    Generic(Box<Generic>),
}

/// A switch that is described call by call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generic {
    /// Switches on.
    pub on: HttpCall,
    /// Switches off.
    pub off: HttpCall,
    /// Reads back.
    pub get: Option<(HttpCall, ReadBack)>,
    /// How credentials are shown.
    pub auth: HttpAuth,
}

/// One HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// `GET`, `POST` …
    pub method: String,
    /// To where.
    pub url: String,
    /// The body.
    pub body: Option<String>,
    /// The body's type.
    pub content_type: Option<String>,
}

/// How credentials are shown to a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpAuth {
    /// RFC 7617.
    Basic,
    /// RFC 7616 with SHA-256.
    Digest,
    /// As `user` and `password` in the query, as Tasmota wants it.
    Query,
}

/// Who may switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The file that holds the password, and perhaps a line end after it.
    pub password_file: PathBuf,
}
