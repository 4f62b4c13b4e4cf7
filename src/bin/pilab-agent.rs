//! The device agent: joins the lab that the identity directory names, and runs what it is told.
//!
//! Exit codes: 0 after a signal, 1 when it cannot run, 2 for a wrong command line.

use pilab::agent::facts::Facts;
use pilab::agent::policy::Policy;
use pilab::agent::run::{AgentError, Resources, run};
use pilab::model::identity::{IDENTITY_VERSION, Identity, file};
use pilab::podman::topology::{PodmanOptions, PodmanTopology};
use pilab::support::chain::Chain;
use pilab::support::{log, shutdown};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Level;

const USAGE: &str = "usage: pilab-agent [--identity-dir DIR] [--podman-socket FILE] [--state-dir DIR] \
                     [--oci-runtime NAME] [--allowed-volumes DIR]... [--enable-exec] [--wait-for-identity] [--version]";

/// How often it is looked for an identity that is to come.
const LOOK: Duration = Duration::from_millis(10);

/// The agent cannot run.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error("{0}; {USAGE}")]
    Usage(String),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not an identity", path.display())]
    Identity { path: PathBuf, source: serde_json::Error },
    #[error("{} is of version {version}; this agent knows {IDENTITY_VERSION}", path.display())]
    Version { path: PathBuf, version: u32 },
    #[error("cannot start")]
    Start(#[source] io::Error),
    #[error(transparent)]
    Agent(#[from] AgentError),
}

#[derive(Debug)]
struct Options {
    identity_dir: PathBuf,
    podman: PodmanOptions,
    state_dir: PathBuf,
    policy: Policy,
    /// Let the coordinator run programs in containers.
    exec: bool,
    /// The identity may be yet to come.
    wait: bool,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            #[expect(clippy::print_stdout, reason = "the version is what was asked for")]
            {
                println!("pilab-agent {}", env!("CARGO_PKG_VERSION"));
            }
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&error),
    };
    log::init(Level::INFO);
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &MainError) -> ExitCode {
    #[expect(clippy::print_stderr, reason = "the one line that says why it does not run")]
    {
        eprintln!("pilab-agent: {}", Chain(error));
    }
    ExitCode::from(if matches!(error, MainError::Usage(_)) { 2 } else { 1 })
}

/// Reads the command line; none when only the version is asked for.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, MainError> {
    let mut options = Options {
        identity_dir: Identity::DIR.into(),
        podman: PodmanOptions { socket: "/run/podman/podman.sock".into(), oci_runtime: None },
        state_dir: Path::new(Identity::DIR).join("state"),
        policy: Policy::default(),
        exec: false,
        wait: false,
    };
    while let Some(arg) = args.next() {
        if arg == "--version" {
            return Ok(None);
        }
        if arg == "--enable-exec" {
            options.exec = true;
            continue;
        }
        if arg == "--wait-for-identity" {
            options.wait = true;
            continue;
        }
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (arg, None),
        };
        if !["--identity-dir", "--podman-socket", "--state-dir", "--oci-runtime", "--allowed-volumes"]
            .contains(&name.as_str())
        {
            return Err(MainError::Usage(format!("unknown argument {name:?}")));
        }
        let value = value.or_else(|| args.next()).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| MainError::Usage(format!("{name} needs a value")))?;
        match name.as_str() {
            "--identity-dir" => options.identity_dir = value.into(),
            "--podman-socket" => options.podman.socket = value.into(),
            "--state-dir" => options.state_dir = value.into(),
            "--allowed-volumes" => {
                let path = PathBuf::from(value);
                if !path.is_absolute() {
                    return Err(MainError::Usage(format!("{name} needs an absolute path, not {path:?}")));
                }
                options.policy.allowed_volumes.get_or_insert_default().push(path);
            }
            _ => options.podman.oci_runtime = Some(value),
        }
    }
    Ok(Some(options))
}

fn start(options: Options) -> Result<(), MainError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MainError::Start)?;
    let facts = Arc::new(Facts::default());
    if options.wait {
        let identity = options.identity_dir.join(file::IDENTITY);
        runtime.block_on(async {
            // What takes time and needs no identity is done meanwhile.
            tokio::join!(facts.sha256(), appears(&identity));
        });
    }
    let resources = resources(options, facts)?;
    runtime.block_on(serve(resources))
}

/// Until the file is there. Whoever puts it there puts it last, and whole.
async fn appears(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(LOOK).await;
    }
}

fn resources(options: Options, facts: Arc<Facts>) -> Result<Resources<PodmanTopology>, MainError> {
    let path = options.identity_dir.join(file::IDENTITY);
    let bytes = read(&path)?;
    let identity: Identity = serde_json::from_slice(&bytes)
        .map_err(|source| MainError::Identity { path: path.clone(), source })?;
    if identity.version > IDENTITY_VERSION {
        return Err(MainError::Version { path, version: identity.version });
    }
    let nats_creds = read(&options.identity_dir.join(file::NATS_CREDS))?;
    let podman = PodmanTopology::new(identity.device.clone(), options.podman);
    Ok(Resources {
        facts,
        runtime: if options.exec { podman.with_exec() } else { podman },
        device: identity.device,
        nats_url: identity.nats_url,
        nats_creds: String::from_utf8_lossy(&nats_creds).into_owned(),
        state_dir: options.state_dir,
        policy: options.policy,
    })
}

async fn serve(resources: Resources<PodmanTopology>) -> Result<(), MainError> {
    let stop = CancellationToken::new();
    let running = run(resources, stop.clone());
    let (done, signal) = tokio::join!(
        async {
            let done = running.await;
            stop.cancel();
            done
        },
        async {
            let signal = shutdown::on_signal(stop.clone()).await;
            stop.cancel();
            signal
        },
    );
    done?;
    signal.map(|_| ()).map_err(MainError::Start)
}

fn read(path: &Path) -> Result<Vec<u8>, MainError> {
    std::fs::read(path).map_err(|source| MainError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Option<Options>, MainError> {
        parse(args.iter().map(|&arg| arg.to_owned()))
    }

    #[test]
    fn the_command_line_is_read_or_refused() {
        let options = parsed(&["--state-dir", "/s", "--oci-runtime=runc"]).unwrap().unwrap();
        assert_eq!((options.state_dir, options.podman.oci_runtime), ("/s".into(), Some("runc".into())));
        assert_eq!(options.identity_dir, Path::new("/run/pilab"));
        assert!(!options.exec && parsed(&["--enable-exec"]).unwrap().unwrap().exec);
        assert!(!options.wait && parsed(&["--wait-for-identity"]).unwrap().unwrap().wait);
        assert!(parsed(&["--version"]).unwrap().is_none());
        let allowed = parsed(&["--allowed-volumes=/srv", "--allowed-volumes", "/data"]).unwrap().unwrap();
        assert_eq!(allowed.policy.allowed_volumes, Some(vec!["/srv".into(), "/data".into()]));
        for bad in
            [&["--state-dir"][..], &["--allowed-volumes", "srv"], &["--what"], &["x"], &["--state-dir="]]
        {
            assert!(matches!(parsed(bad), Err(MainError::Usage(_))), "{bad:?}");
        }
    }
}
