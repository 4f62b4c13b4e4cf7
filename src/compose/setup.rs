//! The agent put on a device that boots from its own card, over SSH, and taken off it again: `plan::setup` says what there
//! is to do.
//!
//! A file arrives beside its place, is compared by its SHA-256, brought to the disk and renamed, so a program that is
//! started is whole, whenever this process or the link died. What was broken off is seen at the next look and removed.

use super::image::find_agent;
use super::{failed, wired};
use crate::cli::error::CliError;
use crate::cli::local::{LocalFuture, Progress, SetUp, SetupOptions, ShownKey};
use crate::config::lab;
use crate::model::wiring::CardLogin;
use crate::plan::setup::{self, Change, Plan, Seen, UNFINISHED, Wanted};
use crate::ssh::card::{ACT_TIMEOUT, IDENTITY_DIR, STATE_DIR, clean};
use crate::ssh::{HostKey, Remote, SshError, Way};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Where the agent's program lies.
const AGENT: &str = "/usr/lib/pilab/pilab-agent";
/// Its unit: the one that images have.
const UNIT: &str = "/etc/systemd/system/pilab-agent.service";
/// What it needs besides on such a device.
const DROP_IN: &str = "/etc/systemd/system/pilab-agent.service.d/card.conf";
/// How long a device that is up may take to let somebody in.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a file may be on its way: a few megabytes, over Wi-Fi too.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);
/// How long packages may take to be installed, from a slow card.
const APT_TIMEOUT: Duration = Duration::from_secs(1800);

/// What is there: `SUFFIX STATE FILE...`. `plan::setup::Seen` reads the answer.
const LOOK: &str = r#"suffix=$1 state=$2
shift 2
echo "machine $(uname -m)"
echo "os $(. /etc/os-release 2> /dev/null && printf %s "${PRETTY_NAME:-}")"
[ ! -d /run/systemd/system ] || echo 'systemd yes'
! command -v podman > /dev/null || echo "podman $(podman --version)"
memory=''
! grep -q '^memory[[:space:]].*[[:space:]]1$' /proc/cgroups || memory=memory
echo "controllers $(cat /sys/fs/cgroup/cgroup.controllers 2> /dev/null) $memory"
for file in /boot/firmware/cmdline.txt /boot/cmdline.txt; do
	if [ -f "$file" ]; then
		echo "cmdline $file"
		break
	fi
done
for file; do
	if [ -f "$file" ] && [ ! -L "$file" ]; then
		echo "file $(stat -c '%a %u:%g' "$file") $(sha256sum < "$file" | cut -c 1-64) $file"
	fi
	[ ! -e "$file$suffix" ] || echo "left $file$suffix"
done
[ ! -e "$state" ] || echo "left $state"
"#;

/// Puts a file in its place: `FILE MODE SHA256 SUFFIX`, its content by the input, compressed by gzip (Debian: essential).
const PUT: &str = r#"set -eu
new=$1$4
mkdir -p "$(dirname "$1")"
rm -rf -- "$new"
(umask 077 && gzip -dc > "$new")
[ "$(sha256sum < "$new")" = "$3  -" ] || { rm -f -- "$new"; echo "$1 did not arrive whole" >&2; exit 3; }
chown 0:0 "$new"
chmod "$2" "$new"
sync "$new"
mv -fT -- "$new" "$1"
"#;

/// Removes files, and directories that are empty then: `FILES DIRECTORIES`, each a list that ends with an empty word.
const REMOVE: &str = r#"set -eu
while [ -n "$1" ]; do
	rm -rf -- "$1"
	shift
done
shift
while [ -n "$1" ]; do
	[ ! -d "$1" ] || rmdir --ignore-fail-on-non-empty -- "$1"
	shift
done
systemctl daemon-reload
systemctl reset-failed pilab-agent.service 2> /dev/null || :
"#;

const RELOAD: &str = "systemctl daemon-reload";
const APT: &str = "export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet >&2 && apt-get install --yes --quiet \"$1\" >&2";

