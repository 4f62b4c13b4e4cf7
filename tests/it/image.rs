//! Images, made by the real tools.

use crate::agent::lab::skip;
use pilab::image::{BuildRequest, ImageError, Recipe, Sink, Store};
use pilab::model::device::Arch;
use pilab::support::command::Command;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// In the child: where the store is. The child is this test binary, run for one test.
const STORE: &str = "PILAB_TEST_BUILD_STORE";

fn request(dir: &Path) -> BuildRequest {
    let agent = dir.join("agent");
    fs::write(&agent, "agent").unwrap();
    BuildRequest { recipe: Recipe::built_in("trixie").unwrap(), arch: Arch::X86_64, agent, lock: None }
}

/// How many processes have `text` in their environment.
fn processes_with(text: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let environments = entries.filter_map(|entry| fs::read(entry.path().join("environ")).ok());
    environments.filter(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes())).count()
}

async fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Not a test: what the test below kills.
#[tokio::test]
async fn child_that_builds() {
    let Some(store) = std::env::var_os(STORE) else { return };
    let store = Store::new(store);
    let request = request(store.root());
    store.build(&request, &Sink::silent(), &CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn a_build_that_is_killed_leaves_no_image_and_no_process() {
    if Command::new("mmdebstrap").arg("--version").output().await.is_err()
        || !rustix::process::geteuid().is_root()
    {
        return skip("vm", "installing packages needs mmdebstrap and root");
    }
    let dir = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let work = format!("PILAB_WORK={}", dir.path().display());
    let mut child = Command::new(me)
        .args(["--exact", "image::child_that_builds"])
        .env(STORE, dir.path().to_string_lossy())
        .build()
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("mmdebstrap at work", || {
        let work = fs::read_dir(dir.path().join("work")).into_iter().flatten().flatten().next();
        work.is_some_and(|work| work.path().join("base/root/etc/apt").exists())
    })
    .await;
    child.kill().await.unwrap();
    wait_for("all its processes gone", || processes_with(&work) == 0).await;

    let store = Store::new(dir.path());
    assert!(store.ls().unwrap().is_empty());
    // The next one gets the lock at once and sweeps, here even though it is cancelled.
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let next = store.build(&request(dir.path()), &Sink::silent(), &cancelled).await;
    assert!(matches!(next, Err(ImageError::Cancelled)), "{next:?}");
    assert_eq!(fs::read_dir(dir.path().join("work")).unwrap().count(), 0);
    wait_for("all its processes gone", || processes_with(&work) == 0).await;
}

#[test]
fn a_wrong_recipe_is_named_with_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    fs::write(&file, "suite = \"trixie\"\ncomponents = \"main\"\n").unwrap();
    let error = Recipe::load(&file).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{}:2: key `components`: ", file.display())), "{error}");
    assert!(matches!(Recipe::load(&dir.path().join("none.toml")), Err(ImageError::RecipeRead { .. })));
}

/// Root's rights are asked for in words, before the store says "Permission denied".
#[tokio::test]
async fn without_the_rights_that_a_build_needs_sudo_is_named() {
    if !rustix::process::geteuid().is_root() {
        return skip("vm", "only root can become somebody else");
    }
    let dir = tempfile::tempdir().unwrap();
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), everybody.clone()).unwrap();
    // Where the program was built may be root's alone.
    let program = dir.path().join("pilab");
    fs::copy(env!("CARGO_BIN_EXE_pilab"), &program).unwrap();
    fs::set_permissions(&program, everybody).unwrap();
    fs::write(dir.path().join("agent"), "agent").unwrap();
    let images = dir.path().join("images");
    let manifest = images.join("images").join(format!("{}.json", "a".repeat(64)));
    for (there, args, words) in [
        (false, ["build", "--agent", "agent"].as_slice(), "building an image needs root"),
        (true, &["rm", "aaaa"], "Permission denied"),
    ] {
        if there {
            fs::create_dir_all(manifest.parent().unwrap()).unwrap();
            fs::write(&manifest, "{").unwrap();
        }
        let command = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .arg("image")
            .args(args.iter().copied())
            .env("PILAB_IMAGE_DIR", images.to_string_lossy());
        let output = command.build().current_dir(dir.path()).output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains("hint: run it with sudo"), "{stderr}");
        assert_eq!(images.exists(), there);
    }
}
