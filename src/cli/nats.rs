//! `pilab nats`: what a site does once so that its servers carry labs.

use super::args::{NatsAccountArgs, NatsCommand, NatsOperatorArgs};
use super::error::CliError;
use super::exit::Exit;
use super::ui::Ui;
use crate::bus::issuer::{Issuer, SiteKeys, SiteOperator};
use crate::bus::servers::Servers;
use crate::model::tls::TlsFiles;
use crate::support::atomic_file;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the credentials of the system account are good that come with an operator.
const SYSTEM_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The longest secret that is read, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// Does what the arguments say.
pub(super) async fn nats(command: NatsCommand, ui: Ui) -> Result<Exit, CliError> {
    match command {
        NatsCommand::Operator(args) => operator(&args, ui),
        NatsCommand::Account(args) => account(args, ui).await,
    }
}

fn operator(args: &NatsOperatorArgs, ui: Ui) -> Result<Exit, CliError> {
    let dir = &args.dir;
    let write_error = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::Write { path, source }
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(write_error(dir))?;
    let operator = SiteOperator::make(args.name.as_str(), SYSTEM_TTL);
    let operator = operator.map_err(|e| CliError::local("make an operator", e))?;
    let config = operator.server_config();
    let files = [
        ("operator.conf", config.as_str(), 0o644),
        ("identity.nk", operator.identity.as_str(), 0o600),
        ("signing.nk", operator.signing.as_str(), 0o600),
        ("system.creds", operator.system_creds.as_str(), 0o600),
    ];
    if let Some(path) = files.iter().map(|(name, ..)| dir.join(name)).find(|path| path.exists()) {
        return Err(CliError::Usage {
            what: format!("{} is there already", path.display()),
            hint: Some("an operator is made once: its servers know it by its key".to_owned()),
        });
    }
    for (name, text, mode) in files {
        let path = dir.join(name);
        atomic_file::write(&path, text.as_bytes(), mode).map_err(write_error(&path))?;
    }
    ui.note(&format!("{}: include it in each server's configuration", dir.join("operator.conf").display()));
    ui.note(&format!("{}: keep it where nobody finds it", dir.join("identity.nk").display()));
    Ok(Exit::Ok)
}

async fn account(args: NatsAccountArgs, ui: Ui) -> Result<Exit, CliError> {
    let NatsAccountArgs { lab, url, operator_key, system_creds, tls_ca, tls_cert, tls_key, output } = args;
    if output.exists() {
        return Err(CliError::Usage {
            what: format!("{} is there already", output.display()),
            hint: Some("a lab that gets other accounts loses its leases with the old ones".to_owned()),
        });
    }
    let has_tls = tls_ca.is_some() || tls_cert.is_some() || url.contains("tls://");
    let tls = has_tls.then_some(TlsFiles { ca: tls_ca, cert: tls_cert, key: tls_key });
    let servers = Servers::from(url).with_tls(tls);
    let doing = |e| CliError::local("make the lab's accounts", e);
    let keys = SiteKeys::make(&lab, secret(&operator_key)?.trim(), &secret(&system_creds)?).map_err(doing)?;
    // Written first: accounts whose keys nobody has are of no use.
    keys.write(&output).map_err(doing)?;
    let place = tempfile::tempdir().map_err(|e| CliError::local("make a directory", e))?;
    let told = async {
        let issuer = Issuer::of_site(&output, place.path().join("keys"), &lab)?;
        issuer.introduce(&servers).await
    };
    if let Err(error) = told.await {
        // They are on no server: the next call makes others.
        let _ = std::fs::remove_file(&output);
        return Err(doing(error));
    }
    ui.note(&format!("{}: the accounts of lab {lab}, which the servers know now", output.display()));
    ui.hint("name it in the lab file: [nats] urls = […], keys = \"FILE\"");
    Ok(Exit::Ok)
}

/// A file with a secret, which nobody but its owner may be able to read.
fn secret(path: &PathBuf) -> Result<String, CliError> {
    let failed = |e: std::io::Error| CliError::local(format!("read {}", path.display()), e);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(CliError::Usage {
            what: format!("{}: others than its owner may read it", path.display()),
            hint: Some("chmod 600 the file".to_owned()),
        });
    }
    if metadata.len() > MAX_SECRET {
        let what = format!("{}: {} bytes; at most {MAX_SECRET} are read", path.display(), metadata.len());
        return Err(CliError::Usage { what, hint: None });
    }
    std::fs::read_to_string(path).map_err(failed)
}
