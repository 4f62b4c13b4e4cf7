//! Which kernel modules an image keeps, and in which order its initramfs loads some.

use super::error::ImageError;
use std::collections::{BTreeMap, BTreeSet};

/// `modules.dep`: each module's path below `/lib/modules/<release>`, with what it needs.
pub(super) struct Dependencies<'a> {
    needs: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Dependencies<'a> {
    /// Reads modules.dep(5). What a module needs stands in the order in which to unload it: the
    /// last is loaded first.
    pub(super) fn parse(text: &'a str) -> Self {
        let line = |line: &'a str| {
            let (module, needs) = line.split_once(':')?;
            Some((module, needs.split_whitespace().collect()))
        };
        Self { needs: text.lines().filter_map(line).collect() }
    }

    /// The paths to keep: those that begin, below `kernel/`, with one of `prefixes`, those named in
    /// `names`, and all that they need.
    pub(super) fn keep(&self, prefixes: &[String], names: &[String]) -> BTreeSet<&'a str> {
        let mut kept = BTreeSet::new();
        for (module, needs) in &self.needs {
            let path = module.strip_prefix("kernel/").unwrap_or(module);
            if prefixes.iter().any(|prefix| path.starts_with(prefix.as_str()))
                || names.iter().any(|n| *n == name(module))
            {
                kept.insert(*module);
                kept.extend(needs);
            }
        }
        kept
    }

    /// The paths of `names` and of what they need, in an order in which they can be loaded.
    /// A module that is built into the kernel (listed in `modules.builtin`) needs no loading.
    pub(super) fn load_order(&self, names: &[String], builtin: &str) -> Result<Vec<&'a str>, ImageError> {
        let mut order: Vec<&str> = Vec::new();
        for wanted in names {
            let Some((module, needs)) = self.needs.iter().find(|(module, _)| name(module) == *wanted) else {
                if builtin.lines().any(|line| name(line) == *wanted) {
                    continue;
                }
                return Err(ImageError::Incomplete { what: format!("kernel module {wanted}") });
            };
            for path in needs.iter().rev().chain([module]) {
                if !order.contains(path) {
                    order.push(path);
                }
            }
        }
        Ok(order)
    }

    /// As [`Self::load_order`], without those of `names` that this kernel does not have.
    pub(super) fn load_order_of_those_there(&self, names: &[String]) -> Result<Vec<&'a str>, ImageError> {
        let has = |wanted: &&String| self.needs.keys().any(|module| name(module) == **wanted);
        self.load_order(&names.iter().filter(has).cloned().collect::<Vec<_>>(), "")
    }
}

/// A module's name: `kernel/drivers/net/virtio-net.ko.xz` is `virtio_net`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a/failover.ko.xz:\n\
        kernel/a/net_failover.ko.xz: kernel/a/failover.ko.xz\n\
        kernel/b/virtio-net.ko.xz: kernel/a/net_failover.ko.xz kernel/a/failover.ko.xz\n\
        kernel/b/gpu.ko.xz: kernel/a/failover.ko.xz\n";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn needed_modules_are_loaded_first() {
        let order = Dependencies::parse(DEP).load_order(&names(&["virtio_net", "failover"]), "").unwrap();
        assert_eq!(
            order,
            ["kernel/a/failover.ko.xz", "kernel/a/net_failover.ko.xz", "kernel/b/virtio-net.ko.xz"]
        );
    }

    #[test]
    fn built_in_is_fine_and_absent_is_not() {
        let dependencies = Dependencies::parse(DEP);
        assert_eq!(
            dependencies.load_order(&names(&["ext4"]), "kernel/fs/ext4.ko\n").unwrap(),
            Vec::<&str>::new()
        );
        assert!(matches!(dependencies.load_order(&names(&["ext4"]), ""), Err(ImageError::Incomplete { .. })));
    }

    #[test]
    fn what_only_some_kernels_have_is_loaded_where_it_is() {
        let order = Dependencies::parse(DEP).load_order_of_those_there(&names(&["rp1", "net_failover"]));
        assert_eq!(order.unwrap(), ["kernel/a/failover.ko.xz", "kernel/a/net_failover.ko.xz"]);
    }

    #[test]
    fn what_is_kept_brings_what_it_needs() {
        let kept = Dependencies::parse(DEP).keep(&names(&["b/virtio"]), &names(&[]));
        assert_eq!(kept.len(), 3);
        assert!(!kept.contains("kernel/b/gpu.ko.xz"));
        assert!(Dependencies::parse(DEP).keep(&[], &names(&["gpu"])).contains("kernel/b/gpu.ko.xz"));
    }
}
