//! Bundles of both forms and versions, whole, damaged and cut short.

use super::*;
use crate::model::bundle::{BUNDLE_VERSION, LIST};
use crate::model::id::DeviceId;
use crate::model::run::Verdict;
use crate::plan::retention::Why;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A bundle of layout 1, as the first version wrote it.
fn first() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bundle-v1")
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &to);
        } else {
            assert!(fs::copy(entry.path(), to).unwrap() > 0);
        }
    }
}

fn conditions(bundle: &Bundle) -> Vec<(String, &'static str)> {
    let word = |condition: &Condition| match condition {
        Condition::Whole => "whole",
        Condition::Damaged(_) => "damaged",
        Condition::Missing => "missing",
        Condition::Unlisted => "unlisted",
    };
    bundle.check().iter().map(|(path, condition)| (path.clone(), word(condition))).collect()
}

fn bad(bundle: &Bundle) -> Vec<(String, &'static str)> {
    conditions(bundle).into_iter().filter(|(_, is)| *is != "whole").collect()
}

/// The archive of the fixture in a directory.
fn archived(dir: &Path) -> PathBuf {
    let path = dir.join("ping-3f9c.tar");
    export(&Bundle::open(&first()).unwrap(), &path).unwrap();
    path
}

#[test]
fn the_first_version_is_read() {
    let bundle = Bundle::open(&first()).unwrap();
    assert!(bundle.is_whole() && bundle.cut().is_none());
    assert_eq!(bundle.contents().version, 1);
    assert!(bad(&bundle).is_empty());
    let about = bundle.about().unwrap();
    assert_eq!((about.run.as_str(), about.verdict), ("ping-3f9c", Some(Verdict::Passed)));
    assert_eq!(bundle.consoles(), [DeviceId::new("laptop-vm-1").unwrap()]);
    let (pieces, wrong) = bundle.console(&bundle.consoles()[0]).unwrap();
    assert!(wrong.is_none());
    assert_eq!(pieces.len(), 5);
    assert!(pieces[1].bytes.starts_with(b"pilab-init: start") && pieces[1].at.boot_ns == 1_002_700_000_000);
}

#[test]
fn one_file_says_the_same_as_the_directory_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (bundle, first) = (Bundle::open(&archived(dir.path())).unwrap(), Bundle::open(&first()).unwrap());
    assert_eq!((bundle.form(), bundle.contents().version), (Form::Archive, BUNDLE_VERSION));
    assert_eq!(bundle.files(), first.files());
    assert_eq!(bundle.about(), first.about());
    let unpacked = dir.path().join("ping-3f9c");
    unpack(&bundle, &unpacked).unwrap();
    for file in first.files() {
        let read = |root: &Path| fs::read(root.join(&file.path)).unwrap();
        assert_eq!(read(&unpacked), read(first.path()), "{}", file.path);
    }
    assert!(Bundle::open(&unpacked).unwrap().is_whole());
    assert!(fs::read_dir(dir.path()).unwrap().flatten().count() == 2, "nothing else is left");
}

#[test]
fn what_is_damaged_is_named_and_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = archived(dir.path());
    let whole = fs::read(&path).unwrap();
    let name = b"console/laptop-vm-1.log.gz";
    let at = whole.windows(name.len()).position(|window| window == name).unwrap() + 512 + 60;
    let mut damaged = whole.clone();
    damaged[at] ^= 0x40;
    fs::write(&path, &damaged).unwrap();
    let bundle = Bundle::open(&path).unwrap();
    assert_eq!(bad(&bundle), [("console/laptop-vm-1.log".to_owned(), "damaged")]);
    assert_eq!(bundle.events().unwrap().1, 0);
    assert!(unpack(&bundle, &dir.path().join("x")).is_err() && !dir.path().join("x").exists());
    // In a directory too.
    let copy = dir.path().join("copy");
    copied(&first(), &copy);
    fs::write(copy.join("run.json"), "{}").unwrap();
    fs::write(copy.join("more"), "").unwrap();
    let expected = [("run.json".to_owned(), "damaged"), ("more".to_owned(), "unlisted")];
    assert_eq!(bad(&Bundle::open(&copy).unwrap()), expected);
}

