//! Ground truth: what `podman ps` on the device itself says.

use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::label;
use crate::plan::verify;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A container as `podman ps --all --format json` prints it (podman-ps(1)); what is not used is not read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    image: String,
    state: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    is_infra: bool,
}

/// The command whose output [`parse`] reads.
pub(super) fn command() -> Vec<String> {
    ["podman", "ps", "--all", "--format", "json"].map(str::to_owned).to_vec()
}

/// Reads what podman printed.
pub(super) fn parse(json: &[u8]) -> Result<Vec<Container>, serde_json::Error> {
    serde_json::from_slice(json)
}

/// The agent's containers among them. One whose deployment's label is no name is none of the agent's.
pub(super) fn managed(containers: &[Container]) -> Vec<verify::Container> {
    let managed = |container: &Container| {
        let name = container.label(label::SERVICE).or(container.label(label::INIT_CONTAINER_LABEL));
        Some(verify::Container {
            deployment: DeploymentName::new(container.label(label::DEPLOYMENT)?).ok()?,
            name: name.unwrap_or("?").to_owned(),
            state: container.state.clone(),
            hash: container.label(label::SPEC_HASH).unwrap_or_default().to_owned(),
        })
    };
    containers.iter().filter(|container| !container.is_infra).filter_map(managed).collect()
}

/// What is there of a deployment that is not as wanted; `None` when all is as wanted. Anything of the
/// deployment beyond the wanted containers counts, running or not.
pub(super) fn difference(
    containers: &[Container],
    deployment: &DeploymentName,
    wanted: &BTreeMap<ContainerName, String>,
) -> Option<String> {
    let mine: Vec<&Container> = containers
        .iter()
        .filter(|c| !c.is_infra && c.label(label::DEPLOYMENT) == Some(deployment.as_str()))
        .collect();
    let missing = wanted.iter().filter(|(name, image)| {
        !mine.iter().any(|c| {
            c.label(label::SERVICE) == Some(name.as_str()) && c.image == **image && c.state == "running"
        })
    });
    let extra = mine.iter().filter(|c| {
        !wanted
            .iter()
            .any(|(name, image)| c.label(label::SERVICE) == Some(name.as_str()) && c.image == *image)
    });
    let parts: Vec<String> = missing
        .map(|(name, image)| format!("{name} ({image}) is not running"))
        .chain(extra.map(|c| format!("{} is there ({})", c.describe(), c.state)))
        .collect();
    if parts.is_empty() && mine.len() == wanted.len() {
        return None;
    }
    let seen = mine.iter().map(|c| format!("{} {}", c.describe(), c.state)).collect::<Vec<_>>().join(", ");
    let seen = if seen.is_empty() { "nothing".to_owned() } else { seen };
    let wrong =
        if parts.is_empty() { "some containers are there twice".to_owned() } else { parts.join("; ") };
    Some(format!("{wrong}; podman ps shows {seen}"))
}

impl Container {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn describe(&self) -> String {
        format!("{} ({})", self.label(label::SERVICE).unwrap_or("?"), self.image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(service: &str, image: &str, state: &str) -> Container {
        let labels = [(label::DEPLOYMENT, "web"), (label::SERVICE, service)];
        Container {
            image: image.to_owned(),
            state: state.to_owned(),
            labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            is_infra: false,
        }
    }

    fn diff(containers: &[Container], wanted: &[(&str, &str)]) -> Option<String> {
        let wanted = wanted.iter().map(|(n, i)| (ContainerName::new(*n).unwrap(), (*i).to_owned())).collect();
        difference(containers, &DeploymentName::new("web").unwrap(), &wanted)
    }

    #[test]
    fn exactly_the_wanted_containers() {
        assert_eq!(diff(&[], &[]), None);
        assert_eq!(diff(&[container("a", "i:1", "running")], &[("a", "i:1")]), None);
        let cases = [
            (vec![], vec![("a", "i:1")], "a (i:1) is not running; podman ps shows nothing"),
            (
                vec![container("a", "i:1", "exited")],
                vec![("a", "i:1")],
                "a (i:1) is not running; podman ps shows a (i:1) exited",
            ),
            (
                vec![container("a", "i:1", "running")],
                vec![],
                "a (i:1) is there (running); podman ps shows a (i:1) running",
            ),
            (
                vec![container("a", "i:1", "running"), container("a", "i:1", "running")],
                vec![("a", "i:1")],
                "some containers are there twice; podman ps shows a (i:1) running, a (i:1) running",
            ),
        ];
        for (containers, wanted, expected) in cases {
            assert_eq!(diff(&containers, &wanted).as_deref(), Some(expected));
        }
    }

    #[test]
    fn other_deployments_and_foreign_containers_do_not_count() {
        let mut foreign = container("a", "i:1", "running");
        foreign.labels = None;
        let mut other = container("a", "i:1", "running");
        other.labels = Some([(label::DEPLOYMENT.to_owned(), "db".to_owned())].into());
        assert_eq!(diff(&[foreign, other], &[]), None);
    }

    #[test]
    fn podmans_own_output_is_read() {
        let json = br#"[{"AutoRemove":false,"Command":["sleep"],"Id":"ab","Image":"localhost/pilab/hello:1",
            "IsInfra":false,"Labels":null,"Names":["x"],"State":"running","StartedAt":1}]"#;
        let read = parse(json).unwrap();
        assert_eq!(read[0].image, "localhost/pilab/hello:1");
    }
}
