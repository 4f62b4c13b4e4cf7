//! The scripts of `lab/`, with stand-ins for all that they call.

use crate::support::script;
use pilab::support::command::Command;
use std::fs;
use std::path::Path;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Says how it was called, to the file that the environment names.
const NOTE: &str = "#!/bin/sh\necho \"$(basename \"$0\") $*\" >> \"$NOTES\"\n";

/// What `lab/try` calls when a user who is not root calls it with `args` from the directory `caller`, a line each.
async fn called(dir: &Path, caller: &Path, args: &[&str]) -> String {
    let (repository, programs, target) = (dir.join("repository"), dir.join("bin"), dir.join("out/debug"));
    for directory in [&repository.join("lab"), &programs, &target, caller] {
        fs::create_dir_all(directory).unwrap();
    }
    for name in ["try", "as-root"] {
        fs::copy(format!("{HERE}/lab/{name}"), repository.join("lab").join(name)).unwrap();
    }
    script::write(repository.join("lab/setup"), NOTE);
    script::write(repository.join("lab/agent"), NOTE);
    script::write(programs.join("cargo"), NOTE);
    script::write(programs.join("id"), "#!/bin/sh\necho 1000\n");
    script::write(programs.join("sudo"), &format!("{NOTE}shift\n\"$@\"\n"));
    script::write(target.join("pilab"), NOTE);
    let notes = dir.join("notes");
    let _ = fs::remove_file(&notes);
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let command = Command::new(repository.join("lab/try").to_string_lossy())
        .args(args.iter().copied())
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", "../out")
        .env("NOTES", notes.to_string_lossy());
    let done = command.build().current_dir(caller).output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::read_to_string(notes).unwrap()
}

#[tokio::test]
async fn a_try_runs_the_usual_scenarios_where_none_is_named_and_finds_files_from_where_it_was_called() {
    let dir = tempfile::tempdir().unwrap();
    let caller = dir.path().join("somewhere");
    let at = |path: &str| format!("{}/{path}", caller.display());
    let usual = "ping isolation deploy-lifecycle";
    for (args, arch, wanted) in [
        (vec![], "aarch64", usual.to_owned()),
        (vec!["--arch", "x86_64"], "x86_64", format!("{usual} --arch x86_64")),
        (vec!["--keep", "--arch=x86_64"], "x86_64", format!("{usual} --keep --arch=x86_64")),
        (vec!["boot", "--on", "vm"], "aarch64", "boot --on vm".to_owned()),
        (vec!["./my.toml", "--cold"], "aarch64", format!("{} --cold", at("./my.toml"))),
        (vec!["my.toml", "ping", "/a/b.toml"], "aarch64", format!("{} ping /a/b.toml", at("my.toml"))),
        (
            vec!["--junit", "x.xml", "--lab=lab.toml", "--bundle", "/b", "--login=l"],
            "aarch64",
            format!(
                "{usual} --junit {} --lab={} --bundle /b --login={}",
                at("x.xml"),
                at("lab.toml"),
                at("l")
            ),
        ),
    ] {
        let notes = called(dir.path(), &caller, &args).await;
        let lines: Vec<&str> = notes.lines().collect();
        assert_eq!(lines.last().unwrap(), &format!("pilab run {wanted}"), "{args:?}");
        assert!(lines.contains(&format!("agent {arch}").as_str()), "{notes}");
    }
}

#[tokio::test]
async fn a_try_builds_the_image_as_root_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let notes = called(dir.path(), &dir.path().join("somewhere"), &["ping"]).await;
    let by_sudo: Vec<&str> = notes.lines().filter(|line| line.starts_with("sudo ")).collect();
    let pilab = dir.path().join("somewhere/../out/debug/pilab");
    let [line] = by_sudo.as_slice() else { panic!("{notes}") };
    assert!(line.ends_with(&format!(" {} image build --arch aarch64", pilab.display())), "{line}");
    assert!(line.contains("PILAB_IMAGE_DIR") && line.contains("PILAB_MIRROR"), "{line}");
}

#[test]
fn the_scripts_agree_on_where_cargo_and_what_it_builds_are() {
    for name in ["lab/try", "lab/agent", "lab/setup", "tests/run", "tests/pi/make"] {
        let text = fs::read_to_string(format!("{HERE}/{name}")).unwrap();
        assert!(text.contains("${CARGO_HOME:-$HOME/.cargo}/bin"), "{name}");
        assert!(!text.contains(" target/debug"), "{name}");
    }
}
