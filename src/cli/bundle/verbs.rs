//! `pilab bundle`: lists, shows, checks, throws away, packs and redacts bundles.

use super::find;
use crate::bundle::{self, Condition, Form, Redaction};
use crate::cli::args::{
    BundleCommand, BundleExportArgs, BundleLsArgs, BundlePruneArgs, BundleRedactArgs, BundleShowArgs,
    BundleVerifyArgs, JsonArgs,
};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::local::Local;
use crate::cli::table::{Align, columns, printable};
use crate::cli::ui::Ui;
use crate::config::bundles::USUAL;
use crate::model::bundle::{About, Retention};
use crate::support::clock;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// Does one of the commands on bundles.
pub async fn bundle(local: &dyn Local, command: BundleCommand, ui: Ui) -> Result<Exit, CliError> {
    match command {
        BundleCommand::Ls(args) => ls(local, &args, ui),
        BundleCommand::Show(args) => show(local, &args, ui).await,
        BundleCommand::Verify(args) => verify(local, &args, ui),
        BundleCommand::Prune(args) => prune(local, &args, ui),
        BundleCommand::Export(args) => export(local, args, ui).await,
        BundleCommand::Redact(args) => redact(local, args, ui).await,
    }
}

fn form(form: Form) -> &'static str {
    match form {
        Form::Directory => "directory",
        Form::Archive => "file",
    }
}

/// A time for people: seconds are enough.
pub(in crate::cli) fn when(ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, shift)| bytes >> shift > 0);
    unit.map_or_else(|| format!("{bytes} B"), |(name, shift)| format!("{} {name}", bytes >> shift))
}

fn verdict(about: Option<&About>) -> String {
    about.and_then(|about| about.verdict).map_or_else(|| "unknown".to_owned(), |verdict| verdict.to_string())
}

fn ls(local: &dyn Local, args: &BundleLsArgs, ui: Ui) -> Result<Exit, CliError> {
    let all = find::all(&find::dirs(local, args.dir.as_deref()))?;
    let mut rows = vec![["run", "when", "verdict", "size", "form", "where"].map(str::to_owned).to_vec()];
    for kept in &all {
        let about = kept.about();
        let whole = bundle::Bundle::open(&kept.path).is_ok_and(|bundle| bundle.is_whole());
        if args.json.json {
            let (verdict, scenario) =
                (about.as_ref().map(|a| a.verdict), about.as_ref().map(|a| a.scenario.clone()));
            ui.json(&json!({
                "run": kept.run, "at_ms": kept.at_ms, "verdict": verdict, "scenario": scenario, "bytes": kept.bytes,
                "form": form(kept.form), "whole": whole, "path": kept.path,
            }))?;
            continue;
        }
        let verdict = if whole { verdict(about.as_ref()) } else { "not whole".to_owned() };
        let place = kept.path.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
        let (at, bytes, form) = (when(kept.at_ms), size(kept.bytes), form(kept.form).to_owned());
        rows.push(vec![kept.run.to_string(), at, verdict, bytes, form, place]);
    }
    if !args.json.json {
        ui.data(&columns(&rows, &[Align::Left, Align::Left, Align::Left, Align::Right], 0))?;
    }
    Ok(Exit::Ok)
}

async fn show(local: &dyn Local, args: &BundleShowArgs, ui: Ui) -> Result<Exit, CliError> {
    let found = find::open(local, &args.run, &args.login).await?;
    let (bundle, contents) = (&found.bundle, found.bundle.contents());
    let (about, cut) = (bundle.about(), bundle.cut());
    if args.json.json {
        ui.json(&json!({ "path": bundle.path(), "form": form(bundle.form()), "cut": cut, "about": about, "contents": contents }))?;
        return Ok(Exit::Ok);
    }
    let mut text =
        format!("{} ({}, layout {})\n", bundle.path().display(), form(bundle.form()), contents.version);
    if let Some(about) = &about {
        let scenario = about.scenario.as_ref().map(ToString::to_string).unwrap_or_default();
        let took = about.ended_ms.saturating_sub(about.began_ms) / 1000;
        text += &format!("run {} of {scenario}: {}\n", about.run, verdict(Some(about)));
        if !about.reason.is_empty() {
            text += &format!("  {}\n", printable(&about.reason));
        }
        text += &format!("from {}, {took} s\n", when(about.began_ms));
        for device in &about.devices {
            text += &format!("{} = {} ({})\n", device.role, device.device, device.model);
        }
    }
    if let Some(redacted) = &contents.redacted {
        let (at, hidden, rules) = (when(redacted.at_ms), redacted.hidden, redacted.rules.join(", "));
        text += &format!("REDACTED {at}: {hidden} places, by {}\n", printable(&rules));
    }
    let rows: Vec<_> =
        contents.files.iter().map(|file| vec![printable(&file.path), file.size.to_string()]).collect();
    text += &columns(&rows, &[Align::Left, Align::Right], 2);
    for gap in &contents.gaps {
        text += &format!("GAP {}: {}\n", printable(&gap.path), printable(&gap.cause));
    }
    if let Some(cut) = cut {
        text += &format!("NOT WHOLE: {}\n", printable(&cut));
    }
    ui.data(&text)?;
    Ok(Exit::Ok)
}

