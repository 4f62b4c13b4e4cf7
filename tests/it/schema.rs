//! The JSON Schemas that editors read say the same as the program that reads the files.

use crate::support::program::Program;
use pilab::config::{lab, scenario};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn schema(of: &str) -> Value {
    let text = std::fs::read_to_string(root().join(format!("lab/{of}.schema.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn toml(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

/// Checks a value against a schema, by what draft 7 says of the words that the schemas here use; another word fails.
fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let wrong = |what: &str, of: &Value| Err(format!("{value}: {what} {of}"));
    let number = |of: &Value| of.as_f64().unwrap();
    for (word, of) in schema.as_object().unwrap() {
        match word.as_str() {
            "$schema" | "title" | "description" | "definitions" => {}
            "$ref" => {
                let target = root.pointer(of.as_str().unwrap().trim_start_matches('#'));
                check(root, target.unwrap(), value)?;
            }
            "type" => {
                let fits = match of.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64(),
                    other => panic!("no type {other:?} is known here"),
                };
                if !fits {
                    return wrong(word, of);
                }
            }
            "const" if value != of => return wrong(word, of),
            "enum" if !of.as_array().unwrap().contains(value) => return wrong(word, of),
            "pattern" => {
                let pattern = regex::Regex::new(of.as_str().unwrap()).unwrap();
                if value.as_str().is_some_and(|text| !pattern.is_match(text)) {
                    return wrong(word, of);
                }
            }
            "minimum" if value.as_f64().is_some_and(|value| value < number(of)) => return wrong(word, of),
            "maximum" if value.as_f64().is_some_and(|value| value > number(of)) => return wrong(word, of),
            "minItems" if value.as_array().is_some_and(|all| (all.len() as f64) < number(of)) => {
                return wrong(word, of);
            }
            "maxItems" if value.as_array().is_some_and(|all| all.len() as f64 > number(of)) => {
                return wrong(word, of);
            }
            "const" | "enum" | "minimum" | "maximum" | "minItems" | "maxItems" => {}
            "items" => value.as_array().into_iter().flatten().try_for_each(|item| check(root, of, item))?,
            "required" => {
                let missing = |key: &&Value| value.is_object() && value.get(key.as_str().unwrap()).is_none();
                if let Some(key) = of.as_array().unwrap().iter().find(missing) {
                    return wrong(word, key);
                }
            }
            "properties" => {
                for (key, of) in of.as_object().unwrap() {
                    value.get(key).map_or(Ok(()), |value| check(root, of, value))?;
                }
            }
            "additionalProperties" => {
                let known = |key: &str| schema.get("properties").is_some_and(|all| all.get(key).is_some());
                for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| !known(key)) {
                    match of {
                        Value::Bool(false) => return Err(format!("{key:?} is not known")),
                        of => check(root, of, value)?,
                    }
                }
            }
            "oneOf" | "anyOf" => {
                let fits = of.as_array().unwrap().iter().filter(|of| check(root, of, value).is_ok()).count();
                if fits == 0 || (word == "oneOf" && fits > 1) {
                    return wrong(word, &fits.into());
                }
            }
            other => panic!("{other:?} is not known here"),
        }
    }
    Ok(())
}

/// What the reader says of a file.
fn read(of: &str, text: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.toml");
    std::fs::write(&path, text).unwrap();
    let read =
        if of == "lab" { lab::load(&path, None, None).map(drop) } else { scenario::load(&path).map(drop) };
    read.map_err(|error| error.to_string())
}

/// The keys that the reader knows in the table where `zz` stands.
fn known(of: &str, text: &str) -> BTreeSet<String> {
    let error = read(of, text).unwrap_err();
    let (_, expected) =
        error.split_once("unknown field `zz`, expected").unwrap_or_else(|| panic!("{text}: {error}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Those that the schema names.
fn named(properties: &Value) -> BTreeSet<String> {
    properties["properties"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_schema_of_lab_files_has_the_keys_that_are_read() {
    let lab = schema("lab");
    let board = "name = \"l\"\n[[devices]]\nid = \"a\"\nmodel = \"pi4b\"\n";
    let (all, items) = (&lab["properties"], |key: &str| &lab["properties"][key]["items"]);
    let night = "name = \"l\"\n[[nightly]]\n";
    let served = "name = \"l\"\n[server.tls]\nca = \"c\"\ncert = \"c\"\nkey = \"k\"\n";
    let nats = "name = \"l\"\n[nats]\nurls = [\"nats://a\"]\nkeys = \"k\"\n";
    let mut consoles = BTreeSet::new();
    for line in items("devices")["properties"]["console"]["oneOf"].as_array().unwrap() {
        consoles.extend(named(line));
    }
    let table = [
        (named(&lab), "zz = 1\n".to_owned()),
        (named(&all["leases"]), "name = \"l\"\n[leases]\nzz = 1\n".to_owned()),
        (named(&all["health"]), "name = \"l\"\n[health]\nzz = 1\n".to_owned()),
        (named(items("pools")), "name = \"l\"\n[[pools]]\nzz = 1\n".to_owned()),
        (named(items("devices")), format!("{board}zz = 1\n")),
        (consoles, format!("{board}console = {{ zz = 1 }}\n")),
        (named(items("nightly")), format!("{night}zz = 1\n")),
        (named(&items("nightly")["properties"]["retries"]), format!("{night}retries = {{ zz = 1 }}\n")),
        (named(&items("nightly")["properties"]["notify"]), format!("{night}notify = {{ zz = 1 }}\n")),
        (named(&items("devices")["properties"]["simulate"]), format!("{board}simulate = {{ zz = 1 }}\n")),
        (named(&items("devices")["properties"]["ssh"]), format!("{board}ssh = {{ zz = 1 }}\n")),
        (named(&all["netboot"]), "name = \"l\"\n[netboot]\naddress = \"10.0.0.1\"\nzz = 1\n".to_owned()),
        (named(&all["simulate"]), "name = \"l\"\n[simulate]\nzz = 1\n".to_owned()),
        (named(&all["bundles"]), "name = \"l\"\n[bundles]\nzz = 1\n".to_owned()),
        (named(&all["nats"]), format!("{nats}zz = 1\n")),
        (named(&all["server"]), "name = \"l\"\n[server]\nzz = 1\n".to_owned()),
        (named(&all["server"]["properties"]["tls"]), format!("{served}zz = 1\n")),
        (named(&all["nats"]["properties"]["tls"]), format!("{nats}tls = {{ zz = 1 }}\n")),
    ];
    for (named, text) in table {
        assert_eq!(named, known("lab", &text), "{text}");
    }
    for power in lab["definitions"]["power"]["oneOf"].as_array().unwrap() {
        let mut named = named(power);
        let mut tags = String::new();
        for tag in ["driver", "kind"] {
            if named.remove(tag) {
                tags += &format!("{tag} = {}, ", power["properties"][tag]["const"]);
            }
        }
        if tags.contains("none") {
            continue; // serde names no field where there is none
        }
        let text = format!("{board}power = {{ {tags}zz = 1 }}\n");
        assert_eq!(named, known("lab", &text), "{text}");
    }
}

#[test]
fn the_schema_of_scenarios_has_the_keys_that_are_read() {
    let scenario = schema("scenario");
    assert_eq!(named(&scenario), known("scenario", "zz = 1\n"));
    let need = &scenario["properties"]["needs"]["additionalProperties"];
    assert_eq!(named(need), known("scenario", "[needs.dut]\nzz = 1\n"));
    let step = &scenario["definitions"]["step"];
    assert_eq!(named(step), known("scenario", "[[steps]]\nzz = 1\n"));
    for (name, body) in step["properties"].as_object().unwrap() {
        if matches!(name.as_str(), "name" | "timeout") {
            continue;
        }
        let text = format!("[[steps]]\n{name} = {{ zz = 1 }}\n");
        assert_eq!(named(body), known("scenario", &text), "{name}");
        assert!(
            step["oneOf"].as_array().unwrap().contains(&serde_json::json!({ "required": [name] })),
            "{name}"
        );
    }
}

fn files(dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(dir)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn shipped_files_fit_and_say_by_which_schema() {
    for (of, dir, line) in [
        ("lab", "lab", "#:schema ./lab.schema.json"),
        ("scenario", "lab/scenarios", "#:schema ../scenario.schema.json"),
    ] {
        let schema = schema(of);
        for path in files(dir) {
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().next(), Some(line), "{}", path.display());
            assert_eq!(check(&schema, &schema, &toml(&text)), Ok(()), "{}", path.display());
        }
    }
}

#[test]
fn what_the_reader_refuses_the_schema_does_too() {
    let lab = "name = \"l\"\n[[pools]]\nname = \"p\"\nbackend = \"vm\"\ncount = 1\n";
    let board = "name = \"l\"\n[[devices]]\nid = \"a\"\nmodel = \"pi4b\"\n";
    let run = "summary = \"s\"\nunder_test = \"agent\"\n[needs.dut]\n[[steps]]\n";
    let table = [
        ("lab", lab.to_owned(), true),
        ("lab", lab.replace("\"l\"", "\"L\""), false),
        ("lab", lab.replace("count = 1", "count = 0"), false),
        ("lab", format!("{lab}colour = 1\n"), false),
        ("lab", board.to_owned(), true),
        ("lab", board.replace("pi4b", "pi6"), false),
        ("lab", format!("{board}mac = \"dc:a6\"\n"), false),
        ("lab", format!("{board}serial = \"9ffefdef\"\n"), true),
        ("lab", format!("{board}serial = \"9ffefd\"\n"), false),
        ("lab", format!("{board}serial = \"moonbeam\"\n"), false),
        ("lab", format!("{lab}[bundles]\nkeep = 0\n"), false),
        ("lab", format!("{lab}[simulate]\ninrush = 0\n"), false),
        ("lab", format!("{board}console = {{ tty = \"ttyUSB0\" }}\n"), false),
        (
            "lab",
            format!("{board}power = {{ driver = \"http\", kind = \"tasmota\", url = \"http://a\" }}\n"),
            true,
        ),
        ("lab", format!("{board}power = {{ driver = \"http\", kind = \"tasmota\" }}\n"), false),
        ("lab", format!("{board}power = {{ driver = \"gpio-cdev\", pin = 4 }}\n"), false),
        ("lab", format!("{board}[nats]\nurls = [\"nats://a\"]\nkeys = \"k\"\n"), true),
        ("lab", format!("{board}[nats]\nurls = []\nkeys = \"k\"\n"), false),
        (
            "lab",
            format!("{board}[server.tls]\nca = \"c\"\ncert = \"c\"\nkey = \"k\"\nclients = false\n"),
            true,
        ),
        ("lab", format!("{board}[server.tls]\nca = \"c\"\ncert = \"c\"\n"), false),
        ("scenario", format!("{run}ping = {{ on = \"dut\" }}\n"), true),
        ("scenario", format!("{run}ping = {{ on = \"dut\" }}\ntimeout = \"soon\"\n"), false),
        ("scenario", format!("{run}ping = {{}}\n"), false),
        ("scenario", format!("{run}ping = {{ on = \"dut\" }}\nreboot = {{ on = \"dut\" }}\n"), false),
        ("scenario", format!("{run}console = {{ on = \"dut\", stage = \"moon\" }}\n"), false),
        ("scenario", "summary = \"s\"\n".to_owned(), false),
    ];
    for (of, text, fits) in table {
        let schema = schema(of);
        assert_eq!(read(of, &text).is_ok(), fits, "the reader: {text}");
        assert_eq!(check(&schema, &schema, &toml(&text)).is_ok(), fits, "the schema: {text}");
    }
}

#[tokio::test]
async fn the_program_prints_what_is_in_the_repository() {
    let program = Program::new("");
    for of in ["lab", "scenario"] {
        let printed = program.pilab(&["schema", of]).await.done().stdout;
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), schema(of));
    }
}
