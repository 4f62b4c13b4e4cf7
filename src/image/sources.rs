//! Where packages come from: the host's own apt sources, read and turned to the recipe's suite.

use super::error::{At, ImageError};
use super::recipe::Recipe;
use std::path::Path;

/// Code names and aliases by which an apt source is known to be Debian's own.
const DEBIAN_SUITES: &[&str] =
    &["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];

/// One archive of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    /// What follows the code name: nothing, `-updates`, `-security`, `-backports`.
    pocket: String,
    signed_by: Option<String>,
}

/// The lines of a sources.list for `recipe`. `root` is the host's `/`.
pub(super) fn lines(recipe: &Recipe, root: &Path) -> Result<Vec<String>, ImageError> {
    let sources = match &recipe.mirror {
        Some(uri) => {
            vec![Source { uri: uri.clone(), pocket: String::new(), signed_by: None }]
        }
        None => host_sources(root)?,
    };
    let lines = render(recipe, sources);
    if lines.is_empty() { Err(ImageError::NoMirror) } else { Ok(lines) }
}

fn render(recipe: &Recipe, mut sources: Vec<Source>) -> Vec<String> {
    sources.retain(|source| source.pocket != "-backports");
    let main = sources.iter().find(|source| source.pocket.is_empty()).cloned();
    if let Some(main) = main.filter(|_| recipe.backports) {
        sources.push(Source { pocket: "-backports".to_owned(), ..main });
    }
    let mut lines: Vec<String> = Vec::new();
    for source in sources {
        let options = source.signed_by.map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
        let components = recipe.components.join(" ");
        let line = format!("deb {options}{} {}{} {components}", source.uri, recipe.suite, source.pocket);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

fn host_sources(root: &Path) -> Result<Vec<Source>, ImageError> {
    let apt = root.join("etc/apt");
    let mut files = vec![apt.join("sources.list")];
    if let Ok(entries) = std::fs::read_dir(apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let deb822 = match file.extension().and_then(|e| e.to_str()) {
            Some("list") => false,
            Some("sources") => true,
            _ => continue,
        };
        if !file.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&file).at("read", &file)?;
        sources.extend(if deb822 { parse_deb822(&text) } else { parse_one_line(&text) });
    }
    Ok(sources)
}

/// What follows the code name in a suite of Debian's own; none for other archives.
fn pocket(suite: &str) -> Option<&str> {
    DEBIAN_SUITES.iter().find_map(|name| {
        let rest = suite.strip_prefix(name)?;
        ["", "-updates", "-security", "-backports"].contains(&rest).then_some(rest)
    })
}

/// sources.list(5), "one-line-style".
fn parse_one_line(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(mut rest) = line.strip_prefix("deb ").map(str::trim_start) else { continue };
        let mut signed_by = None;
        if let Some((options, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            signed_by =
                options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_owned);
            rest = after.trim_start();
        }
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(pocket)) = (words.next(), words.next().and_then(pocket)) {
            sources.push(Source { uri: uri.to_owned(), pocket: pocket.to_owned(), signed_by });
        }
    }
    sources
}

/// sources.list(5), "deb822-style".
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let text: String =
        text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{}\n", l.trim_end())).collect();
    for stanza in text.split("\n\n") {
        let field = |name: &str| -> String {
            let mut value = String::new();
            let mut inside = false;
            for line in stanza.lines() {
                if line.starts_with([' ', '\t']) {
                    if inside {
                        value.push_str(line);
                    }
                } else if let Some((key, first)) = line.split_once(':') {
                    inside = key.eq_ignore_ascii_case(name);
                    if inside {
                        value.push_str(first);
                    }
                }
            }
            value.trim().to_owned()
        };
        let binary = field("Types").split_whitespace().any(|t| t == "deb");
        if !binary || field("Enabled").eq_ignore_ascii_case("no") {
            continue;
        }
        // A key may be given in place instead of as a file; then Debian's own keyring must do.
        let signed_by = Some(field("Signed-By")).filter(|key| key.starts_with('/'));
        for uri in field("URIs").split_whitespace() {
            for suite in field("Suites").split_whitespace() {
                if let Some(pocket) = pocket(suite) {
                    let (uri, pocket) = (uri.to_owned(), pocket.to_owned());
                    sources.push(Source { uri, pocket, signed_by: signed_by.clone() });
                }
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(backports: bool, mirror: Option<&str>) -> Recipe {
        let mirror = mirror.map(str::to_owned);
        Recipe { backports, mirror, suite: "trixie".to_owned(), ..Recipe::built_in("bookworm").unwrap() }
    }

    #[test]
    fn both_styles_are_read_and_turned_to_the_suite() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("etc/apt/sources.list.d");
        std::fs::create_dir_all(&dir).unwrap();
        let old = "# deb http://off.example/ bookworm main\n\
            deb http://old.example/debian bookworm main contrib # comment\n\
            deb-src http://old.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://sec.example/ bookworm-security main\n\
            deb http://other.example/ nodistro main\n";
        std::fs::write(root.path().join("etc/apt/sources.list"), old).unwrap();
        let new = "Types: deb deb-src\n# a comment\nURIs: http://new.example/debian\n\
            Suites: bookworm\n bookworm-updates bookworm-backports\nComponents: main\nSigned-By: /key.gpg\n\n\
            Types: deb\nURIs: http://off.example/\nSuites: bookworm\nComponents: main\nEnabled: no\n\n\
            Types: deb\nURIs: http://archive.example/ubuntu\nSuites: noble\nComponents: main\n";
        std::fs::write(dir.join("debian.sources"), new).unwrap();
        std::fs::write(dir.join("x.sources.disabled"), new).unwrap();
        assert_eq!(
            lines(&recipe(true, None), root.path()).unwrap(),
            [
                "deb http://old.example/debian trixie main",
                "deb [signed-by=/k.gpg] http://sec.example/ trixie-security main",
                "deb [signed-by=/key.gpg] http://new.example/debian trixie main",
                "deb [signed-by=/key.gpg] http://new.example/debian trixie-updates main",
                "deb http://old.example/debian trixie-backports main",
            ]
        );
    }

    #[test]
    fn without_a_debian_source_a_mirror_must_be_given() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(lines(&recipe(false, None), root.path()), Err(ImageError::NoMirror)));
        assert_eq!(
            lines(&recipe(false, Some("http://m.example/debian")), root.path()).unwrap(),
            ["deb http://m.example/debian trixie main"]
        );
    }
}
