//! `pilab run`: reads the files, starts the lab, watches the runs, writes what they came to, ends the lab.

use super::args::{LabArgs, RunArgs};
use super::bundle;
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::junit;
use super::local::{LabOptions, Local, Preparation, RunningLab};
use super::login;
use super::progress::Screen;
use super::summary;
use super::timings;
use super::ui::Ui;
use super::view::RunView;
use super::watch::{Observer, watch};
use crate::bundle::Form;
use crate::config;
use crate::model::device::Backend;
use crate::model::run::RunEvent;
use crate::model::scenario::Scenario;
use crate::support::atomic_file;
use crate::support::clock;
use crate::support::shutdown::on_signal_but;
use crate::wire::request::RunOptions;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a server that was just started may take to let us in.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Runs scenarios. Nothing is started when a file is wrong; whatever was started is ended, whatever happens.
pub async fn run(local: &dyn Local, args: RunArgs, ui: Ui) -> Result<Exit, CliError> {
    let scenarios = load(&args.scenarios)?;
    check_backend(&args.lab)?;
    let interrupts = Interrupts::listen();
    tokio::select! {
        // Dropping the work is what "leave at once" means: the next start removes what it leaves.
        done = with_lab(local, &args, scenarios, ui, &interrupts.stop) => done,
        () = interrupts.leave() => Err(CliError::Cancelled),
    }
}

/// The lab has devices of the backend that is asked for, and no option is of another.
pub(super) fn check_backend(args: &LabArgs) -> Result<(), CliError> {
    let LabArgs { file: path, on, arch, image } = args;
    let lab = config::lab::load(path, *arch, image.as_deref())?;
    let usage = |what: String, hint: String| Err(CliError::Usage { what, hint: Some(hint) });
    match (lab.backend(*on), on) {
        (None, Some(on)) => {
            let what = match on {
                Backend::Pi => "one of [[devices]]".to_owned(),
                Backend::Sim => "one of [[devices]] with [devices.simulate]".to_owned(),
                Backend::Vm | Backend::Container => format!("a pool with backend = \"{on}\""),
            };
            let hint = format!("add {what}, or name another lab with --lab");
            usage(format!("{} has no device of backend {on}", path.display()), hint)
        }
        (Some(Backend::Container), _) if arch.is_some() || image.is_some() => {
            let hint = "leave them out: containers run on this machine as it is".to_owned();
            usage("--arch and --image are of virtual machines".to_owned(), hint)
        }
        _ => Ok(()),
    }
}

fn load(names: &[String]) -> Result<Vec<Scenario>, CliError> {
    let load = |name: &String| Ok(config::scenario::load_all(&config::scenario::find(name)?)?);
    let all: Vec<Vec<Scenario>> = names.iter().map(load).collect::<Result<_, CliError>>()?;
    Ok(all.concat())
}

/// The first signal asks to stop, the second to leave.
pub(super) struct Interrupts {
    /// Cancelled by the first.
    pub(super) stop: CancellationToken,
    leave: CancellationToken,
    _listener: JoinSet<()>,
}

impl Interrupts {
    pub(super) fn listen() -> Self {
        Self::listen_but(false)
    }

    /// [`Self::listen`]; SIGHUP is another's to hear, where `hangup_is_other`.
    pub(super) fn listen_but(hangup_is_other: bool) -> Self {
        let (stop, leave) = (CancellationToken::new(), CancellationToken::new());
        let mut listener = JoinSet::new();
        let tokens = [stop.clone(), leave.clone()];
        listener.spawn(async move {
            for token in tokens {
                if let Err(error) = on_signal_but(token, hangup_is_other).await {
                    tracing::warn!(%error, "signals cannot be received: Ctrl-C ends the command untidily");
                    return;
                }
            }
        });
        Self { stop, leave, _listener: listener }
    }

    /// Done at the second signal.
    pub(super) async fn leave(&self) {
        self.leave.cancelled().await;
    }
}

