//! `power` of a wired device: what switches it.

use super::Wrong;
use super::gpio::{self, RawGpio};
use crate::config::raw::RawDuration;
use crate::model::relay::GpioDriver;
use crate::model::wiring::{
    CommandSwitch, Credentials, Dialect, Generic, HttpAuth, HttpCall, HttpSwitch, PowerSwitch, ReadBack,
};
use regex::Regex;
use serde::Deserialize;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// How long one exchange with a switch, or one program, may take when the file does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that may be: the device does nothing else meanwhile.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// What is read as on when the file does not say.
const READS_ON: &str = "^(?i:on|1|true)$";
/// What is read as off when the file does not say.
const READS_OFF: &str = "^(?i:off|0|false)$";

#[derive(Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum RawPower {
    None {},
    Command {
        on: Vec<String>,
        off: Vec<String>,
        get: Option<Vec<String>>,
        reads_on: Option<String>,
        reads_off: Option<String>,
        timeout: Option<RawDuration>,
    },
    Http(Box<RawHttp>),
    GpioRppal(RawGpio),
    GpioCdev(RawGpio),
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum RawHttp {
    ShellyGen1(RawPlug),
    ShellyGen2(RawPlug),
    Tasmota(RawPlug),
    Generic(Box<RawGeneric>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPlug {
    url: String,
    switch: Option<u8>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    timeout: Option<RawDuration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGeneric {
    on: RawCall,
    off: RawCall,
    get: Option<RawGet>,
    #[serde(default)]
    auth: RawAuth,
    user: Option<String>,
    password_file: Option<PathBuf>,
    timeout: Option<RawDuration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCall {
    url: String,
    #[serde(default = "get")]
    method: String,
    body: Option<String>,
    content_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGet {
    url: String,
    #[serde(default = "get")]
    method: String,
    body: Option<String>,
    content_type: Option<String>,
    json: Option<String>,
    reads_on: Option<String>,
    reads_off: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawAuth {
    #[default]
    Basic,
    Digest,
}

fn get() -> String {
    "GET".to_owned()
}

/// Checks a switch. Paths start from `dir`.
pub(super) fn check(raw: RawPower, dir: &Path) -> Result<PowerSwitch, Wrong> {
    match raw {
        RawPower::None {} => Ok(PowerSwitch::None),
        RawPower::Command { on, off, get, reads_on, reads_off, timeout } => {
            let get = match get {
                Some(argv) => Some((program(".get", argv)?, read_back(None, reads_on, reads_off)?)),
                None if reads_on.is_some() || reads_off.is_some() => {
                    return Err((".get", "is missing, so there is nothing to read".to_owned()));
                }
                None => None,
            };
            Ok(PowerSwitch::Command(CommandSwitch {
                on: program(".on", on)?,
                off: program(".off", off)?,
                get,
                timeout: timed(timeout)?,
            }))
        }
        RawPower::Http(raw) => http(*raw, dir),
        RawPower::GpioRppal(raw) => gpio::check(GpioDriver::Rppal, raw, gpio::kernel_keeps()),
        RawPower::GpioCdev(raw) => gpio::check(GpioDriver::Cdev, raw, gpio::kernel_keeps()),
    }
}

fn http(raw: RawHttp, dir: &Path) -> Result<PowerSwitch, Wrong> {
    match raw {
        RawHttp::ShellyGen1(plug) => {
            http_plug(plug, dir, 0, |base, switch| Dialect::ShellyGen1 { base, switch })
        }
        RawHttp::ShellyGen2(plug) => {
            http_plug(plug, dir, 0, |base, switch| Dialect::ShellyGen2 { base, switch })
        }
        RawHttp::Tasmota(plug) => http_plug(plug, dir, 1, |base, switch| Dialect::Tasmota { base, switch }),
        RawHttp::Generic(raw) => {
            let RawGeneric { on, off, get, auth, user, password_file, timeout } = *raw;
            let auth = match auth {
                RawAuth::Basic => HttpAuth::Basic,
                RawAuth::Digest => HttpAuth::Digest,
            };
            let get = match get {
                Some(RawGet { url, method, body, content_type, json, reads_on, reads_off }) => Some((
                    call(".get", RawCall { url, method, body, content_type })?,
                    read_back(json, reads_on, reads_off)?,
                )),
                None => None,
            };
            let dialect = Dialect::Generic(Box::new(Generic {
                on: call(".on", on)?,
                off: call(".off", off)?,
                get,
                auth,
            }));
            let credentials = credentials(user, password_file, dir)?;
            Ok(PowerSwitch::Http(HttpSwitch { dialect, credentials, timeout: timed(timeout)? }))
        }
    }
}

/// A plug whose switches count from `first`.
fn http_plug(
    plug: RawPlug,
    dir: &Path,
    first: u8,
    dialect: impl FnOnce(String, u8) -> Dialect,
) -> Result<PowerSwitch, Wrong> {
    let RawPlug { url, switch, user, password_file, timeout } = plug;
    let url = address(".url", &url)?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err((".url", format!("{url} is more than http://host or http://host:port")));
    }
    let switch = switch.unwrap_or(first);
    if !(first..first + 32).contains(&switch) {
        return Err((".switch", format!("{switch} is not between {first} and {}", first + 31)));
    }
    Ok(PowerSwitch::Http(HttpSwitch {
        dialect: dialect(url.origin().ascii_serialization(), switch),
        credentials: credentials(user, password_file, dir)?,
        timeout: timed(timeout)?,
    }))
}

fn address(key: &'static str, text: &str) -> Result<Url, Wrong> {
    // A URL that is wrong may hold a password all the same, so none is repeated here.
    let url = Url::parse(text).map_err(|e| (key, format!("is no URL: {e}")))?;
    if url.scheme() != "http" {
        let cause = "is not http://: switches are told over plain HTTP, in the lab's own network";
        return Err((key, cause.to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let cause = "holds credentials, which stand in `user` and `password_file`";
        return Err((key, cause.to_owned()));
    }
    Ok(url)
}

fn call(key: &'static str, raw: RawCall) -> Result<HttpCall, Wrong> {
    let RawCall { url, method, body, content_type } = raw;
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err((key, format!("{method:?} is no method such as \"POST\"")));
    }
    Ok(HttpCall { method, url: address(key, &url)?.into(), body, content_type })
}

fn read_back(pointer: Option<String>, on: Option<String>, off: Option<String>) -> Result<ReadBack, Wrong> {
    if let Some(pointer) = pointer.as_ref().filter(|pointer| !pointer.is_empty() && !pointer.starts_with('/'))
    {
        return Err((".get.json", format!("{pointer:?} is no JSON pointer such as \"/relay/state\"")));
    }
    let pattern = |key, pattern: Option<String>, usual: &str| {
        let pattern = pattern.unwrap_or_else(|| usual.to_owned());
        Regex::new(&pattern).map_err(|e| (key, e.to_string()))?;
        Ok::<_, Wrong>(pattern)
    };
    let (on, off) = (pattern(".reads_on", on, READS_ON)?, pattern(".reads_off", off, READS_OFF)?);
    Ok(ReadBack { pointer, on, off })
}

fn program(key: &'static str, argv: Vec<String>) -> Result<Vec<String>, Wrong> {
    match argv.first() {
        Some(program) if !program.is_empty() => Ok(argv),
        _ => Err((key, "names no program".to_owned())),
    }
}

fn timed(timeout: Option<RawDuration>) -> Result<Duration, Wrong> {
    let timeout = timeout.map_or(DEFAULT_TIMEOUT, |timeout| timeout.0);
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err((".timeout", format!("{timeout:?} is not between 1 ns and {MAX_TIMEOUT:?}")));
    }
    Ok(timeout)
}

/// Passwords stand in files of their own, which nobody else may read.
fn credentials(
    user: Option<String>,
    password_file: Option<PathBuf>,
    dir: &Path,
) -> Result<Option<Credentials>, Wrong> {
    let Some(file) = password_file else {
        return match user {
            Some(_) => Err((".user", "has no `password_file`".to_owned())),
            None => Ok(None),
        };
    };
    let (key, password_file) = (".password_file", dir.join(file));
    let metadata = fs::metadata(&password_file);
    let metadata = metadata.map_err(|e| (key, format!("cannot read {}: {e}", password_file.display())))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o077 != 0 {
        let cause = format!("{0} is not a file for its owner alone: chmod 600 {0}", password_file.display());
        return Err((key, cause));
    }
    Ok(Some(Credentials { user: user.unwrap_or_else(|| "admin".to_owned()), password_file }))
}
