//! The arguments, as clap reads them. Types and help texts only.

use crate::model::device::{Arch, Backend};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

/// The lab that is used when none is named.
pub const DEFAULT_LAB: &str = "lab/laptop.toml";
/// The image recipe that is built when none is named.
pub const DEFAULT_RECIPE: &str = "trixie";

/// A hardware-in-the-loop lab for Raspberry Pis, and for virtual machines where the hardware is absent.
#[derive(Debug, Parser)]
#[command(name = "pilab", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 passed, 1 failed, 2 usage or bad input file, 3 device fault, 4 lab \
                        fault, 5 timeout, 6 skipped, 130 stopped. See docs/exit-codes.md.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What holds for all commands.
    #[command(flatten)]
    pub global: Global,
}

/// Options of all commands.
#[derive(Debug, Clone, Copy, Args)]
pub struct Global {
    /// Say more on standard error; twice, still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// No colours and no moving lines; NO_COLOR in the environment does the same for colours
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run scenarios on devices and say how each ended.
    ///
    /// With no coordinator running, this starts an embedded lab for these runs: a NATS server, a
    /// coordinator, and the virtual machines of the lab file. All of it is gone when the command ends,
    /// except devices kept with --keep.
    ///
    /// A table of results and timings goes to standard output, progress to standard error. Each run's
    /// evidence (console, events, what the agent reported) is written to a bundle directory.
    ///
    /// Ctrl-C stops the runs and waits until the lab is tidy; a second Ctrl-C leaves at once, and the next
    /// start tidies up.
    #[command(after_long_help = "Examples:
  pilab run ping                          boot one virtual machine, ask its agent
  pilab run ping isolation deploy-lifecycle --junit report.xml
  pilab run ping --on container           in seconds, without a virtual machine
  pilab run ./my.toml --arch x86_64 --keep
                                          leave the machine up, print how to enter and to remove it
  pilab run ping --json | jq .kind        the runs' events, one JSON object a line")]
    Run(RunArgs),
    /// Build, list, check and remove boot images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Read scenario files, and the lab file, without running anything.
    ///
    /// An error names file, line and key. What only a coordinator can know, such as whether the devices are
    /// there, is not checked.
    #[command(after_long_help = "Examples:
  pilab check lab/scenarios/*.toml
  pilab check ping --lab my-lab.toml")]
    Check(CheckArgs),
    /// Print a completion script for a shell.
    #[command(after_long_help = "Examples:
  pilab completion bash > ~/.local/share/bash-completion/completions/pilab
  pilab completion fish > ~/.config/fish/completions/pilab.fish
  pilab completion zsh > \"${fpath[1]}/_pilab\"")]
    Completion(CompletionArgs),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Scenarios: names of files in lab/scenarios without .toml, or paths
    #[arg(required = true, value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// The lab file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LAB, env = "PILAB_LAB")]
    pub lab: PathBuf,
    /// On which of the lab's devices: vm (the default where the lab has some), container, or pi, its real ones alone
    #[arg(long, value_name = "BACKEND")]
    pub on: Option<Backend>,
    /// Architecture of the virtual machines, in place of the lab file's: aarch64 or x86_64
    #[arg(long)]
    pub arch: Option<Arch>,
    /// Image recipe the devices boot, in place of the lab file's
    #[arg(long, value_name = "RECIPE")]
    pub image: Option<String>,
    /// Leave the devices up, and print how to enter and how to remove each
    #[arg(long)]
    pub keep: bool,
    /// Write a JUnit report
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Where bundles go, one directory a run; by default pilab/bundles in $XDG_STATE_HOME (~/.local/state)
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Print the runs' events to standard output, one JSON object a line, and the table to standard error
    #[arg(long)]
    pub json: bool,
}

/// Commands on boot images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image, or find that it is there already
    #[command(after_long_help = "Examples:
  pilab image build                       the default recipe for the default architecture
  pilab image build --recipe bookworm --arch x86_64")]
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
    /// The recipe: a file in firmware/ without .toml
    #[arg(long, default_value = DEFAULT_RECIPE)]
    pub recipe: String,
    /// For which architecture: aarch64 or x86_64
    #[arg(long, default_value_t = Arch::Aarch64)]
    pub arch: Arch,
    /// The agent's executable; by default target/agents/<ARCH>/pilab-agent, where lab/agent puts it
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// How to print the image.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// The choice of JSON.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonArgs {
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
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

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Scenarios: names of files in lab/scenarios without .toml, or paths
    #[arg(required_unless_present = "lab", value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// A lab file to check, with the scenarios or alone
    #[arg(long, value_name = "FILE")]
    pub lab: Option<PathBuf>,
}

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    pub shell: Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_make_sense_to_clap() {
        Cli::command().debug_assert();
    }
}