#[test]
fn one_that_is_cut_short_is_told_from_a_whole_one_wherever_it_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = archived(dir.path());
    let whole = fs::read(&path).unwrap();
    let all = conditions(&Bundle::open(&path).unwrap()).len();
    // What follows the last file: two empty blocks.
    let end = whole.len() - 1024;
    for length in (0..end).step_by(97) {
        fs::write(&path, &whole[..length]).unwrap();
        match Bundle::open(&path) {
            Ok(bundle) => {
                let found = conditions(&bundle);
                // Of what fills a block after the last file, nothing is missed either.
                let all_there = found.iter().all(|(_, is)| *is == "whole");
                assert_eq!(bundle.is_whole(), all_there, "{length} of {end}");
                assert_eq!(bundle.cut().is_none(), all_there, "{length} of {end}");
                assert!(!all_there || length + 512 > end, "{length} of {end}");
                assert_eq!(found.len(), all);
                assert!(
                    found.iter().all(|(_, is)| *is == "whole" || *is == "missing"),
                    "{length}: {found:?}"
                );
            }
            Err(BundleError::NotOne { .. } | BundleError::Read { .. }) => {}
            Err(error) => panic!("{length}: {error}"),
        }
    }
    fs::write(&path, &whole[..end]).unwrap();
    assert!(Bundle::open(&path).unwrap().is_whole());
    // A directory whose writer died before it wrote the list.
    let copy = dir.path().join("copy");
    copied(&first(), &copy);
    fs::remove_file(copy.join(LIST)).unwrap();
    let bundle = Bundle::open(&copy).unwrap();
    assert!(bundle.cut().unwrap().contains("never finished"));
    assert_eq!(bundle.about().unwrap().verdict, Some(Verdict::Passed));
}

#[test]
fn what_is_no_bundle_or_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    copied(&first(), &copy);
    fs::write(copy.join(LIST), format!(r#"{{"version": {}, "shape": "another"}}"#, BUNDLE_VERSION + 1))
        .unwrap();
    let newer = Bundle::open(&copy).unwrap_err();
    assert!(matches!(newer, BundleError::Newer { version: 3, .. }) && newer.hint().is_some(), "{newer}");
    for list in [
        r#"{"version":1,"files":[{"path":"../../etc/passwd","size":1,"sha256":""}]}"#,
        r#"{"version":1,"files":[{"path":"a","size":99999999999999,"sha256":""}]}"#,
        "{",
    ] {
        fs::write(copy.join(LIST), list).unwrap();
        assert!(matches!(Bundle::open(&copy), Err(BundleError::NotOne { .. })), "{list}");
    }
    for other in [&b"not a tar"[..], &[0; 2048]] {
        let path = dir.path().join("x.tar");
        fs::write(&path, other).unwrap();
        assert!(matches!(Bundle::open(&path), Err(BundleError::NotOne { .. })));
    }
    assert!(matches!(Bundle::open(dir.path()), Err(BundleError::NotOne { .. })), "some directory");
}

#[test]
fn a_redacted_copy_is_marked_and_can_be_read_like_any() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("shared.tar");
    let bundle = Bundle::open(&first()).unwrap();
    let redacted = redact(&bundle, &Redaction::new(&[]).unwrap(), &to).unwrap();
    let copy = Bundle::open(&to).unwrap();
    assert!(bad(&copy).is_empty() && copy.is_whole());
    assert_eq!(copy.contents().redacted, Some(redacted.clone()));
    assert!(redacted.hidden >= 2, "{redacted:?}");
    let (console, _) = copy.read("console/laptop-vm-1.log", 1 << 20).unwrap();
    let console = String::from_utf8(console).unwrap();
    assert!(console.contains("address xxxxxxxxxxxxxx/24"), "{console}");
    assert_eq!(copy.console(&copy.consoles()[0]).unwrap().0.len(), 5);
    assert_eq!(copy.events().unwrap().0.len(), bundle.events().unwrap().0.len());
}

