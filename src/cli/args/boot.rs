//! The arguments of `boot`.

use super::{JsonArgs, LoginArgs};
use crate::model::boot::BootStage;
use crate::model::id::DeviceId;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// The device
    pub device: DeviceId,
    /// An image of the coordinator's machine, by its recipe or its id; the lab's own when missing
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tree", "kernel", "initrd", "dtb", "cmdline"])]
    pub image: Option<String>,
    /// All that the boot ROM is to find; a config.txt and a cmdline.txt that are not there are made
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kernel", "initrd", "dtb"])]
    pub tree: Option<PathBuf>,
    /// A kernel of your own
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initramfs
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Its device tree; that of the firmware when missing
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub dtb: Option<PathBuf>,
    /// Its arguments, beside the console
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// When it counts as up: agent, or a boot stage such as kernel, systemd or login. The agent for an image, kernel for
    /// what is your own
    #[arg(long, value_name = "STAGE", value_parser = until)]
    pub until: Option<Until>,
    /// How long that may take, power-on and what is tried again included
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5m")]
    pub timeout: Duration,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print what happens.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// When a boot counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The agent has answered.
    Agent,
    /// The console has shown this stage, or a later one.
    Stage(BootStage),
}

fn until(text: &str) -> Result<Until, String> {
    if text == "agent" {
        return Ok(Until::Agent);
    }
    let stage: Result<BootStage, _> = serde_json::from_value(text.into());
    stage.map(Until::Stage).map_err(|e| e.to_string())
}
