//! Deployment files: which devices run what. `lab/deployments/` holds the shipped ones.

use super::error::ConfigError;
use super::raw::Source;
use crate::model::deployment::{DeploymentSpec, Selector};
use crate::model::id::DeploymentName;
use crate::model::workload::Score;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeployment {
    selector: Selector,
    score: Score,
}

/// Reads and checks a deployment's file. Its name is that of the file.
pub fn load(path: &Path) -> Result<DeploymentSpec, ConfigError> {
    let source = Source::read(path)?;
    let RawDeployment { selector, score } = source.parse()?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = DeploymentName::new(stem).map_err(|e| source.value(&(0..0), "file name", e.to_string()))?;
    Ok(DeploymentSpec { name, selector, score })
}

/// Reads and checks files, and all that a directory holds with the ending `.toml`; sorted by name, each of which is there once.
pub fn load_all(paths: &[PathBuf]) -> Result<Vec<DeploymentSpec>, ConfigError> {
    let mut found = BTreeMap::new();
    for path in paths {
        for file in files(path).map_err(|source| ConfigError::Read { path: path.clone(), source })? {
            let spec = load(&file)?;
            let name = spec.name.clone();
            if let Some((other, _)) = found.insert(name, (file.clone(), spec)) {
                let cause = format!("{} is a deployment of the same name", other.display());
                return Err(ConfigError::Value { path: file, line: 1, key: "file name".to_owned(), cause });
            }
        }
    }
    Ok(found.into_values().map(|(_, spec)| spec).collect())
}

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|ending| ending == "toml") && file.is_file() {
            files.push(file);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_all_its_files_and_a_name_is_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[selector]\n[score]\ntype = \"PodmanV0\"\ndata.services = []\n";
        for name in ["b.toml", "a.toml", "notes.md"] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("c.toml")).unwrap();
        let paths = [dir.path().to_owned()];
        let names: Vec<_> = load_all(&paths).unwrap().into_iter().map(|spec| spec.name.to_string()).collect();
        assert_eq!(names, ["a", "b"]);
        let twice = load_all(&[dir.path().to_owned(), dir.path().join("b.toml")]).unwrap_err().to_string();
        assert!(twice.contains("b.toml:1: file name: ") && twice.contains("of the same name"), "{twice}");
        let gone = load_all(&[dir.path().join("none")]).unwrap_err();
        assert!(matches!(gone, ConfigError::Read { .. }), "{gone}");
    }

    #[test]
    fn the_shipped_deployments_are_right() {
        let mut names = Vec::new();
        for entry in std::fs::read_dir("lab/deployments").unwrap() {
            names.push(load(&entry.unwrap().path()).unwrap().name.to_string());
        }
        assert!(names.contains(&"hello".to_owned()), "{names:?}");
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[selector]\nlabel = { a = \"b\" }\n[score]\ntype = \"PodmanV0\"\ndata = {}\n";
        let table = [
            ("web.toml", text, "web.toml:2:1: unknown field `label`"),
            (
                "Web.toml",
                &text.replace("label ", "labels "),
                "Web.toml:1: file name: deployment name \"Web\"",
            ),
            ("all.toml", "[score]\ntype = \"PodmanV0\"\ndata = {}\n", "missing field `selector`"),
        ];
        for (file, text, expected) in table {
            let path = dir.path().join(file);
            std::fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
