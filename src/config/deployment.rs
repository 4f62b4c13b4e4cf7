//! Deployment files: which devices run what. `lab/deployments/` holds the shipped ones.

use super::error::ConfigError;
use super::raw::Source;
use crate::model::deployment::{DeploymentSpec, Selector};
use crate::model::id::DeploymentName;
use crate::model::workload::Score;
use serde::Deserialize;
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;

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
