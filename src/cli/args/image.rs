//! Arguments of `pilab image`.

use super::{DEFAULT_RECIPE, JsonArgs};
use crate::model::device::Arch;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Commands on boot images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image, or find that it is there already
    #[command(after_long_help = "Examples:
  pilab image build                       the default recipe for the default architecture
  pilab image build --recipe bookworm --arch x86_64
  pilab image build --recipe ./my.toml    a recipe of one's own; firmware/trixie.toml is one to begin with
  pilab image build --mirror http://deb.debian.org/debian
                                          where the machine itself is no Debian
  pilab image build --lock lock.json      the same packages again; image ls --json says where locks lie")]
    Build(ImageBuildArgs),
    /// List the images of this machine, newest first
    #[command(after_long_help = "Examples:
  pilab image ls
  pilab image ls --json | jq -r .id")]
    Ls(JsonArgs),
    /// Remove an image, and the layers that no other image uses
    #[command(after_long_help = "Examples:
  pilab image rm 3f9c                     an unambiguous beginning of the id is enough")]
    Rm(ImageRefArgs),
    /// Remove old images: all but the newest of each recipe and architecture
    ///
    /// Every change of the agent makes an image. The base root, which is most of its size, is shared.
    #[command(after_long_help = "Examples:
  pilab image prune                       keep the newest of each recipe and architecture
  pilab image prune --keep 5 --json")]
    Prune(ImagePruneArgs),
    /// Read an image again and compare every file with its manifest
    #[command(after_long_help = "Examples:
  pilab image verify 3f9c")]
    Verify(ImageRefArgs),
}

/// Arguments of `image build`.
#[derive(Debug, Args)]
pub struct ImageBuildArgs {
    /// The recipe: trixie, trixie-backports or bookworm, or a path to a file
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_RECIPE)]
    pub recipe: String,
    /// For which architecture: aarch64 or x86_64
    #[arg(long, default_value_t = Arch::Aarch64)]
    pub arch: Arch,
    /// The agent's executable; by default target/agents/<ARCH>/pilab-agent, where lab/agent puts it
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// The Debian archive that packages come from; by default that of PILAB_MIRROR in the environment, then the recipe's,
    /// then the machine's own apt source
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// A lock: exactly these packages in place of today's
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// How to print the image.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// An image by its id.
#[derive(Debug, Args)]
pub struct ImageRefArgs {
    /// The image's id, or an unambiguous beginning of it
    pub id: String,
    /// How to print the image.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `image prune`.
#[derive(Debug, Args)]
pub struct ImagePruneArgs {
    /// How many images of each recipe and architecture stay
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub keep: usize,
    /// How to print the removed images.
    #[command(flatten)]
    pub json: JsonArgs,
}
