//! What a build tells of itself while it runs.

use std::sync::Arc;

/// The stages of a build, in order. A stage whose result is in the store is not entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Another process uses the store.
    Waiting,
    /// Packages are downloaded and installed, most of the time for another architecture.
    Packages,
    /// The base root is packed.
    Base,
    /// Initramfs and device layer.
    Device,
    /// What lies in the store is hashed.
    Verify,
}

impl Stage {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for another build",
            Self::Packages => "packages",
            Self::Base => "base root",
            Self::Device => "device layer",
            Self::Verify => "verify",
        }
    }
}

/// How far a build has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// In which stage.
    pub stage: Stage,
    /// How much of the stage is done, 0 to 1, where that is known.
    pub fraction: Option<f64>,
    /// What is being done, for people.
    pub message: String,
}

/// Who is told. It must not block.
#[derive(Clone)]
pub struct Sink(Arc<dyn Fn(Progress) + Send + Sync>);

impl Sink {
    /// Calls `tell` for each event.
    pub fn new(tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Tells nobody.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    pub(super) fn tell(&self, stage: Stage, fraction: Option<f64>, message: impl Into<String>) {
        (self.0)(Progress { stage, fraction, message: message.into() });
    }
}

/// Reads mmdebstrap's `--verbose` output and guesses how far it is: each package is fetched, unpacked
/// and set up.
#[derive(Debug, Default)]
pub(super) struct Bootstrap {
    /// Packages known of so far.
    packages: u32,
    /// Of three times `packages`.
    steps: u32,
}

impl Bootstrap {
    /// Takes one line; answers how far it is and what to show, if the line tells.
    pub(super) fn line(&mut self, line: &str) -> Option<(Option<f64>, String)> {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next()?, words.next().unwrap_or_default());
        let message = if let Some(at) = line.find(" newly installed") {
            let count = line.get(..at).unwrap_or_default().rsplit(' ').next().unwrap_or_default();
            self.packages += count.parse::<u32>().unwrap_or(0);
            format!("{} packages", self.packages)
        } else if first.starts_with("Get:") {
            self.steps += 1;
            // Get:7 http://… trixie/main arm64 systemd arm64 257.9 [3 MB]
            format!("fetch {}", words.nth(2).unwrap_or_default())
        } else if first == "Unpacking" {
            self.steps += 1;
            format!("unpack {second}")
        } else if (first, second) == ("Setting", "up") {
            self.steps += 1;
            format!("set up {}", words.next().unwrap_or_default())
        } else if line.starts_with("I: extracting") || line.starts_with("I: installing") {
            // What was not fetched lay in the cache.
            self.steps = self.steps.max(self.packages);
            line.strip_prefix("I: ")?.trim_end_matches('.').to_owned()
        } else {
            line.strip_prefix("I: ")?.trim_end_matches('.').to_owned()
        };
        let all = self.packages * 3;
        let fraction = (all > 0).then(|| (f64::from(self.steps) / f64::from(all)).min(1.0));
        Some((fraction, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fraction_grows_with_packages() {
        let mut progress = Bootstrap::default();
        let mut take = |line: &str| progress.line(line);
        assert_eq!(take("I: running apt-get update..."), Some((None, "running apt-get update".to_owned())));
        assert_eq!(take("Reading package lists..."), None);
        let found = take("0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.");
        assert_eq!(found, Some((Some(0.0), "2 packages".to_owned())));
        let fetched = take("Get:1 http://m.example/debian trixie/main arm64 crun arm64 1.21-1 [1 B]");
        assert_eq!(fetched, Some((Some(1.0 / 6.0), "fetch crun".to_owned())));
        assert_eq!(take("Unpacking crun (1.21-1) ..."), Some((Some(2.0 / 6.0), "unpack crun".to_owned())));
        assert_eq!(take("Setting up crun (1.21-1) ..."), Some((Some(0.5), "set up crun".to_owned())));
        assert_eq!(take(""), None);
    }
}
