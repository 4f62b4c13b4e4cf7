//! The house rules that no compiler checks: who may import whom, file sizes, module docs, forgotten test
//! files, and what the agent links.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules and what each may import beside itself. `docs/architecture.md` shows the same table.
const TABLE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("support", &["model"]),
    ("plan", &["model"]),
    ("wire", &["model"]),
    ("config", &["model", "support"]),
    ("bundle", &["model", "plan", "support"]),
    ("bus", &["model", "wire", "support"]),
    ("journal", &["model", "support"]),
    ("console", &["model", "journal", "support"]),
    ("device", &["model", "plan", "journal", "console", "support"]),
    ("netboot", &["device", "console", "model", "support"]),
    ("ssh", &["device", "console", "model", "support"]),
    ("vm", &["device", "console", "model", "support"]),
    ("container", &["device", "console", "model", "support"]),
    ("power", &["device", "console", "model", "support"]),
    ("serial", &["device", "console", "model", "support"]),
    ("sim", &["model", "plan", "journal", "console", "device", "power", "serial", "support"]),
    ("image", &["model", "support"]),
    (
        "coordinator",
        &["model", "plan", "wire", "bus", "journal", "device", "console", "image", "bundle", "support"],
    ),
    ("agent", &["model", "plan", "wire", "bus", "support"]),
    ("podman", &["agent", "model", "support"]),
    ("cli", &["model", "plan", "wire", "bus", "config", "bundle", "support"]),
    ("testing", &["model", "wire", "bus", "config", "support"]),
    (
        "compose",
        &[
            "model",
            "support",
            "plan",
            "wire",
            "config",
            "bus",
            "journal",
            "console",
            "device",
            "netboot",
            "ssh",
            "vm",
            "container",
            "power",
            "serial",
            "sim",
            "image",
            "bundle",
            "coordinator",
            "agent",
            "podman",
            "cli",
        ],
    ),
    // The entry points. That of the agent joins its parts itself: `compose` is the coordinator's.
    ("pilab", &["cli", "compose", "support"]),
    ("pilab-agent", &["agent", "podman", "model", "support"]),
];

/// The longest a file may be before its tests, in lines: what one reading takes in.
const MAX_LINES: usize = 400;

