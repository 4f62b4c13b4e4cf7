//! Where packages come from: the host's own apt sources, read and turned to the recipe's suite.
//!
//! A source is Debian's own or no good here: others have suites called `stable` or `bookworm` as well. Best
//! known is whose it is from what apt fetched of it, then from the key that it must be signed with, and at
//! last from its address.

use super::error::{At, ImageError};
use super::recipe::Recipe;
use std::fmt::Write as _;
use std::path::Path;

/// What the suites of Debian's archive are called. Others call theirs so too.
const DEBIAN_SUITES: &[&str] =
    &["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];

/// Archives that are laid out as Debian's and are not, where apt has fetched nothing yet and no key is named.
const OTHER_HOSTS: &[&str] =
    &["docker.com", "microsoft.com", "raspberrypi.com", "raspberrypi.org", "raspbian.org", "tailscale.com"];

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
    let lists = root.join("var/lib/apt/lists");
    Ok(sources.into_iter().filter_map(|entry| entry.of_debian(&lists)).collect())
}

/// One suite of one archive, as the host's files have it.
#[derive(Debug)]
struct Entry {
    uri: String,
    suite: String,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Entry {
    /// What it is to an image; none where it is not Debian's. `lists` is where apt keeps what it fetched.
    fn of_debian(self, lists: &Path) -> Option<Source> {
        let pocket = pocket(&self.suite)?.to_owned();
        // Every suite of Debian's has it; some others have all but their component in common with Debian.
        let main = self.components.iter().any(|component| component == "main");
        let debian = self.fetched_from_debian(lists).or_else(|| self.signed_by_debian());
        let debian = main && debian.unwrap_or_else(|| has_address_of_debian(&self.uri));
        debian.then_some(Source { uri: self.uri, pocket, signed_by: self.signed_by })
    }

    /// Whether Debian made the release file that apt has fetched; none where it has not.
    fn fetched_from_debian(&self, lists: &Path) -> Option<bool> {
        let name = format!("{}/dists/{}", self.uri.trim_end_matches('/'), self.suite);
        let name = list_name(&name);
        let release = ["InRelease", "Release"]
            .iter()
            .find_map(|file| std::fs::read_to_string(lists.join(format!("{name}_{file}"))).ok())?;
        let origin = release.lines().find_map(|line| line.strip_prefix("Origin:"))?.trim();
        Some(["Debian", "Debian Backports"].contains(&origin))
    }

    /// Whether the keyring is of the package `debian-archive-keyring`; none where no file is named.
    fn signed_by_debian(&self) -> Option<bool> {
        let file = Path::new(self.signed_by.as_deref()?).file_name()?.to_str()?;
        Some(file.starts_with("debian-archive-"))
    }
}

/// What apt calls the list that it fetched from a URI: without scheme and login, `_` for each `/`.
fn list_name(uri: &str) -> String {
    let (_, rest) = uri.split_once(':').unwrap_or_default();
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let mut name = String::new();
    for c in host.chars().chain(path.chars()) {
        match c {
            '/' => name.push('_'),
            c if "\\|{}[]<>\"^~_=!@#$%&*".contains(c) => {
                // Writing to a string cannot fail.
                let _ = write!(name, "%{:02x}", u32::from(c));
            }
            c => name.push(c),
        }
    }
    name
}

/// Whether that is how Debian's archive and its mirrors are addressed: `…/debian`, `…/debian-security`, the same
/// at one instant as snapshot.debian.org has it, or a file of mirrors called so.
fn has_address_of_debian(uri: &str) -> bool {
    let (_, rest) = uri.split_once(':').unwrap_or_default();
    let local = !rest.starts_with("//") || rest.starts_with("///");
    let mut parts = rest.split('/').filter(|part| !part.is_empty());
    let host = if local { "" } else { parts.next().unwrap_or_default() };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let host = host.split(':').next().unwrap_or_default();
    let within =
        |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let mut parts = parts.rev().peekable();
    parts.next_if(|part| is_instant(part));
    match parts.next() {
        Some(last) => {
            let last = last.strip_suffix(".list").unwrap_or(last);
            ["debian", "debian-security"].contains(&last) && !OTHER_HOSTS.iter().any(|other| within(other))
        }
        None => host == "security.debian.org",
    }
}

/// Whether that is an instant as in snapshot.debian.org's paths: `20260131T083000Z`.
fn is_instant(part: &str) -> bool {
    part.len() == 16
        && part.bytes().enumerate().all(|(n, byte)| match n {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

/// What follows the code name in a suite that is called as Debian's are.
fn pocket(suite: &str) -> Option<&str> {
    DEBIAN_SUITES.iter().find_map(|name| {
        let rest = suite.strip_prefix(name)?;
        ["", "-updates", "-security", "-backports"].contains(&rest).then_some(rest)
    })
}

/// sources.list(5), "one-line-style".
fn parse_one_line(text: &str) -> Vec<Entry> {
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
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            let (uri, suite) = (uri.to_owned(), suite.to_owned());
            sources.push(Entry { uri, suite, components: words.map(str::to_owned).collect(), signed_by });
        }
    }
    sources
}

/// sources.list(5), "deb822-style".
fn parse_deb822(text: &str) -> Vec<Entry> {
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
                sources.push(Entry {
                    uri: uri.to_owned(),
                    suite: suite.to_owned(),
                    components: field("Components").split_whitespace().map(str::to_owned).collect(),
                    signed_by: signed_by.clone(),
                });
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
            deb [arch=amd64 signed-by=/debian-archive-k.gpg] http://sec.example/ bookworm-security main\n\
            deb http://other.example/ nodistro main\n";
        std::fs::write(root.path().join("etc/apt/sources.list"), old).unwrap();
        let new = "Types: deb deb-src\n# a comment\nURIs: http://new.example/debian\n\
            Suites: bookworm\n bookworm-updates bookworm-backports\nComponents: main\nSigned-By: /debian-archive-key.gpg\n\n\
            Types: deb\nURIs: http://off.example/\nSuites: bookworm\nComponents: main\nEnabled: no\n\n\
            Types: deb\nURIs: http://archive.example/ubuntu\nSuites: noble\nComponents: main\n";
        std::fs::write(dir.join("debian.sources"), new).unwrap();
        std::fs::write(dir.join("x.sources.disabled"), new).unwrap();
        assert_eq!(
            lines(&recipe(true, None), root.path()).unwrap(),
            [
                "deb http://old.example/debian trixie main",
                "deb [signed-by=/debian-archive-k.gpg] http://sec.example/ trixie-security main",
                "deb [signed-by=/debian-archive-key.gpg] http://new.example/debian trixie main",
                "deb [signed-by=/debian-archive-key.gpg] http://new.example/debian trixie-updates main",
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

    #[test]
    fn only_debian_s_own_archive_counts() {
        let key = "signed-by=/usr/share/keyrings";
        for (line, debian) in [
            ("http://deb.debian.org/debian bookworm main", true),
            ("http://mirror.example/debian/ stable main contrib", true),
            ("http://localhost:3142/deb.debian.org/debian bookworm-updates main", true),
            ("http://security.debian.org bookworm-security main", true),
            ("http://security.debian.org/debian-security/ bookworm-security main", true),
            ("http://snapshot.debian.org/archive/debian/20260131T083000Z/ trixie main", true),
            ("https://user:word@mirror.example:8080/pub/debian trixie main", true),
            ("file:/srv/mirror/debian bookworm main", true),
            ("mirror+file:///etc/apt/mirrors/debian.list bookworm main", true),
            (&format!("[{key}/debian-archive-keyring.gpg] http://mirror.example/os bookworm main"), true),
            ("http://deb.debian.org/debian-ports sid main", false),
            ("http://archive.raspberrypi.com/debian/ bookworm main", false),
            (&format!("[{key}/raspberrypi.gpg] http://mirror.example/debian/ bookworm main"), false),
            ("http://raspbian.raspberrypi.com/raspbian/ bookworm main", false),
            ("[arch=amd64] https://dl.google.com/linux/chrome/deb/ stable main", false),
            ("https://packages.microsoft.com/repos/code stable main", false),
            ("https://download.example/linux/debian bookworm stable", false),
            ("https://pkgs.tailscale.com/stable/debian bookworm main", false),
            ("http://archive.ubuntu.com/ubuntu stable main", false),
            ("https://debian stable main", false),
            ("debian stable main", false),
        ] {
            let entries = parse_one_line(&format!("deb {line}\n"));
            let sources = entries.into_iter().filter_map(|entry| entry.of_debian(Path::new("/no/lists")));
            assert_eq!(sources.count() == 1, debian, "{line}");
        }
    }

    #[test]
    fn what_apt_fetched_says_best_whose_an_archive_is() {
        let lists = tempfile::tempdir().unwrap();
        for (line, file, origin, debian) in [
            (
                "http://me:word@mirror.example/a_b/os/ bookworm main",
                "mirror.example_a%5fb_os_dists_bookworm_InRelease",
                "Debian",
                true,
            ),
            (
                "file:/srv/os bookworm-backports main",
                "_srv_os_dists_bookworm-backports_Release",
                "Debian Backports",
                true,
            ),
            (
                "[signed-by=/debian-archive-keyring.gpg] http://own.example/debian bookworm main",
                "own.example_debian_dists_bookworm_InRelease",
                "Raspberry Pi Foundation",
                false,
            ),
        ] {
            let release = format!("-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: {origin}\nLabel: x\n");
            std::fs::write(lists.path().join(file), release).unwrap();
            let entries = parse_one_line(&format!("deb {line}\n"));
            let sources = entries.into_iter().filter_map(|entry| entry.of_debian(lists.path()));
            assert_eq!(sources.count() == 1, debian, "{line}");
        }
    }
}