/// A bundle made of one file and one gap.
fn made(to: &Path, name: &str, content: &[u8], cause: &str) -> Bundle {
    let mut packer = Packer::new(to.with_extension("spool"));
    packer.add(name, content);
    packer.gap("journal/lab-1.jsonl", cause);
    packer.finish(None, None, to).unwrap();
    Bundle::open(to).unwrap()
}

#[test]
fn why_a_file_is_missing_is_redacted_too() {
    let dir = tempfile::tempdir().unwrap();
    let cause = "cannot read /home/ann/state from 10.0.0.17";
    let bundle = made(&dir.path().join("a.tar"), "console/lab-1.log", b"up", cause);
    let to = dir.path().join("b.tar");
    redact(&bundle, &Redaction::new(&[]).unwrap(), &to).unwrap();
    let gaps = Bundle::open(&to).unwrap().contents().gaps;
    assert_eq!(gaps[0].cause, "cannot read /home/xxx/state from xxxxxxxxx");
}

#[test]
fn what_is_too_large_to_be_held_is_a_gap_when_redacted_and_told_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = made(&dir.path().join("a.tar"), "console/lab-1.log", &[0; 5000], "x");
    let to = dir.path().join("b.tar");
    let redaction = Redaction::new(&[]).unwrap();
    redact::redact_up_to(&bundle, &redaction, &to, 4999).unwrap();
    let copy = Bundle::open(&to).unwrap().contents();
    assert!(copy.files.is_empty() && copy.gaps.iter().any(|gap| gap.cause.contains("has 5000 bytes")));
    redact::redact_up_to(&bundle, &redaction, &to, 5000).unwrap();
    assert_eq!(Bundle::open(&to).unwrap().files().len(), 1);
    let bundle = Bundle::open(&first()).unwrap();
    let (_, wrong) = bundle.console_up_to(&bundle.consoles()[0], 16).unwrap();
    assert!(matches!(wrong, Some(BundleError::TooLarge { most: 16, .. })), "{wrong:?}");
}

#[test]
fn old_ones_go_of_both_forms_and_what_is_no_bundle_stays() {
    let dir = tempfile::tempdir().unwrap();
    copied(&first(), &dir.path().join("ping-1"));
    archived(dir.path());
    for other in ["notes.txt", "Not-A-Run.tar"] {
        fs::write(dir.path().join(other), "").unwrap();
    }
    fs::create_dir(dir.path().join("empty")).unwrap();
    let all = kept(dir.path()).unwrap();
    assert_eq!(all.iter().map(|kept| kept.run.as_str()).collect::<Vec<_>>(), ["ping-1", "ping-3f9c"]);
    assert!(all.iter().all(|kept| kept.bytes > 1000 && kept.about().is_some()));
    let one = crate::model::bundle::Retention { count: Some(1), ..Default::default() };
    let dirs = [dir.path().to_owned()];
    assert_eq!(prune(&dirs, &one, u64::MAX, true).unwrap().len(), 1);
    assert_eq!(kept(dir.path()).unwrap().len(), 2, "nothing was removed");
    assert_eq!(prune(&dirs, &one, u64::MAX, false).unwrap()[0].0.run.as_str(), "ping-1");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    assert!(kept(&dir.path().join("none")).unwrap().is_empty());
}

#[test]
fn one_that_cannot_be_removed_keeps_no_other() {
    let dir = tempfile::tempdir().unwrap();
    for run in ["ping-1", "ping-2", "ping-3"] {
        copied(&first(), &dir.path().join(run));
    }
    let all: Vec<_> = kept(dir.path()).unwrap().into_iter().map(|kept| (kept, Why::Count)).collect();
    let there = || kept(dir.path()).unwrap().iter().map(|kept| kept.run.to_string()).collect::<Vec<_>>();
    let stuck = |old: &Kept| match old.run.as_str() {
        "ping-1" => Err(io::ErrorKind::PermissionDenied.into()),
        _ => store::remove(old),
    };
    let failed = store::remove_each(&all, stuck).unwrap();
    assert!(failed.to_string().contains("ping-1"), "{failed}");
    assert_eq!(there(), ["ping-1"]);
    // What another process has removed meanwhile is done.
    assert!(store::remove_each(&all, store::remove).is_none());
    assert!(there().is_empty());
}
