//! `pilab ssh`, `put` and `get`: the ssh and scp of this machine, led to a device that one holds through a tunnel.
//!
//! ```text
//!  admit(public key) ─► host key ─► ssh ── ProxyCommand: pilab forward --stdio DEVICE 22 ─► NATS ─► coordinator ─► sshd
//! ```
//!
//! Whatever OpenSSH can do, terminals, agents and signals, it does; nothing of it is written again here.

use super::args::{GetArgs, KeyArgs, LoginArgs, PutArgs, SshArgs};
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::login;
use super::run::Interrupts;
use super::ui::Ui;
use crate::model::id::DeviceId;
use crate::model::ssh_key::SshPublicKey;
use crate::support::command::Command;
use crate::wire::tunnel::{ADMIT, Admit, Admitted};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

/// How long it may take to put the key on the device: sshd on an emulated machine takes seconds for a login.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(40);
/// sshd's port (RFC 4253 §4.1).
const PORT: &str = "22";
/// The program and the login are taken from the environment: no word of this line comes from outside.
const PROXY: &str = "ProxyCommand=\"$PILAB_PROGRAM\" forward --stdio";

/// Logs in, or runs a program.
pub async fn ssh(local: &dyn Local, args: SshArgs, ui: Ui) -> Result<Exit, CliError> {
    let SshArgs { device, command, key, login } = args;
    let door = Door::open(local, &device, &key, &login).await?;
    let ssh = door.command("ssh").arg("-l").arg(&door.user).arg("--").arg(device.as_str()).args(command);
    run(ssh, ui).await
}

/// Copies to a device.
pub async fn put(local: &dyn Local, args: PutArgs, ui: Ui) -> Result<Exit, CliError> {
    let PutArgs { device, files, to, key, login } = args;
    let door = Door::open(local, &device, &key, &login).await?;
    let files = files.iter().map(|file| local_path(file));
    run(door.command("scp").arg("-rp").arg("--").args(files).arg(door.path(&to)), ui).await
}

/// Copies from a device.
pub async fn get(local: &dyn Local, args: GetArgs, ui: Ui) -> Result<Exit, CliError> {
    let GetArgs { device, paths, to, key, login } = args;
    let door = Door::open(local, &device, &key, &login).await?;
    let paths = paths.iter().map(|path| door.path(path));
    run(door.command("scp").arg("-rp").arg("--").args(paths).arg(local_path(&to)), ui).await
}

/// A device that lets our key in.
struct Door {
    device: DeviceId,
    user: String,
    identity: PathBuf,
    /// The login file that the tunnel is opened with.
    login: PathBuf,
    /// Ours alone: the host key, and the private key where none was named.
    dir: TempDir,
}

impl Door {
    async fn open(
        local: &dyn Local,
        device: &DeviceId,
        key: &KeyArgs,
        args: &LoginArgs,
    ) -> Result<Self, CliError> {
        let login = login::named(local, args)?;
        let client = login::connect_by(&login).await?;
        let dir = tempfile::tempdir().map_err(|e| CliError::local("make a directory for a key", e))?;
        let identity = match &key.identity {
            Some(path) => path.clone(),
            None => make_key(dir.path()).await?,
        };
        let body = Admit { device: device.clone(), key: public_half(&identity)? };
        let Admitted { user, host_key } = client.ask_within(ADMIT, &body, ADMIT_TIMEOUT).await?;
        let hosts = dir.path().join(KNOWN_HOSTS);
        std::fs::write(&hosts, format!("{device} {host_key}\n"))
            .map_err(|source| CliError::Write { path: hosts, source })?;
        Ok(Self { device: device.clone(), user, identity, login, dir })
    }

    /// A program of OpenSSH that finds the device, and trusts and shows just these keys.
    fn command(&self, program: &str) -> Command {
        let hosts = self.dir.path().join(KNOWN_HOSTS);
        let mut command = Command::new(program);
        for option in [
            OsString::from(format!("{PROXY} {} {PORT}", self.device)),
            option("UserKnownHostsFile", &hosts),
            option("IdentityFile", &self.identity),
            format!("HostKeyAlias={}", self.device).into(),
            "GlobalKnownHostsFile=/dev/null".into(),
            "StrictHostKeyChecking=yes".into(),
            "UpdateHostKeys=no".into(),
            "IdentitiesOnly=yes".into(),
            "PasswordAuthentication=no".into(),
            "ControlPath=none".into(),
            "ProxyUseFdpass=no".into(),
        ] {
            command = command.arg("-o").arg(option);
        }
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("pilab"));
        command
            .env("PILAB_PROGRAM", program.display().to_string())
            .env("PILAB_LOGIN", self.login.display().to_string())
    }

    /// A path of the device, as scp wants it.
    fn path(&self, path: &str) -> String {
        format!("{}@{}:{path}", self.user, self.device)
    }
}

const KNOWN_HOSTS: &str = "known_hosts";

/// An option whose value is a file: several are told apart by blanks, and `%` begins a token (ssh_config(5)).
fn option(name: &str, path: &Path) -> OsString {
    OsString::from(format!("{name}=\"{}\"", path.display().to_string().replace('%', "%%")))
}

/// What scp takes for a file of this machine whatever it is called: a name with a colon would be another host's.
fn local_path(path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { Path::new(".").join(path) }
}

async fn make_key(dir: &Path) -> Result<PathBuf, CliError> {
    let path = dir.join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "pilab", "-f"])
        .arg(&path)
        .output()
        .await;
    made.map_err(|e| CliError::local("make an SSH key", e).with_hint("install openssh-client"))?;
    Ok(path)
}

fn public_half(identity: &Path) -> Result<SshPublicKey, CliError> {
    let mut path = identity.as_os_str().to_owned();
    path.push(".pub");
    let path = PathBuf::from(path);
    let doing = || format!("read the public key {}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|e| CliError::local(doing(), e))?;
    SshPublicKey::new(&text).map_err(|e| CliError::local(doing(), e))
}

/// Runs it on this terminal. A signal is for it; we wait for its end, to remove what was made for it.
async fn run(command: Command, ui: Ui) -> Result<Exit, CliError> {
    let _signals = Interrupts::listen();
    let failed = |e| CliError::Local {
        doing: format!("run {}", command.program()),
        source: Box::new(e),
        hint: Some("install openssh-client".to_owned()),
    };
    let mut process = command.build();
    process.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let mut child = process.spawn().map_err(|e| failed(command.start_error(e)))?;
    let status = child.wait().await.map_err(|e| failed(command.start_error(e)))?;
    match status.code().map(u8::try_from) {
        Some(Ok(code)) => Ok(Exit::Program(code)),
        _ => {
            ui.note(&format!("{} ended with {status}", command.program()));
            Ok(Exit::Lab)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_an_option() {
        assert_eq!(option("IdentityFile", Path::new("/a b/50%")), "IdentityFile=\"/a b/50%%\"");
    }

    #[test]
    fn a_file_with_a_colon_is_no_host() {
        assert_eq!(local_path(Path::new("a:b")), Path::new("./a:b"));
        assert_eq!(local_path(Path::new("/a:b")), Path::new("/a:b"));
    }
}
