//! What this device lets a deployment do, whatever its coordinator wants: which of its directories may be mounted.
//!
//! A path is judged twice: by its words, and, as far as it exists, by where its symbolic links lead. It is judged when a
//! deployment is taken, not at each start: who can write in an allowed directory can put a link there later, and podman
//! will follow it. An allowed directory is therefore as good as what may write in it.

use super::check::parse_volume;
use super::score::{Reason, Refusal, refusal};
use crate::model::workload::Score;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The policy. The default allows every directory, as a lab does: its devices hold nothing that is not the lab's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Host paths in volumes must lie in one of these; none means that all may. Volumes by name, which the runtime
    /// keeps, are always allowed.
    pub allowed_volumes: Option<Vec<PathBuf>>,
}

impl Policy {
    /// Refuses a score that this device does not let run.
    pub(super) fn check(&self, score: &Score) -> Result<(), Refusal> {
        let Some(allowed) = &self.allowed_volumes else { return Ok(()) };
        let Score::PodmanV0(score) = score;
        let inits = score.init_containers.iter().map(|init| &init.volumes).enumerate();
        let inits = inits.map(|(at, volumes)| (format!("init_containers[{at}]"), volumes));
        let services = score.services.iter().map(|service| &service.volumes).enumerate();
        let services = services.map(|(at, volumes)| (format!("services[{at}]"), volumes));
        for (container, volumes) in inits.chain(services) {
            for (at, volume) in volumes.iter().enumerate() {
                // What cannot be parsed was refused before.
                let source = parse_volume(volume).map(|volume| volume.source).unwrap_or_default();
                if source.starts_with('/') {
                    allows(allowed, Path::new(&source)).map_err(|problem| {
                        let message = format!("{container}.volumes[{at}]: {source:?} {problem}");
                        refusal(Reason::NotAllowed, message)
                    })?;
                }
            }
        }
        Ok(())
    }
}

fn allows(allowed: &[PathBuf], path: &Path) -> Result<(), String> {
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("leads upwards".to_owned());
    }
    if !allowed.iter().any(|prefix| path.starts_with(prefix)) {
        return Err("is in none of the directories that this device allows".to_owned());
    }
    let real = resolve(path).map_err(|error| format!("cannot be looked at: {error}"))?;
    let inside = |prefix: &PathBuf| resolve(prefix).is_ok_and(|prefix| real.starts_with(prefix));
    if allowed.iter().any(inside) {
        return Ok(());
    }
    Err(format!("leads to {real:?}, which this device does not allow"))
}

/// Where the symbolic links of a path lead, as far as it exists; what does not exist has none.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut there = path;
    loop {
        match fs::canonicalize(there) {
            Ok(real) => return Ok(missing.into_iter().rev().fold(real, |path, name| path.join(name))),
            // A link to nowhere is there: podman would make what it points to.
            Err(error) if error.kind() != io::ErrorKind::NotFound || fs::symlink_metadata(there).is_ok() => {
                return Err(error);
            }
            Err(error) => match (there.parent(), there.file_name()) {
                (Some(parent), Some(name)) => {
                    missing.push(name);
                    there = parent;
                }
                _ => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::symlink;

    fn score(init: &str, service: &str) -> Score {
        let container = |name: &str, volume: &str| json!({ "name": name, "image": "i", "volumes": [volume] });
        let data =
            json!({ "init_containers": [container("a", init)], "services": [container("b", service)] });
        serde_json::from_value(json!({ "type": "PodmanV0", "data": data })).unwrap()
    }

    #[test]
    fn what_leads_outside_is_refused_by_field() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        fs::create_dir_all(dir.path().join("srv/data")).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("../etc", dir.path().join("srv/out")).unwrap();
        symlink("data", dir.path().join("srv/in")).unwrap();
        symlink("/nowhere/at/all", dir.path().join("srv/dangling")).unwrap();
        let policy = Policy { allowed_volumes: Some(vec![dir.path().join("srv")]) };
        let good = ["srv", "srv/data", "srv/in", "srv/in/new", "srv/not/yet", "srv//data/."];
        for path in good {
            assert_eq!(policy.check(&score("named:/x", &format!("{root}/{path}:/x"))), Ok(()), "{path}");
        }
        let bad = [
            ("etc", "is in none of the directories"),
            ("srvx", "is in none of the directories"),
            ("srv/../etc", "leads upwards"),
            ("srv/out", "which this device does not allow"),
            ("srv/out/new", "which this device does not allow"),
            ("srv/dangling", "cannot be looked at"),
        ];
        for (path, problem) in bad {
            let volume = format!("{root}/{path}:/x");
            let service = policy.check(&score("named:/x", &volume)).unwrap_err();
            assert_eq!(service.reason, Reason::NotAllowed);
            let told = format!("services[0].volumes[0]: \"{root}/{path}\" ");
            assert!(service.message.starts_with(&told) && service.message.contains(problem), "{service}");
            let init = policy.check(&score(&volume, "named:/x")).unwrap_err();
            assert!(init.message.starts_with("init_containers[0].volumes[0]: "), "{init}");
        }
    }

    #[test]
    fn without_a_policy_all_is_allowed_and_an_empty_one_leaves_names() {
        assert_eq!(Policy::default().check(&score("/etc:/x", "/:/host")), Ok(()));
        let none = Policy { allowed_volumes: Some(Vec::new()) };
        assert_eq!(none.check(&score("a:/x", "b:/x")), Ok(()));
        assert!(none.check(&score("a:/x", "/srv:/x")).is_err());
    }
}
