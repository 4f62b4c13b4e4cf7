//! `ssh` of a wired device: how the lab logs in to one that boots from its own card.

use super::Wrong;
use crate::model::wiring::CardLogin;
use serde::Deserialize;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The port of sshd where the file does not say (RFC 4253 §4.1).
const PORT: u16 = 22;
/// The longest name of a user (useradd(8)).
const MAX_USER: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCard {
    address: IpAddr,
    port: Option<u16>,
    user: Option<String>,
    identity: PathBuf,
    lab_address: Option<IpAddr>,
}

pub(super) fn check(raw: RawCard, dir: &Path) -> Result<CardLogin, Wrong> {
    let RawCard { address, port, user, identity, lab_address } = raw;
    let port = port.unwrap_or(PORT);
    if port == 0 {
        return Err((".port", "0 is no port".to_owned()));
    }
    let user = user.unwrap_or_else(|| "root".to_owned());
    if !is_user(&user) {
        return Err((".user", format!("{user:?} is not the name of a user")));
    }
    // A path that is not absolute starts from the lab file's directory.
    let identity = dir.join(identity);
    let shown = identity.display();
    let metadata = fs::metadata(&identity).map_err(|e| (".identity", format!("cannot read {shown}: {e}")))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o077 != 0 {
        let cause = format!("{shown} is not a file for its owner alone: chmod 600 {shown}");
        return Err((".identity", cause));
    }
    Ok(CardLogin { address, port, user, identity, lab_address })
}

/// What useradd(8) takes, so nothing that ssh or a shell could take for something else.
pub fn is_user(name: &str) -> bool {
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    begins && name.len() <= MAX_USER && name.chars().all(rest)
}

#[cfg(test)]
mod tests {
    use crate::config::lab::load;
    use crate::model::device::Capability;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn told(device: &str) -> Result<(crate::config::wiring::WiredDevice, std::path::PathBuf), String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("key", 0o600), ("shared", 0o640)] {
            fs::write(dir.path().join(name), "key\n").unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = dir.path().join("lab.toml");
        fs::write(&path, format!("name = \"l\"\n[[devices]]\nid = \"a\"\nmodel = \"pi4b\"\n{device}\n"))
            .unwrap();
        let loaded = load(&path, None, None);
        let mut lab = loaded.map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), ""))?;
        Ok((lab.wired.remove(0), dir.path().to_owned()))
    }

    #[test]
    fn a_device_with_a_login_has_an_agent_on_its_card_and_no_image_of_the_lab() {
        let (wired, dir) = told("ssh = { address = \"10.0.0.31\", identity = \"key\" }").unwrap();
        let login = wired.card.unwrap();
        assert_eq!((login.port, login.user.as_str(), login.identity), (22, "root", dir.join("key")));
        let can = wired.device.capabilities;
        assert_eq!(can, [Capability::Boot, Capability::Ssh, Capability::Network].into());
    }

    #[test]
    fn what_cannot_be_is_named_by_key() {
        let table = [
            ("identity = \"none\"", "devices[0].ssh.identity: cannot read /none"),
            ("identity = \"shared\"", "devices[0].ssh.identity: /shared is not a file for its owner alone"),
            (
                "identity = \"key\", user = \"-oProxy\"",
                "devices[0].ssh.user: \"-oProxy\" is not the name of a user",
            ),
            ("identity = \"key\", port = 0", "devices[0].ssh.port: 0 is no port"),
        ];
        for (keys, expected) in table {
            let error = told(&format!("ssh = {{ address = \"10.0.0.31\", {keys} }}")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
