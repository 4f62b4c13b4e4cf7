//! Our initramfs: two cpio archives, one after the other. The *kit* (busybox, kernel modules) comes
//! from the packages and is made with the base root; the scripts are ours and are made anew each time.

use super::cpio::Archive;
use super::error::{At, ImageError};
use super::modules::Dependencies;
use super::recipe::KernelRecipe;
use super::tool;
use crate::support::command::Command;
use std::collections::BTreeMap;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// Our scripts, by name.
const SCRIPTS: &[(&str, &[u8])] = &[
    ("init", include_bytes!("../../firmware/initramfs/init")),
    ("lease", include_bytes!("../../firmware/initramfs/lease")),
];

/// The archive with our scripts.
pub(super) fn scripts() -> Result<Vec<u8>, ImageError> {
    let write = || {
        let mut archive = Archive::new(Vec::new());
        for (name, content) in SCRIPTS {
            archive.file(name, 0o755, content)?;
        }
        archive.finish()
    };
    write().at("write", Path::new("initramfs"))
}

/// The archive with busybox and the recipe's modules, from the unpacked `root`. Modules are stored
/// uncompressed: busybox's insmod reads nothing else.
pub(super) async fn kit(root: &Path, release: &str, kernel: &KernelRecipe) -> Result<Vec<u8>, ImageError> {
    let modules = root.join("usr/lib/modules").join(release);
    let dep = read_text(&modules.join("modules.dep")).await?;
    let builtin = read_text(&modules.join("modules.builtin")).await?;
    let dependencies = Dependencies::parse(&dep);
    let order = dependencies.load_order(&kernel.initramfs, &builtin)?;
    let mut board = dependencies.load_order_of_those_there(&kernel.board)?;
    // They are loaded after those.
    board.retain(|module| !order.contains(module));

    let busybox = root.join("usr/bin/busybox");
    let busybox = tokio::fs::read(&busybox).await.at("read", &busybox)?;
    let mut files = BTreeMap::new();
    for path in order.iter().chain(&board) {
        let file = modules.join(path);
        files.insert(file_name(path), tokio::fs::read(&file).await.at("read", &file)?);
    }
    let list = |paths: &[&str]| paths.iter().map(|path| format!("{}\n", file_name(path))).collect::<String>();
    let write = || {
        let mut archive = Archive::new(Vec::new());
        for directory in ["bin", "dev", "modules", "proc", "run", "sys"] {
            archive.directory(directory)?;
        }
        archive.file("bin/busybox", 0o755, &busybox)?;
        archive.file("modules/order", 0o644, list(&order).as_bytes())?;
        archive.file("modules/board", 0o644, list(&board).as_bytes())?;
        for (name, content) in &files {
            archive.file(&format!("modules/{name}"), 0o644, content)?;
        }
        archive.finish()
    };
    write().at("write", Path::new("initramfs"))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

async fn read_text(path: &Path) -> Result<String, ImageError> {
    tokio::fs::read_to_string(path).await.at("read", path)
}

/// Uncompresses the kernel modules below `tree`. Squashfs compresses them better, and a device
/// saves the time of doing it one by one.
pub(super) async fn uncompress_modules(tree: &Path, cancel: &CancellationToken) -> Result<(), ImageError> {
    let find =
        Command::new("find").arg(tree).args(["-name", "*.ko.xz", "-exec", "xz", "--decompress", "{}", "+"]);
    tool::run(find, "uncompress kernel modules", "findutils, xz-utils", tree, cancel).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_are_the_same_bytes_each_time() {
        let archive = scripts().unwrap();
        assert_eq!(archive, scripts().unwrap());
        assert!(archive.starts_with(b"070701"));
        assert_eq!(archive.len() % 4, 0, "the kernel wants an archive that follows at a multiple of 4");
    }

    #[test]
    fn init_says_the_stages_that_the_console_knows() {
        let init = include_str!("../../firmware/initramfs/init");
        for stage in
            ["say initramfs", "say \"network $ip\"", "say \"ticket ok $device $(cat", "pilab: switch-root"]
        {
            assert!(init.contains(stage), "{stage}");
        }
    }
}
