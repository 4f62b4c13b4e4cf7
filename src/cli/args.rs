//! The arguments, as clap reads them. Types and help texts only.

mod boot;
mod bundle;
mod coordinator;
mod deploying;
mod device;
mod image;
mod lab;
mod nats;
mod nightly;
mod pin;
mod remote;

pub use boot::{BootArgs, Until};
pub use bundle::{
    BundleCommand, BundleExportArgs, BundleLsArgs, BundlePruneArgs, BundleRedactArgs, BundleShowArgs,
    BundleVerifyArgs, CompareArgs, LogsArgs, ReplayArgs,
};
pub use coordinator::{CoordinatorArgs, CoordinatorCommand, ReloadArgs};
pub use deploying::{
    ApplyArgs, DeployArgs, DeploymentsArgs, KeepArgs, StatusArgs, UndeployArgs, VerifyArgs, WithdrawArgs,
};
pub use device::{DeviceCommand, DeviceHealthArgs, DeviceShowArgs, DeviceTrainArgs, EnrollArgs, SetupArgs};
pub use image::{ImageBuildArgs, ImageCommand, ImagePruneArgs, ImageRefArgs};
pub use lab::{
    ConsoleArgs, ConsoleStart, DoctorArgs, ExtendArgs, LabArgs, ListArgs, LoginArgs, LoginMakeArgs,
    LogoutArgs, PowerArgs, PowerCommand, PowerStatusArgs, ReleaseArgs, ReserveArgs, TransferArgs,
};
pub use nats::{NatsAccountArgs, NatsCommand, NatsOperatorArgs};
pub use nightly::{NightlyArgs, NightlyCommand};
pub use pin::{PinCommand, PinHoldArgs, PinLookArgs};
pub use remote::{ForwardArgs, GetArgs, KeyArgs, Ports, PutArgs, SshArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
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
    /// Where a coordinator of the lab file's lab runs on this machine, or a login is named, the runs wait for
    /// devices of that lab. Otherwise, or with --on, --arch, --image or --keep, this starts an embedded lab for
    /// them: a NATS server, a coordinator, and the virtual machines of the lab file. All of that is gone when the
    /// command ends, except devices kept with --keep.
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
    /// Run a lab that outlives a command, for several people: its NATS server, its devices, its leases.
    ///
    /// It goes on until it is told to end (Ctrl-C, SIGTERM). What is lent stays lent over a restart, also over
    /// one that nobody wanted, and virtual machines that are on stay on. Its files are in the state directory
    /// (PILAB_STATE_DIR; /var/lib/pilab for root, else ~/.local/state/pilab). Other commands of the same user
    /// on this machine find it by themselves.
    #[command(after_long_help = "Examples:
  pilab coordinator                       the lab of lab/laptop.toml
  pilab coordinator --lab my-lab.toml --on container
  pilab coordinator --lab lab/virtual-rack.toml --simulate
                                          Raspberry Pis that are there in software alone
  pilab coordinator --lab rack.toml --standby
                                          on each of two machines: one has the lab, the other waits
  pilab coordinator reload                after a change of the lab file")]
    Coordinator(CoordinatorArgs),
    /// List the lab's devices: how they are, and who has them
    #[command(after_long_help = "Examples:
  pilab devices
  pilab devices --all-labs                and which labs do not answer
  pilab devices --json | jq 'select(.usage.state == \"free\") | .id'")]
    Devices(ListArgs),
    /// Show one device with its history, or say how far it can be trusted
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Get devices for yourself, all that are asked for or none, for a time.
    ///
    /// Prints the lease once it is granted; until then it tells its place in the queue, what it waits for and how long
    /// that may take. Ctrl-C withdraws a request that waits.
    #[command(after_long_help = "Examples:
  pilab reserve                           any one device
  pilab reserve laptop-vm-1 --for 1h --purpose 'looking at a panic'
  pilab reserve --model pi4b --label camera=yes --count 2 --for 2h
  pilab reserve --at 2h                   a booking: two hours from now
  pilab reserve --hold-by-process         until this command ends
  pilab reserve --any-lab --model pi4b    in the lab that has one soonest")]
    Reserve(ReserveArgs),
    /// Let a lease last longer: refused beyond the lab's longest lease, while somebody waits for its devices, and into
    /// a booking
    Extend(ExtendArgs),
    /// Give a lease to another user, devices and deadline as they are
    Transfer(TransferArgs),
    /// Give devices back, or withdraw a request that waits
    Release(ReleaseArgs),
    /// List the leases, and the requests that wait: place, what each waits for, estimate
    Queue(ListArgs),
    /// Switch a device that you hold
    #[command(subcommand)]
    Power(PowerCommand),
    /// Boot a device that you hold, and show the boot as it happens.
    ///
    /// The device is switched off and on again. On standard error: power, DHCP, each file with its size and duration, what the
    /// console shows, the agent, with times from power-on. A board whose boot ROM stands still is told of, with what to try, and
    /// power-cycled at most twice. Files of your own go to the coordinator over NATS, as far as it does not have them, and are
    /// kept for a day. Such a system gets no ticket: no name, no SSH, no agent.
    ///
    /// Exit codes: 0 up, 1 your kernel panicked, 3 the board stands still, 4 the lab's image panicked, or the lab is at fault,
    /// 5 it took too long.
    #[command(after_long_help = "Examples:
  pilab boot rack-pi-1                    the lab's image, until its agent answers
  pilab boot rack-pi-1 --image trixie --json | jq 'select(.event.event == \"netboot\").event'
  pilab boot rack-pi-1 --kernel arch/arm64/boot/Image --dtb my.dtb --cmdline 'root=/dev/ram0 rw' --initrd rootfs.cpio.gz
  pilab boot rack-pi-1 --tree ./boot --until login
  pilab boot laptop-vm-1 --kernel Image --initrd rootfs.cpio.gz --until panic")]
    Boot(BootArgs),
    /// Try a relay by hand: pins of this machine's header, without a lab
    #[command(subcommand)]
    Pin(PinCommand),
    /// Read a device's console, and write to it if you hold the device.
    ///
    /// Everybody may read; nothing that one reader does is seen by another. In a terminal, after a new line: ~. leaves,
    /// ~p power-cycles, ~b sends a BREAK (the next key is then a SysRq command), ~~ writes ~. Keys go to the device only while you hold it.
    #[command(after_long_help = "Examples:
  pilab console laptop-vm-1               from the current boot on
  pilab console laptop-vm-1 --from start --dump > all.log
  pilab console laptop-vm-1 --replay      the boot again, as fast as it was; --replay 4 is faster")]
    Console(ConsoleArgs),
    /// Log in to a device that you hold, by the ssh of this machine, through the lab's NATS server.
    ///
    /// Nothing but that server need be reached. The device lets in the key that is shown, until the lease ends or the
    /// device is switched off. The exit code is that of the program on the device; 255 is ssh's own.
    #[command(after_long_help = "Examples:
  pilab ssh laptop-vm-1
  pilab ssh laptop-vm-1 -- podman ps --all
  pilab ssh laptop-vm-1 'journalctl -b | tail'")]
    Ssh(SshArgs),
    /// Copy files and directories to a device that you hold
    #[command(after_long_help = "Examples:
  pilab put laptop-vm-1 ./build/app ./assets /tmp/")]
    Put(PutArgs),
    /// Copy files and directories from a device that you hold
    #[command(after_long_help = "Examples:
  pilab get laptop-vm-1 /var/log/syslog .")]
    Get(GetArgs),
    /// Make ports of a device that you hold reachable on this machine, until Ctrl-C
    #[command(after_long_help = "Examples:
  pilab forward laptop-vm-1 8080:80       http://127.0.0.1:8080 is the device's port 80
  ssh -o 'ProxyCommand=pilab forward --stdio laptop-vm-1 22' …")]
    Forward(ForwardArgs),
    /// Put a deployment on a device that you hold
    #[command(after_long_help = "Examples:
  pilab deploy laptop-vm-1 lab/deployments/hello.toml && pilab verify laptop-vm-1")]
    Deploy(DeployArgs),
    /// Take a deployment off a device that you hold
    Undeploy(UndeployArgs),
    /// Keep deployments, as their files say them, on those of your devices that they select
    ///
    /// The coordinator goes on seeing to it until they are withdrawn or the lease ends: also on a device that was offline, or on one
    /// whose labels have changed. A file that no longer selects a device takes the deployment off it.
    #[command(after_long_help = "Examples:
  pilab apply lab/deployments --wait
  pilab apply lab/deployments --prune      what is not in the directory any more is withdrawn
  pilab deployments")]
    Apply(ApplyArgs),
    /// Take deployments of files off all devices; complete when each device has confirmed it
    #[command(after_long_help = "Examples:
  pilab withdraw hello --wait
  pilab withdraw hello --force             devices that are offline are not waited for")]
    Withdraw(WithdrawArgs),
    /// Show where the deployments of files stand, on each device
    Deployments(DeploymentsArgs),
    /// Say what a device's agent says of its deployments
    Status(StatusArgs),
    /// Check that what a device should run, what its agent says and what podman on it shows agree.
    ///
    /// Each desired value is acknowledged, running at its generation, and its containers carry its hash. Every mismatch
    /// is named with device, deployment, container, what was expected and what was found; the exit code is then 1.
    Verify(VerifyArgs),
    /// Run all that the lab file's plan says for every night, unattended, and say in the morning how it went
    #[command(subcommand)]
    Nightly(NightlyCommand),
    /// The evidence of runs: list, show, check, pack, redact and throw away bundles
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Show a run again, on its own clock: console, power, boot stages and steps side by side
    #[command(after_long_help = "Examples:
  pilab replay ping-17 --speed 10
  pilab replay ./shared.tar --from 'version 2 runs'
  pilab replay ping-17 --no-pause | grep step")]
    Replay(ReplayArgs),
    /// Show what happened in a run, also in one that goes on
    #[command(after_long_help = "Examples:
  pilab logs ping-17 --follow
  pilab logs ping-17 --device laptop-vm-1 --since-step 2
  pilab logs ping-17 --json | jq 'select(.kind == \"console\") | .text'")]
    Logs(LogsArgs),
    /// Say in what two runs differ: verdict, steps, boot stages and their times, phases, console.
    ///
    /// What changes from run to run by itself is left out: times, addresses, process ids, hashes. The exit code is 1 when
    /// they differ in more than how long things took.
    #[command(after_long_help = "Examples:
  pilab compare ping-1790000000-3f9c-1 ping-1790086400-81aa-1
  pilab compare last-good.tar ping-17 --json | jq .steps")]
    Compare(CompareArgs),
    /// Prepare a site's NATS servers for labs: once for the site, once for each lab
    #[command(subcommand)]
    Nats(NatsCommand),
    /// Let somebody use the lab: write a login file for a person or a CI job
    ///
    /// The file is a secret. Whoever has it is that user to the lab: --login FILE, or PILAB_LOGIN.
    #[command(after_long_help = "Examples:
  pilab login ann -o ann.json             a user for 30 days
  pilab login nightly --role user --for 12h -o ci.json")]
    Login(LoginMakeArgs),
    /// Take back all logins of somebody, and the role: whoever is connected with one is cut off now.
    ///
    /// What they hold stays theirs until it is released, or its time is over.
    Logout(LogoutArgs),
    /// Look at every part that the lab needs of this machine, and say what to do about what is wrong.
    ///
    /// Nothing is switched or changed. The exit code is 4 when something is bad.
    #[command(after_long_help = "Examples:
  pilab doctor
  pilab doctor --lab my-lab.toml --json | jq 'select(.condition != \"good\")'")]
    Doctor(DoctorArgs),
    /// Build, list, check and remove boot images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Read scenario and lab files without running anything.
    ///
    /// Everything that can be known to be wrong is told before a device is powered, each with file, line, key and what
    /// to do: unknown steps, needs that no device can meet, time-outs of zero, patterns that do not compile. With --lab,
    /// a need that no device of that lab meets is wrong as well. What only a coordinator can know, such as whether
    /// devices answer, is not checked.
    #[command(after_long_help = "Examples:
  pilab check                             all files of lab/ and lab/scenarios/
  pilab check ping my-lab.toml
  pilab check ping --lab my-lab.toml      whether that lab can run it
  pilab check --json | jq 'select(.ok | not)'")]
    Check(CheckArgs),
    /// Print the JSON Schema of lab files or scenarios, by which an editor knows what may stand in them.
    ///
    /// Editors that use taplo (Even Better TOML, Helix, Neovim) find it by the first line of the shipped files: `#:schema`.
    #[command(after_long_help = "Examples:
  pilab schema lab > lab.schema.json
  pilab schema scenario | jq .properties.steps")]
    Schema(SchemaArgs),
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
    /// Which lab.
    #[command(flatten)]
    pub lab: LabArgs,
    /// Leave the devices up, and print how to enter and how to remove each
    #[arg(long)]
    pub keep: bool,
    /// Boot the devices also where they could start from saved memory (`warm` in the lab file)
    #[arg(long)]
    pub cold: bool,
    /// Write a JUnit report
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Where bundles go, one directory a run; by default pilab/bundles in $XDG_STATE_HOME (~/.local/state), of which old
    /// ones are removed
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Keep each bundle as one compressed file
    #[arg(long)]
    pub bundle_file: bool,
    /// Run in the lab of this login file; by default that of PILAB_LOGIN in the environment, where no option asks for a
    /// lab of one's own
    #[arg(long, value_name = "FILE", conflicts_with_all = ["on", "arch", "image", "keep"])]
    pub login: Option<PathBuf>,
    /// Print the runs' events to standard output, one JSON object a line, and the table to standard error
    #[arg(long)]
    pub json: bool,
}

/// The choice of JSON.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonArgs {
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Names of files in lab/scenarios without .toml, or paths of scenario or lab files; none for all of lab/
    #[arg(value_name = "FILE")]
    pub files: Vec<String>,
    /// A lab file to check, and to hold the scenarios' needs against
    #[arg(long, value_name = "FILE")]
    pub lab: Option<PathBuf>,
    /// How to print what was found.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Files that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// A lab file
    Lab,
    /// A scenario
    Scenario,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Of what
    pub of: SchemaOf,
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