async fn with_lab(
    local: &dyn Local,
    args: &RunArgs,
    scenarios: Vec<Scenario>,
    ui: Ui,
    stop: &CancellationToken,
) -> Result<Exit, CliError> {
    let mut show = Show { screen: Screen::new(ui), ui, json: args.json };
    if let Some(client) = shared(local, args, &show).await? {
        return session(&client, &[], args, scenarios, &mut show, stop).await;
    }
    let options = LabOptions::new(args.lab.clone(), false);
    let lab = local.start_lab(options, show.screen.local(), stop.clone()).await?;
    let session = AssertUnwindSafe(embedded(lab.as_ref(), args, scenarios, &mut show, stop));
    let done = session.catch_unwind().await.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
    show.screen.note("removing what the lab made");
    let ended = lab.shutdown().await;
    match (done, ended) {
        (Ok(exit), Ok(())) => Ok(exit),
        (Ok(exit), Err(error)) => {
            ui.error(&error);
            Ok(exit.max(error.exit()))
        }
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(second)) => {
            ui.error(&second);
            Err(error)
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> CliError {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    CliError::Panicked { what: text.unwrap_or_else(|| "a panic without words".to_owned()) }
}

/// The lab in which the runs are to be, if it is not to be one of their own: that of the login which is named, else
/// that of the lab file, where its coordinator runs on this machine.
async fn shared(local: &dyn Local, args: &RunArgs, show: &Show) -> Result<Option<Client>, CliError> {
    let own = args.lab.asks_for_own() || args.keep;
    let of_environment =
        || std::env::var_os("PILAB_LOGIN").filter(|path| !path.is_empty()).map(PathBuf::from);
    let named = args.login.clone().or_else(|| of_environment().filter(|_| !own));
    if let Some(path) = named {
        return login::connect_by(&path).await.map(Some);
    }
    if own {
        return Ok(None);
    }
    let lab = config::lab::load(&args.lab.file, None, None)?;
    let Some(client) = login::connect_here(local, &lab.name).await? else { return Ok(None) };
    show.screen.note(&format!("in lab {}, which has a coordinator on this machine", lab.name));
    Ok(Some(client))
}

async fn embedded(
    lab: &dyn RunningLab,
    args: &RunArgs,
    scenarios: Vec<Scenario>,
    show: &mut Show,
    stop: &CancellationToken,
) -> Result<Exit, CliError> {
    let client = Client::connect(lab.url(), lab.creds(), lab.lab(), lab.user(), START_PATIENCE).await?;
    session(&client, lab.preparation(), args, scenarios, show, stop).await
}

async fn session(
    client: &Client,
    preparation: &[Preparation],
    args: &RunArgs,
    scenarios: Vec<Scenario>,
    show: &mut Show,
    stop: &CancellationToken,
) -> Result<Exit, CliError> {
    let options = RunOptions { keep: args.keep, cold: args.cold };
    let runs = watch(client, scenarios, options, show, stop).await?;
    let bundles = fetch_bundles(client, args, &runs, show).await;
    let report =
        format!("{}\n{}\n{}", summary::table(&runs), timings::table(preparation, &runs), bundles.text);
    if args.json {
        show.screen.note(report.trim_end());
    } else {
        show.ui.data(&report)?;
    }
    let mut exit = Exit::of(runs.iter().map(RunView::verdict)).max(bundles.exit);
    if let Some(path) = &args.junit
        && let Err(error) = write_junit(path, &runs)
    {
        show.ui.error(&error);
        exit = exit.max(error.exit());
    }
    Ok(exit)
}

fn write_junit(path: &Path, runs: &[RunView]) -> Result<(), CliError> {
    let report = junit::report(runs)?;
    atomic_file::write(path, report.as_bytes(), 0o644)
        .map_err(|source| CliError::Write { path: path.to_owned(), source })
}

/// What became of the bundles.
struct Bundles {
    /// Where they lie, and how to reach the devices that were kept.
    text: String,
    /// [`Exit::Lab`] when evidence was lost.
    exit: Exit,
}

async fn fetch_bundles(client: &Client, args: &RunArgs, runs: &[RunView], show: &Show) -> Bundles {
    let usual = || bundle::default_dir(|name| std::env::var_os(name).map(PathBuf::from));
    let dir = args.bundle.clone().unwrap_or_else(usual);
    let form = if args.bundle_file { Form::Archive } else { Form::Directory };
    let mut bundles = Bundles { text: String::new(), exit: Exit::Ok };
    for run in runs {
        match bundle::fetch(client, &run.run, &dir, form).await {
            Ok(fetched) => {
                bundles.text.push_str(&format!("bundle of {}: {}\n", run.scenario, fetched.path.display()));
                for line in fetched.kept {
                    bundles.text.push_str(&format!("  {}\n", super::table::printable(&line)));
                }
                for gap in fetched.gaps {
                    let told =
                        format!("the bundle of {} has a gap: {}: {}", run.scenario, gap.path, gap.cause);
                    show.screen.note(&super::table::printable(&told));
                }
            }
            Err(error) => {
                show.ui.error(&error);
                bundles.exit = Exit::Lab;
            }
        }
    }
    // A directory that was named is its owner's to keep tidy.
    if args.bundle.is_none() {
        prune(&args.lab.file, dir, show);
    }
    bundles
}

/// Removes old bundles, as the lab file says. That it cannot be done changes nothing about the runs.
fn prune(lab: &Path, dir: PathBuf, show: &Show) {
    let retention = config::lab::load(lab, None, None).map_or(config::bundles::USUAL, |lab| lab.bundles);
    match crate::bundle::prune(&[dir], &retention, clock::wall_ms(), false) {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => show.screen.note(&format!("{} old bundles are removed", gone.len())),
        Err(error) => show.ui.error(&error.into()),
    }
}

/// Shows the runs while they run.
struct Show {
    screen: Screen,
    ui: Ui,
    json: bool,
}

impl Observer for Show {
    fn event(&mut self, view: &RunView, event: &RunEvent) -> Result<(), CliError> {
        self.screen.event(view, event);
        if self.json {
            self.ui.json(event)?;
        }
        Ok(())
    }

    fn stopping(&mut self) {
        self.screen.note("stopping the runs; once more to leave at once");
    }
}