/// The way to the device of the options.
fn way(options: &SetupOptions) -> Result<Way, CliError> {
    let lab = lab::load(&options.lab, None, None)?;
    let wired = lab.wired.iter().find(|wired| wired.device.id == options.device);
    let wired = wired.ok_or_else(|| {
        let known: Vec<_> = lab.wired.iter().map(|wired| wired.device.id.to_string()).collect();
        CliError::Usage {
            what: format!("{} is no real device of {}", options.device, options.lab.display()),
            hint: Some(format!("there are: {}", known.join(", "))),
        }
    })?;
    let login = wired.card.clone().ok_or_else(|| CliError::Usage {
        what: format!("{} has no `ssh` in {}", options.device, options.lab.display()),
        hint: Some("ssh = { address = \"10.0.0.31\", user = \"root\", identity = \"FILE\" }".to_owned()),
    })?;
    let CardLogin { address, port, user, identity, lab_address } = login;
    let login = CardLogin {
        address: options.address.unwrap_or(address),
        port: options.port.unwrap_or(port),
        user: options.user.clone().unwrap_or(user),
        identity: options.identity.clone().unwrap_or(identity),
        lab_address,
    };
    wired::way(&options.device, &login)
}

fn ssh_error(doing: &str, way: &Way) -> impl Fn(SshError) -> CliError {
    let (doing, pin) = (format!("{doing} {}", way.device), way.pin.display().to_string());
    move |error| {
        let hint = match &error {
            SshError::HostKeyMismatch { .. } => Some(format!(
                "another machine has its address, or its card was written anew: in that case remove {pin} and call this again"
            )),
            SshError::AuthRefused { .. } => Some(
                "its authorized_keys must have the public half of `identity`: ssh-copy-id -i puts it there"
                    .to_owned(),
            ),
            SshError::Unreachable { .. } => Some("is it on, and does its sshd run?".to_owned()),
            error => error.hint(),
        };
        failed(&doing, hint, error)
    }
}

/// The host key that is pinned; else the one that is shown there now.
pub(super) async fn host_key(options: &SetupOptions) -> Result<ShownKey, CliError> {
    let way = way(options)?;
    let error = ssh_error("look at the host key of", &way);
    if let Some(HostKey { public, fingerprint }) = way.pinned().map_err(&error)? {
        return Ok(ShownKey { public, fingerprint, pinned: true });
    }
    let HostKey { public, fingerprint } = way.glance().await.map_err(error)?;
    Ok(ShownKey { public, fingerprint, pinned: false })
}

/// Logs in and looks.
pub(super) async fn look(
    options: &SetupOptions,
    key: &ShownKey,
    progress: Progress,
) -> Result<Box<dyn SetUp>, CliError> {
    let way = way(options)?;
    let error = ssh_error("look at", &way);
    progress.begin(format!("looking at {}", way.device));
    let key = HostKey { public: key.public.clone(), fingerprint: key.fingerprint.clone() };
    let remote = way.connect_to(&key, PATIENCE).await.map_err(&error)?;
    let arguments = [UNFINISHED, STATE_DIR, AGENT, UNIT, DROP_IN];
    let seen = remote.script("look at the device", LOOK, &arguments, &[], ACT_TIMEOUT).await;
    let seen = Seen::read(&seen.map_err(error)?);
    let (plan, files, agent_sha256) = if options.remove {
        (setup::remove(&seen), Vec::new(), String::new())
    } else {
        let unfit = |error: setup::Unfit| {
            failed(format!("set up {}", way.device), Some(error.hint().to_owned()), error)
        };
        let agent = match &options.agent {
            Some(agent) => agent.clone(),
            None => find_agent(seen.arch().map_err(unfit)?)?,
        };
        let files = files(agent).await?;
        let wanted: Vec<Wanted> = files.iter().map(|file| file.wanted.clone()).collect();
        let agent_sha256 = wanted.first().map(|agent| agent.sha256.clone()).unwrap_or_default();
        (setup::install(&seen, &wanted, options.install_podman).map_err(unfit)?, files, agent_sha256)
    };
    let remove = options.remove;
    Ok(Box::new(OneSetUp { way, key, remote, os: seen.os, plan, files, agent_sha256, remove, progress }))
}

/// A file and its content, compressed.
struct File {
    wanted: Wanted,
    packed: Vec<u8>,
}

