//! The arguments of the commands on a site's NATS servers.

use crate::model::id::LabName;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// The commands on a site's NATS servers.
#[derive(Debug, Subcommand)]
pub enum NatsCommand {
    /// Make an operator for a site's servers: what stands in their configuration, and what the site keeps
    #[command(after_long_help = "Examples:
  pilab nats operator ./site              then `include ./site/operator.conf` in each server's configuration

A site that has an operator already needs a signing key of it and credentials of its system account:
  nsc edit operator --sk generate && nsc generate creds --account SYS --name sys > system.creds")]
    Operator(NatsOperatorArgs),
    /// Make a lab's accounts on a site's servers, and the key file that its lab file names
    #[command(after_long_help = "Examples:
  pilab nats account rack --url nats://n1:4222,nats://n2:4222 --operator-key site/signing.nk \\
      --system-creds site/system.creds -o rack.nats.json")]
    Account(NatsAccountArgs),
}

/// Arguments of `nats operator`.
#[derive(Debug, Args)]
pub struct NatsOperatorArgs {
    /// Where to write its files; made if it is not there, and nothing in it is overwritten
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// What it is called
    #[arg(long, default_value = "site")]
    pub name: LabName,
}

/// Arguments of `nats account`.
#[derive(Debug, Args)]
pub struct NatsAccountArgs {
    /// The lab
    pub lab: LabName,
    /// The servers, with commas in between
    #[arg(long, value_name = "URLS")]
    pub url: String,
    /// The file with the seed of the operator's signing key
    #[arg(long, value_name = "FILE")]
    pub operator_key: PathBuf,
    /// The credentials file of the system account
    #[arg(long, value_name = "FILE")]
    pub system_creds: PathBuf,
    /// Who signs for the servers, where they speak TLS
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate that they ask for
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Where to write the key file, readable by its owner alone
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}
