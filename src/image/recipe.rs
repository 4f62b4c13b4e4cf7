//! Recipes: what an image is made of, as TOML.

use super::error::ImageError;
use crate::model::device::Arch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The recipes that are built in, the default first.
pub const BUILT_IN: &[&str] = &["trixie", "trixie-backports", "bookworm"];

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Debian's code name, for example `trixie`.
    pub suite: String,
    /// Archive components.
    pub components: Vec<String>,
    /// Whether `<suite>-backports` may be used.
    #[serde(default)]
    pub backports: bool,
    /// Where packages come from; without it, the host's own apt source.
    #[serde(default)]
    pub mirror: Option<String>,
    /// Packages of the base root.
    pub packages: Vec<String>,
    /// More packages, for a recipe of one's own.
    #[serde(default)]
    pub extra_packages: Vec<String>,
    /// What is removed from the base root afterwards: paths, `*` stands for anything within a name.
    #[serde(default)]
    pub remove: Vec<String>,
    /// The kernel.
    pub kernel: KernelRecipe,
}

/// The kernel of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelRecipe {
    /// The package that depends on the newest kernel, per architecture.
    pub package: BTreeMap<Arch, String>,
    /// Whether it is taken from `<suite>-backports`. The rest of the image stays as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backports: bool,
    /// Kernel arguments that belong to the image.
    #[serde(default)]
    pub cmdline: Vec<String>,
    /// Modules to keep: beginnings of paths below `kernel/`. What they depend on is kept too.
    pub modules: Vec<String>,
    /// Modules of the initramfs, by name; they are loaded in this order, after what they depend on.
    pub initramfs: Vec<String>,
    /// Modules that the initramfs loads besides when it finds itself on a Raspberry Pi, those of them that this kernel has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub board: Vec<String>,
}

impl Recipe {
    /// A built-in recipe.
    pub fn built_in(name: &str) -> Result<Self, ImageError> {
        let text = match name {
            "trixie" => include_str!("../../firmware/trixie.toml"),
            "bookworm" => include_str!("../../firmware/bookworm.toml"),
            "trixie-backports" => {
                let mut recipe = Self::built_in("trixie")?;
                (recipe.backports, recipe.kernel.backports) = (true, true);
                return Ok(recipe);
            }
            _ => return Err(ImageError::NoRecipe { name: name.to_owned() }),
        };
        Self::parse(&format!("firmware/{name}.toml"), text)
    }

    /// A recipe in a file.
    pub fn load(file: &Path) -> Result<Self, ImageError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ImageError::RecipeRead { file: file.to_owned(), source })?;
        Self::parse(&file.display().to_string(), &text)
    }

    /// A recipe by what people call it: the name of a built-in one, or a path to a file.
    pub fn named(name: &str) -> Result<Self, ImageError> {
        if name.contains('/') || name.ends_with(".toml") {
            Self::load(Path::new(name))
        } else {
            Self::built_in(name)
        }
    }

    /// The same with packages from `mirror`.
    pub fn with_mirror(self, mirror: &str) -> Result<Self, ImageError> {
        if is_mirror(mirror) {
            Ok(Self { mirror: Some(mirror.to_owned()), ..self })
        } else {
            Err(ImageError::Mirror { mirror: mirror.to_owned() })
        }
    }

    /// Checks a recipe's text; `file` is for errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, ImageError> {
        let recipe: Self = toml::from_str(text).map_err(|error| {
            let (line, key) = locate(text, error.span().map_or(0, |span| span.start));
            ImageError::Recipe { file: file.to_owned(), line, key, message: error.message().to_owned() }
        })?;
        let wrong = |key: &str, message: String| {
            let line = text.lines().position(|l| l.trim_start().starts_with(key)).map_or(1, |n| n + 1);
            Err(ImageError::Recipe { file: file.to_owned(), line, key: key.to_owned(), message })
        };
        if let Some(mirror) = recipe.mirror.as_deref().filter(|mirror| !is_mirror(mirror)) {
            return wrong(
                "mirror",
                format!("{mirror:?} is not an address, such as http://deb.debian.org/debian"),
            );
        }
        if !word(&recipe.suite) {
            return wrong("suite", format!("{:?} is not a suite", recipe.suite));
        }
        for (key, names) in [
            ("components", &recipe.components),
            ("packages", &recipe.packages),
            ("extra_packages", &recipe.extra_packages),
            ("initramfs", &recipe.kernel.initramfs),
            ("board", &recipe.kernel.board),
        ] {
            if let Some(name) = names.iter().find(|name| !word(name)) {
                return wrong(key, format!("{name:?} is not a name"));
            }
        }
        if let Some(path) =
            recipe.remove.iter().find(|p| p.starts_with('/') || p.split('/').any(|s| s == ".."))
        {
            return wrong("remove", format!("{path:?} must be relative to the root and without `..`"));
        }
        if recipe.kernel.backports && !recipe.backports {
            return wrong("[kernel]", "its `backports` takes `backports = true` of the recipe".to_owned());
        }
        if recipe.components.is_empty() {
            return wrong("components", "at least one is needed".to_owned());
        }
        Ok(recipe)
    }

    /// The suite of the kernel.
    pub(super) fn kernel_suite(&self) -> String {
        let pocket = if self.kernel.backports { "-backports" } else { "" };
        format!("{}{pocket}", self.suite)
    }

    /// The kernel package for `arch`.
    pub(super) fn kernel_package(&self, arch: Arch) -> Result<&str, ImageError> {
        let package = self.kernel.package.get(&arch).map(String::as_str);
        package.ok_or_else(|| ImageError::Incomplete {
            what: format!("kernel for {arch} (recipe key kernel.package)"),
        })
    }

    /// All packages of the base root, sorted, each once.
    pub(super) fn all_packages(&self) -> Vec<&str> {
        let mut all: Vec<&str> =
            self.packages.iter().chain(&self.extra_packages).map(String::as_str).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Whether apt may take that as a word: a name, a version.
pub(super) fn word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._:~".contains(&b))
}