/// Crates that must not get into the agent: libvirt, and what only the coordinator and its user need.
const NOT_IN_THE_AGENT: &[&str] = &["virt", "virt-sys", "clap", "russh"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files under `dir` with one of these extensions, with their text; none when there is no `dir`.
fn files(dir: &str, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                found.push((path.strip_prefix(root()).unwrap_or(&path).to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<(PathBuf, String)> {
    [files("src", &["rs"]), files("tests", &["rs"])].concat()
}

/// Prints every complaint, then fails if there is one.
fn none_of(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The top module of a file under `src` (of an entry point: its name), and how many names its own module
/// path has.
fn module(path: &Path) -> Option<(String, usize)> {
    let parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let (first, rest) = parts.get(1..)?.split_first()?;
    if first == "bin" {
        return Some((path.file_stem()?.to_string_lossy().into_owned(), 1));
    }
    let depth = rest.len() + 1 - usize::from(rest.last().is_some_and(|file| file == "mod.rs"));
    (!rest.is_empty()).then(|| (first.clone(), depth))
}

/// The text without comments. A `//` inside a string goes as well: paths do not stand there.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first names of all paths in `code` that begin with `root::`, also those in braces.
fn names_after(code: &str, root: &str) -> BTreeSet<String> {
    let ident = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        if code[..at].chars().next_back().is_some_and(ident) {
            continue;
        }
        let rest = &code[at + root.len()..];
        let Some(inside) = rest.strip_prefix('{') else {
            names.insert(rest.chars().take_while(|c| ident(*c)).collect());
            continue;
        };
        let (mut depth, mut name, mut wanted) = (1, String::new(), true);
        for c in inside.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => wanted = true,
                c if depth == 1 && wanted && ident(c) => name.push(c),
                _ => {}
            }
            if !name.is_empty() && !ident(c) {
                names.insert(std::mem::take(&mut name));
                wanted = c == ',' && depth == 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

#[test]
fn imports_follow_the_table() {
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, text) in files("src", &["rs"]) {
        let Some((top, _)) = module(&path) else { continue };
        let Some(allowed) = table.get(top.as_str()) else {
            complaints.push(format!("{}: module {top} is not in the table", path.display()));
            continue;
        };
        let code = code(&text);
        let mut names = names_after(&code, "crate::");
        if path.starts_with("src/bin") {
            names.extend(names_after(&code, "pilab::"));
        }
        for name in names.iter().filter(|name| table.contains_key(name.as_str()) && **name != top) {
            if !allowed.contains(&name.as_str()) {
                complaints.push(format!("{}: {top} may not import {name}", path.display()));
            }
        }
        seen.insert(top);
    }
    for (name, _) in TABLE {
        if !seen.contains(*name) {
            complaints.push(format!("the table has {name}, src has not"));
        }
    }
    none_of(&complaints);
}

#[test]
fn super_does_not_leave_a_top_module() {
    let mut complaints = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        let Some((_, depth)) = module(&path) else { continue };
        let mut in_tests = 0;
        for (number, line) in code(&text).lines().enumerate() {
            // Each module inside the file is one more to leave.
            in_tests += usize::from(line.trim_end().ends_with('{') && line.contains("mod "));
            let mut longest = 0;
            let mut rest = line;
            while let Some(at) = rest.find("super::") {
                let mut chain = 0;
                rest = &rest[at..];
                while let Some(after) = rest.strip_prefix("super::") {
                    chain += 1;
                    rest = after;
                }
                longest = longest.max(chain);
            }
            if longest > depth - 1 + in_tests {
                complaints.push(format!("{}:{}: super:: leaves the top module", path.display(), number + 1));
            }
        }
    }
    none_of(&complaints);
}

#[test]
fn every_file_says_what_it_owns_and_is_short() {
    let mut complaints = Vec::new();
    for (path, text) in rust_files() {
        if !text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//! ")) {
            complaints.push(format!("{}: does not begin with //! and what it owns", path.display()));
        }
        let lines = text.lines().take_while(|line| !line.starts_with("mod tests")).count();
        if path.starts_with("src") && lines > MAX_LINES {
            complaints.push(format!("{}: {lines} lines before its tests, over {MAX_LINES}", path.display()));
        }
    }
    none_of(&complaints);
}

#[test]
fn no_line_ends_in_spaces() {
    let mut all: Vec<_> = ["src", "tests", "docs", "lab", "firmware"]
        .iter()
        .flat_map(|dir| files(dir, &["rs", "md", "toml", "sh", "xml"]))
        .collect();
    for name in ["README.md", "CHANGELOG.md", "Cargo.toml", "clippy.toml"] {
        all.push((name.into(), fs::read_to_string(root().join(name)).unwrap_or_default()));
    }
    let mut complaints = Vec::new();
    for (path, text) in all {
        for (number, line) in text.lines().enumerate() {
            if line.ends_with([' ', '\t']) {
                complaints.push(format!("{}:{}: spaces at the end", path.display(), number + 1));
            }
        }
    }
    none_of(&complaints);
}

#[test]
fn no_test_file_is_forgotten() {
    let mut complaints = Vec::new();
    for binary in ["it", "pi", "rack", "vm"] {
        let dir = Path::new("tests").join(binary);
        let main = fs::read_to_string(root().join(&dir).join("main.rs")).unwrap_or_default();
        for (path, _) in files(&dir.to_string_lossy(), &["rs"]) {
            let Ok(inner) = path.strip_prefix(&dir) else { continue };
            let Some(first) = inner.iter().next() else { continue };
            let name = first.to_string_lossy().trim_end_matches(".rs").to_owned();
            if name != "main" && !main.lines().any(|line| line.trim() == format!("mod {name};")) {
                complaints.push(format!("{}: tests/{binary}/main.rs has no `mod {name};`", path.display()));
            }
        }
    }
    none_of(&complaints);
}

#[test]
fn the_document_shows_the_same_table() {
    let document = fs::read_to_string(root().join("docs/architecture.md")).unwrap_or_default();
    let mut shown = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [modules, _, imports] = cells.as_slice() else { continue };
        let imports: Vec<String> = imports.split(", ").map(str::to_owned).collect();
        for module in modules.split_whitespace() {
            shown.insert(module.trim_matches('`').to_owned(), imports.clone());
        }
    }
    let wanted: BTreeMap<String, Vec<String>> = TABLE
        .iter()
        .map(|(name, imports)| {
            let imports = match *name {
                "compose" => vec!["all".to_owned()],
                _ if imports.is_empty() => vec!["–".to_owned()],
                _ => imports.iter().map(|import| (*import).to_owned()).collect(),
            };
            ((*name).to_owned(), imports)
        })
        .collect();
    assert_eq!(shown, wanted);
}

#[test]
fn the_agent_links_nothing_of_the_coordinator() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    #[expect(clippy::disallowed_methods, reason = "this test knows the standard library only")]
    let mut command = std::process::Command::new(cargo);
    command.current_dir(root()).args(["tree", "--locked", "--no-default-features", "--features", "agent"]);
    let output = match command.args(["-e", "normal", "--prefix", "none", "--format", "{p}"]).output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: cargo cannot be run: {error}");
            return;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let crates: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(crates.contains("async-nats"), "{text}");
    for name in NOT_IN_THE_AGENT {
        assert!(!crates.contains(name), "the agent links {name}");
    }
}

#[test]
fn paths_are_found_however_they_are_written() {
    let names = |text: &str| names_after(text, "crate::").into_iter().collect::<Vec<_>>();
    assert_eq!(names("use crate::a::b; let x = crate::c::d();"), ["a", "c"]);
    assert_eq!(names("use crate::{a::{x, y}, b, c::z};"), ["a", "b", "c"]);
    assert_eq!(names("use crate::{\n    a,\n    b::{self, c},\n};"), ["a", "b"]);
    assert_eq!(names("mycrate::a"), [""; 0]);
    assert_eq!(module(Path::new("src/cli/run.rs")), Some(("cli".to_owned(), 2)));
    assert_eq!(module(Path::new("src/cli/mod.rs")), Some(("cli".to_owned(), 1)));
    assert_eq!(module(Path::new("src/lib.rs")), None);
}
