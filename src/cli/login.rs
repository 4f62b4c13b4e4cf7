//! Which lab is meant, and a connection to it.

use super::args::{LoginArgs, LoginMakeArgs, LogoutArgs};
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::ui::Ui;
use crate::bus::servers::Servers;
use crate::config::login::{LOGIN_VERSION, Login};
use crate::model::id::LabName;
use crate::model::tls::TlsFiles;
use crate::support::atomic_file;
use crate::wire::lending::{LOGIN, LOGOUT, LoginAsked, LoginMade, LogoutAsked, LogoutDone, TlsTold};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a lab that is up may take to let us in; one that is being started anew takes a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long revoking may take: the server is told of each login by itself.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may take where nobody said that there is one.
const GLANCE: Duration = Duration::from_millis(300);

/// Connects with the login that is named, else with the only one of this machine.
pub async fn connect(local: &dyn Local, args: &LoginArgs) -> Result<Client, CliError> {
    connect_by(&named(local, args)?).await
}

/// The login file that is named, else the only one of this machine.
pub(super) fn named(local: &dyn Local, args: &LoginArgs) -> Result<PathBuf, CliError> {
    match &args.login {
        Some(path) => Ok(path.clone()),
        None => only(local.logins()?),
    }
}

/// Connects with a login file.
pub(super) async fn connect_by(path: &Path) -> Result<Client, CliError> {
    let Login { lab, user, url, creds, tls, .. } = Login::read(path)?;
    let servers = Servers::from(url).with_tls(tls);
    Client::connect(servers, &creds, &lab, &user, PATIENCE).await.map_err(|error| match error {
        CliError::Connect { url, source } => CliError::NoLab { lab: lab.to_string(), url, source },
        other => other,
    })
}

/// Connects to the lab of that name, where its coordinator runs on this machine.
pub async fn connect_here(local: &dyn Local, lab: &LabName) -> Result<Option<Client>, CliError> {
    for path in local.logins()? {
        let login = Login::read(&path)?;
        if login.lab != *lab {
            continue;
        }
        // The login of a coordinator that has ended stays: it is good again when the coordinator is.
        let Login { lab, user, url, creds, tls, .. } = login;
        let servers = Servers::from(url).with_tls(tls);
        return Ok(Client::connect(servers, &creds, &lab, &user, GLANCE).await.ok());
    }
    Ok(None)
}

fn only(mut logins: Vec<PathBuf>) -> Result<PathBuf, CliError> {
    match (logins.pop(), logins.is_empty()) {
        (Some(login), true) => Ok(login),
        (Some(login), false) => {
            logins.push(login);
            logins.sort();
            let named: Vec<_> = logins.iter().map(|path| path.display().to_string()).collect();
            Err(CliError::Usage {
                what: "several labs have a coordinator on this machine".to_owned(),
                hint: Some(format!("choose one with --login: {}", named.join(" or "))),
            })
        }
        (None, _) => Err(CliError::Usage {
            what: "no lab is named, and none has a coordinator on this machine".to_owned(),
            hint: Some("start one with pilab coordinator, or name a login file with --login".to_owned()),
        }),
    }
}

/// `pilab login`: has a login made, and writes it.
pub async fn make(local: &dyn Local, args: LoginMakeArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let LoginMakeArgs { user, role, ttl, output, tls_cert, tls_key, .. } = args;
    let body = LoginAsked { user: user.clone(), role, ttl };
    let LoginMade { url, creds, tls } = client.ask(LOGIN, &body).await?;
    let asks_for_one = tls.as_ref().is_some_and(|told| told.mutual) && tls_cert.is_none();
    let tls = tls.map(|told| known_by(told, &output, tls_cert, tls_key)).transpose()?;
    let login = Login { version: LOGIN_VERSION, lab: client.lab().clone(), user, url, creds, tls };
    write(&login, &output)?;
    ui.note(&format!("{} is a {role} of lab {}: {}", login.user, login.lab, output.display()));
    if let Some(ca) = login.tls.as_ref().and_then(|files| files.ca.as_ref()) {
        ui.note(&format!("{} goes with it, by which the servers are known", ca.display()));
    }
    if asks_for_one {
        ui.hint("the servers ask for a certificate: name it with --tls-cert and --tls-key");
    }
    Ok(Exit::Ok)
}

/// What the login says of TLS; who signs for the servers is written beside it.
fn known_by(
    told: TlsTold,
    output: &Path,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<TlsFiles, CliError> {
    let Some(text) = told.ca else { return Ok(TlsFiles { ca: None, cert, key }) };
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".ca.pem");
    let path = output.with_file_name(&name);
    let written = atomic_file::write(&path, text.as_bytes(), 0o644);
    written.map_err(|source| CliError::Write { path, source })?;
    Ok(TlsFiles { ca: Some(name.into()), cert, key })
}

/// `pilab logout`: takes back all logins of a user.
pub async fn revoke(local: &dyn Local, args: LogoutArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let LogoutDone { logins, leases } =
        client.ask_within(LOGOUT, &LogoutAsked { user: args.user.clone() }, REVOKE_TIMEOUT).await?;
    ui.data(&format!("{}: {logins} logins were taken back\n", args.user))?;
    if !leases.is_empty() {
        let leases: Vec<_> = leases.iter().map(ToString::to_string).collect();
        ui.hint(&format!("what {} holds is given back by pilab release {}", args.user, leases.join(" ")));
    }
    Ok(Exit::Ok)
}

/// Writes the login of a lab that runs here.
pub fn write(login: &Login, path: &Path) -> Result<(), CliError> {
    login.write(path).map_err(|source| CliError::Write { path: path.to_owned(), source })
}