fn not_here(run: &str) -> CliError {
    let hint = Some("pilab bundle ls lists them; a path will do as well".to_owned());
    CliError::Usage { what: format!("there is no bundle of a run {run:?} on this machine"), hint }
}

fn verify(local: &dyn Local, args: &BundleVerifyArgs, ui: Ui) -> Result<Exit, CliError> {
    let dirs = find::dirs(local, args.dir.as_deref());
    let paths: Vec<PathBuf> = if args.runs.is_empty() {
        find::all(&dirs)?.into_iter().map(|kept| kept.path).collect()
    } else {
        let one = |run: &String| find::here(run, &dirs)?.ok_or_else(|| not_here(run));
        args.runs.iter().map(one).collect::<Result<_, _>>()?
    };
    let mut exit = Exit::Ok;
    for path in paths {
        let bundle = bundle::Bundle::open(&path)?;
        let (found, cut) = (bundle.check(), bundle.cut());
        let bad = |condition: &Condition| !matches!(condition, Condition::Whole);
        let sound = cut.is_none() && !found.iter().any(|(_, condition)| bad(condition));
        exit = exit.max(if sound { Exit::Ok } else { Exit::Lab });
        if args.json.json {
            let files: Vec<_> = found
                .iter()
                .map(|(path, condition)| json!({ "path": path, "is": words(condition) }))
                .collect();
            let gaps = bundle.contents().gaps;
            ui.json(&json!({ "path": path, "whole": sound, "cut": cut, "files": files, "gaps": gaps }))?;
            continue;
        }
        let mut text = match &cut {
            _ if sound => format!("{}: whole, {} files\n", path.display(), found.len()),
            Some(cut) => format!("{}: NOT WHOLE: {}\n", path.display(), printable(cut)),
            None => format!("{}: DAMAGED\n", path.display()),
        };
        for (file, condition) in found.iter().filter(|(_, condition)| !sound || bad(condition)) {
            text += &format!("  {}: {}\n", printable(file), printable(&words(condition)));
        }
        for gap in bundle.contents().gaps {
            text += &format!("  {}: was not written: {}\n", printable(&gap.path), printable(&gap.cause));
        }
        ui.data(&text)?;
    }
    Ok(exit)
}

fn words(condition: &Condition) -> String {
    match condition {
        Condition::Whole => "whole".to_owned(),
        Condition::Missing => "missing".to_owned(),
        Condition::Unlisted => "not in the list".to_owned(),
        Condition::Damaged(cause) => format!("damaged: {cause}"),
    }
}

fn prune(local: &dyn Local, args: &BundlePruneArgs, ui: Ui) -> Result<Exit, CliError> {
    // By hand the bundles of nights are left to their nights, which go as a whole.
    let dir = args
        .dir
        .clone()
        .map_or_else(|| find::dirs(local, None).into_iter().take(1).collect(), |dir| vec![dir]);
    let named = args.keep.is_some() || args.age.is_some() || args.size.is_some();
    let asked = Retention { count: args.keep, age: args.age, bytes: args.size };
    let gone = bundle::prune(&dir, if named { &asked } else { &USUAL }, clock::wall_ms(), args.dry_run)?;
    let bytes: u64 = gone.iter().map(|(kept, _)| kept.bytes).sum();
    for (kept, why) in &gone {
        if args.json.json {
            ui.json(&json!({ "run": kept.run, "bytes": kept.bytes, "why": why.name(), "path": kept.path }))?;
        } else {
            ui.data(&format!("{}  {}  by {}\n", kept.run, size(kept.bytes), why.name()))?;
        }
    }
    let word = if args.dry_run { "would be" } else { "are" };
    ui.note(&format!("{} bundles {word} removed, {}", gone.len(), size(bytes)));
    Ok(Exit::Ok)
}

async fn export(local: &dyn Local, args: BundleExportArgs, ui: Ui) -> Result<Exit, CliError> {
    let found = find::open(local, &args.run, &args.login).await?;
    let to = args
        .output
        .unwrap_or_else(|| PathBuf::from(format!("{}.{}", name(&found.bundle, &args.run), bundle::ARCHIVE)));
    bundle::export(&found.bundle, &to)?;
    told(&to, args.json, ui)
}

async fn redact(local: &dyn Local, args: BundleRedactArgs, ui: Ui) -> Result<Exit, CliError> {
    let redaction = Redaction::new(&args.hide)?;
    let found = find::open(local, &args.run, &args.login).await?;
    let name = name(&found.bundle, &args.run);
    let to = args.output.unwrap_or_else(|| PathBuf::from(format!("{name}-redacted.{}", bundle::ARCHIVE)));
    let redacted = bundle::redact(&found.bundle, &redaction, &to)?;
    ui.note(&format!("{} places are hidden; look through it before it is shared", redacted.hidden));
    told(&to, args.json, ui)
}

fn name(bundle: &bundle::Bundle, asked: &str) -> String {
    bundle
        .about()
        .map_or_else(|| asked.rsplit('/').next().unwrap_or(asked).to_owned(), |about| about.run.to_string())
}

fn told(path: &std::path::Path, json: JsonArgs, ui: Ui) -> Result<Exit, CliError> {
    if json.json {
        ui.json(&json!({ "path": path }))?;
    } else {
        ui.data(&format!("{}\n", path.display()))?;
    }
    Ok(Exit::Ok)
}