/// In the order in which they are put there: a unit comes after what it starts.
async fn files(agent: PathBuf) -> Result<Vec<File>, CliError> {
    let read = tokio::fs::read(&agent).await;
    let program = read.map_err(|e| failed(format!("read {}", agent.display()), None, e))?;
    let unit = include_bytes!("../../systemd/pilab-agent.service").to_vec();
    let drop_in = include_bytes!("../../systemd/pilab-agent.service.d/card.conf").to_vec();
    let all = [(AGENT, 0o755, program), (DROP_IN, 0o644, drop_in), (UNIT, 0o644, unit)];
    let packed = tokio::task::spawn_blocking(|| {
        let packed = all.map(|(path, mode, content)| {
            let sha256 = format!("{:x}", Sha256::digest(&content));
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&content)?;
            Ok(File { wanted: Wanted { path, sha256, size: content.len(), mode }, packed: gzip.finish()? })
        });
        packed.into_iter().collect::<io::Result<Vec<File>>>()
    });
    let packed = packed.await.map_err(io::Error::from).and_then(|packed| packed);
    packed.map_err(|e| failed("pack the agent", None, e))
}

struct OneSetUp {
    way: Way,
    key: HostKey,
    remote: Remote,
    os: String,
    plan: Plan,
    files: Vec<File>,
    agent_sha256: String,
    remove: bool,
    progress: Progress,
}

impl OneSetUp {
    async fn run(
        &self,
        doing: &'static str,
        script: &'static str,
        arguments: &[&str],
        input: &[u8],
        bound: Duration,
    ) -> Result<(), CliError> {
        let ran = self.remote.script(doing, script, arguments, input, bound).await;
        ran.map(drop).map_err(ssh_error("change", &self.way))
    }

    async fn put(&self, file: &File) -> Result<(), CliError> {
        let Wanted { path, sha256, mode, .. } = &file.wanted;
        self.progress.begin(format!("putting {path} there"));
        let mode = format!("{mode:o}");
        let arguments = [path, mode.as_str(), sha256, UNFINISHED];
        self.run("put a file there", PUT, &arguments, &file.packed, UPLOAD_TIMEOUT).await
    }

    async fn remove(&self) -> Result<(), CliError> {
        self.progress.begin(format!("removing what is ours from {}", self.way.device));
        clean(&self.remote).await.map_err(ssh_error("clean", &self.way))?;
        let unfinished = [AGENT, UNIT, DROP_IN].map(|file| format!("{file}{UNFINISHED}"));
        let files = [UNIT, DROP_IN, AGENT, STATE_DIR, IDENTITY_DIR];
        let files = files.into_iter().chain(unfinished.iter().map(String::as_str));
        let directories = ["/etc/systemd/system/pilab-agent.service.d", "/usr/lib/pilab"];
        let arguments: Vec<&str> = files.chain([""]).chain(directories).chain([""]).collect();
        self.run("remove what is ours", REMOVE, &arguments, &[], ACT_TIMEOUT).await?;
        self.way.unpin().map_err(|e| failed(format!("forget the host key of {}", self.way.device), None, e))
    }
}

impl SetUp for OneSetUp {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn os(&self) -> &str {
        &self.os
    }

    fn agent_sha256(&self) -> &str {
        &self.agent_sha256
    }

    fn apply(&self) -> LocalFuture<'_, Result<(), CliError>> {
        Box::pin(async move {
            if self.remove {
                return self.remove().await;
            }
            let pinned = self.way.pin(&self.key);
            pinned.map_err(|e| failed(format!("keep the host key of {}", self.way.device), None, e))?;
            for change in &self.plan.changes {
                match change {
                    Change::Install { package } => {
                        self.progress.begin(format!("installing {package}"));
                        let arguments = [package.as_str()];
                        self.run("install a package", APT, &arguments, &[], APT_TIMEOUT).await?;
                    }
                    Change::Create { path, .. } | Change::Replace { path, .. } => {
                        for file in self.files.iter().filter(|file| file.wanted.path == path) {
                            self.put(file).await?;
                        }
                    }
                    // What was broken off is replaced, or else is beside a file that is right.
                    Change::Remove { .. } => {
                        let unfinished = [AGENT, UNIT, DROP_IN].map(|file| format!("{file}{UNFINISHED}"));
                        let files = unfinished.iter().map(String::as_str);
                        let arguments: Vec<&str> = files.chain(["", ""]).collect();
                        self.run("remove what was broken off", REMOVE, &arguments, &[], ACT_TIMEOUT).await?;
                    }
                }
            }
            self.run("load the unit", RELOAD, &[], &[], ACT_TIMEOUT).await
        })
    }
}
