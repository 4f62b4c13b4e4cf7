//! The arguments of the commands that lead to a device from afar.

use super::LoginArgs;
use crate::model::id::DeviceId;
use clap::Args;
use std::num::NonZeroU16;
use std::path::PathBuf;

/// Arguments of `ssh`.
#[derive(Debug, Args)]
pub struct SshArgs {
    /// The device
    pub device: DeviceId,
    /// A program and its arguments, in place of a shell
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// How to log in.
    #[command(flatten)]
    pub key: KeyArgs,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
}

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// The device
    pub device: DeviceId,
    /// Files and directories of this machine
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where to on the device
    #[arg(value_name = "PATH")]
    pub to: String,
    /// How to log in.
    #[command(flatten)]
    pub key: KeyArgs,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The device
    pub device: DeviceId,
    /// Files and directories of the device
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    /// Where to on this machine
    #[arg(value_name = "FILE")]
    pub to: PathBuf,
    /// How to log in.
    #[command(flatten)]
    pub key: KeyArgs,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
}

/// How to log in to a device.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// The private key to log in with; its public half is FILE.pub. By default one that is made for this once
    #[arg(long, short, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// Arguments of `forward`.
#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// The device
    pub device: DeviceId,
    /// A TCP port of the device, with the port of this machine before it when that is another
    #[arg(required = true, value_name = "[LOCAL:]PORT", value_parser = ports)]
    pub ports: Vec<Ports>,
    /// The address of this machine to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub bind: std::net::IpAddr,
    /// Connect once, to standard input and output: what ssh wants of a ProxyCommand
    #[arg(long, conflicts_with = "bind")]
    pub stdio: bool,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
}

/// A port here and one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Of this machine; 0 for any that is free.
    pub local: u16,
    /// Of the device.
    pub device: NonZeroU16,
}

fn ports(text: &str) -> Result<Ports, String> {
    let (local, device) = match text.split_once(':') {
        Some((local, device)) => (Some(local), device),
        None => (None, text),
    };
    let device: NonZeroU16 = device.parse().map_err(|_| format!("{device:?} is no port: 1 to 65535"))?;
    let local = match local {
        Some(local) => local.parse().map_err(|_| format!("{local:?} is no port: 0 to 65535"))?,
        None => device.get(),
    };
    Ok(Ports { local, device })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_pairs_or_alone() {
        let pair = |local, device| Ports { local, device: NonZeroU16::new(device).unwrap() };
        for (text, read) in [("80", pair(80, 80)), ("8080:80", pair(8080, 80)), ("0:80", pair(0, 80))] {
            assert_eq!(ports(text), Ok(read));
        }
        for text in ["", "0", "8080:0", "65536", "-1", "80:", "a:80", "1:2:3"] {
            ports(text).unwrap_err();
        }
    }
}