/// Whether that is an archive's address for a line of sources.list(5).
fn is_mirror(text: &str) -> bool {
    let scheme = |scheme: &str| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_lowercase() || b"+-".contains(&b))
    };
    let (before, path) = text.split_once(':').unwrap_or_default();
    let printable = text.bytes().all(|b| b.is_ascii_graphic() && !b"[]#".contains(&b));
    scheme(before) && path.starts_with('/') && path.len() > 1 && printable
}

/// The line (from 1) of a byte offset, and the key on that line.
fn locate(text: &str, offset: usize) -> (usize, String) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count();
    let content = text.lines().nth(line).unwrap_or_default();
    let key = content.split_once('=').map_or("", |(key, _)| key.trim());
    (line + 1, key.to_owned())
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters but `/`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            let end = rest.find('/').unwrap_or(rest.len());
            (0..=end)
                .filter(|&n| rest.is_char_boundary(n))
                .any(|n| rest.get(n..).is_some_and(|r| matches(tail, r)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "suite = \"trixie\"\ncomponents = [\"main\"]\npackages = [\"systemd\"]\n\
        [kernel]\npackage = { arm64 = \"linux-image-arm64\" }\nmodules = [\"fs/\"]\ninitramfs = [\"virtio_net\"]\n";

    #[test]
    fn built_in_recipes_are_good() {
        for name in BUILT_IN {
            let recipe = Recipe::built_in(name).unwrap();
            assert_eq!(Some(recipe.suite.as_str()), name.split('-').next());
            for arch in [Arch::Aarch64, Arch::X86_64] {
                assert!(recipe.kernel_package(arch).is_ok(), "{name} {arch}");
            }
        }
        assert!(matches!(Recipe::built_in("sarge"), Err(ImageError::NoRecipe { .. })));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let cases = [
            (MINIMAL.replace("suite", "siute"), 1, "siute"),
            (MINIMAL.replace("[\"main\"]", "\"main\""), 2, "components"),
            (format!("{MINIMAL}backports = true\n"), 4, "[kernel]"),
            (MINIMAL.replace("[\"main\"]", "[]"), 2, "components"),
            (MINIMAL.replace("\"systemd\"", "\"systemd; rm -rf /\""), 3, "packages"),
            (MINIMAL.replace("packages =", "remove = [\"../etc\"]\npackages ="), 3, "remove"),
            (MINIMAL.replace("modules =", "moduls ="), 6, "moduls"),
            (MINIMAL.replace("arm64 =", "armhf ="), 5, "package"),
        ];
        for (text, line, key) in cases {
            match Recipe::parse("my.toml", &text) {
                Err(ImageError::Recipe { file, line: l, key: k, .. }) => {
                    assert_eq!((file.as_str(), l, k.as_str()), ("my.toml", line, key), "{text}");
                }
                other => panic!("{text}\n{other:?}"),
            }
        }
        assert!(Recipe::parse("my.toml", MINIMAL).is_ok());
    }

    #[test]
    fn a_mirror_is_an_address() {
        for (mirror, good) in [
            ("http://deb.debian.org/debian", true),
            ("file:/srv/debian", true),
            ("mirror+file:///etc/apt/mirrors/debian.list", true),
            ("deb.debian.org/debian", false),
            ("", false),
            ("http:", false),
            ("http:/", false),
            ("http://a/ sid main\ndeb http://b/", false),
            ("http://a/ [trusted=yes]", false),
        ] {
            let recipe = Recipe::parse("my.toml", &format!("mirror = {mirror:?}\n{MINIMAL}"));
            assert_eq!(recipe.is_ok(), good, "{mirror}");
            let given = Recipe::built_in("trixie").unwrap().with_mirror(mirror);
            match given {
                Ok(given) => assert_eq!((given.mirror.as_deref(), good), (Some(mirror), true)),
                Err(error) => assert!(!good && error.hint().is_some(), "{mirror}"),
            }
        }
    }

    #[test]
    fn a_path_names_a_file_and_a_word_a_built_in_recipe() {
        assert_eq!(Recipe::named("bookworm").unwrap().suite, "bookworm");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine");
        std::fs::write(&file, MINIMAL).unwrap();
        assert_eq!(Recipe::named(file.to_str().unwrap()).unwrap().packages, ["systemd"]);
        assert!(matches!(Recipe::named("mine.toml"), Err(ImageError::RecipeRead { .. })));
        assert!(matches!(Recipe::named("mine"), Err(ImageError::NoRecipe { .. })));
    }

    #[test]
    fn a_star_stays_within_a_name() {
        assert!(matches("etc/ssh/ssh_host_*", "etc/ssh/ssh_host_rsa_key"));
        assert!(matches("a*c*e", "abcde"));
        assert!(!matches("etc/*", "etc/ssh/x"));
        assert!(matches("var/log", "var/log"));
        assert!(!matches("var/log", "var/logs"));
    }
}
