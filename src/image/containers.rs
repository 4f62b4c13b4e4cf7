//! The container images that every device has: made here from Debian's static busybox, in no registry.
//!
//! They are written as a read-only image store of podman's (containers-storage.conf(5),
//! `additionalimagestores`; on disk as github.com/containers/storage lays it out with the overlay
//! driver). A device then starts a container without first loading an image, and equal content
//! gives equal bytes, which `podman load` on the host would not: it writes times and random names.

use super::error::{At, ImageError};
use super::manifest::sha256;
use super::tree::{directory, file};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::Path;

/// Where the store lies on a device; `storage.conf` in the device layer says the same.
pub(super) const STORE: &str = "usr/lib/pilab/containers";

/// The images: reference, and what `/version` says in it. Two that differ, for upgrades.
const IMAGES: &[(&str, &str)] = &[("localhost/pilab/hello:1", "1\n"), ("localhost/pilab/hello:2", "2\n")];

/// When they were made, as they tell it: equal for equal bytes.
const CREATED: &str = "2025-01-01T00:00:00Z";

/// Architecture as OCI names it is Debian's name for those we have.
pub(super) fn write_store(root: &Path, arch: &str, busybox: &[u8]) -> Result<(), ImageError> {
    let store = root.join(STORE);
    let (mut images, mut layers) = (Vec::new(), Vec::new());
    for (reference, version) in IMAGES {
        let (image, layer) = write_image(&store, reference, version, arch, busybox)?;
        images.push(image);
        layers.push(layer);
    }
    write_json(&store.join("overlay-images/images.json"), &Value::Array(images))?;
    write_json(&store.join("overlay-layers/layers.json"), &Value::Array(layers))?;
    // podman opens these to take its locks; in a read-only store it cannot make them.
    for lock in ["overlay-images/images.lock", "overlay-layers/layers.lock", "storage.lock"] {
        file(&store.join(lock), b"", 0o644)?;
    }
    Ok(())
}

fn write_image(
    store: &Path,
    reference: &str,
    version: &str,
    arch: &str,
    busybox: &[u8],
) -> Result<(Value, Value), ImageError> {
    let tar = layer_tar(version, busybox).at("write", store)?;
    let digest = sha256(&tar);
    // With one layer, its id is its digest.
    let layer_id = digest.clone();

    let own = store.join("overlay").join(&layer_id);
    let unpacked = own.join("diff");
    directory(&unpacked)?;
    let mut archive = tar::Archive::new(tar.as_slice());
    archive.set_preserve_permissions(true);
    archive.unpack(&unpacked).at("write", &unpacked)?;
    // A short name, 26 characters of A-Z and 0-9, keeps mount(2)'s options short when layers are many.
    let short: String = digest.to_uppercase().chars().take(26).collect();
    let links = store.join("overlay/l");
    directory(&links)?;
    symlink(format!("../{layer_id}/diff"), links.join(&short)).at("create", &links)?;
    file(&own.join("link"), short.as_bytes(), 0o644)?;

    let config = json!({
        "architecture": arch, "os": "linux", "created": CREATED,
        "config": { "Cmd": ["/bin/hello"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created": CREATED, "created_by": "pilab" }],
    });
    let config = config.to_string().into_bytes();
    let image_id = sha256(&config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{image_id}"), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{digest}"), "size": tar.len() }],
    });
    let manifest = manifest.to_string().into_bytes();
    let manifest_digest = format!("sha256:{}", sha256(&manifest));

    // Big data are files named by their key, or by "=" and its base64 when it is no plain word.
    let data = [
        (format!("sha256:{image_id}"), &config),
        (format!("manifest-{manifest_digest}"), &manifest),
        ("manifest".to_owned(), &manifest),
    ];
    let (mut names, mut sizes, mut digests) = (Vec::new(), serde_json::Map::new(), serde_json::Map::new());
    for (key, content) in data {
        let name = match key.as_str() {
            "manifest" => key.clone(),
            _ => format!("={}", data_encoding::BASE64.encode(key.as_bytes())),
        };
        file(&store.join("overlay-images").join(&image_id).join(name), content, 0o644)?;
        sizes.insert(key.clone(), json!(content.len()));
        digests.insert(key.clone(), json!(format!("sha256:{}", sha256(content))));
        names.push(key);
    }
    let image = json!({
        "id": image_id, "digest": manifest_digest, "names": [reference], "layer": layer_id, "metadata": "{}",
        "big-data-names": names, "big-data-sizes": sizes, "big-data-digests": digests, "created": CREATED,
    });
    let layer = json!({
        "id": layer_id, "created": CREATED,
        "compressed-diff-digest": format!("sha256:{digest}"), "compressed-size": tar.len(),
        "diff-digest": format!("sha256:{digest}"), "diff-size": tar.len(), "compression": 0,
        "uidset": [0], "gidset": [0],
    });
    Ok((image, layer))
}

/// Serves its version over HTTP on port 80 until SIGTERM, which a process without a handler ignores
/// when it is the container's first.
const HELLO: &str = "#!/bin/busybox sh\ntrap 'exit 0' TERM INT\necho \"hello $(cat /version)\"\n\
    httpd -p 80 -h / || echo 'port 80 is taken'\nwhile :; do sleep 3600 & wait $!; done\n";

fn layer_tar(version: &str, busybox: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header
    };
    // The mount points that a runtime would otherwise have to make.
    for directory in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        let mode = if directory == "tmp" { 0o1777 } else { 0o755 };
        tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), directory, std::io::empty())?;
    }
    let files: [(&str, u32, &[u8]); 5] = [
        ("bin/busybox", 0o755, busybox),
        ("bin/hello", 0o755, HELLO.as_bytes()),
        ("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n"),
        ("etc/group", 0o644, b"root:x:0:\n"),
        ("version", 0o644, version.as_bytes()),
    ];
    for (name, mode, content) in files {
        tar.append_data(&mut header(tar::EntryType::Regular, mode, content.len() as u64), name, content)?;
    }
    for applet in [
        "cat", "echo", "env", "false", "httpd", "id", "ls", "nc", "ping", "sh", "sleep", "touch", "true",
        "wget",
    ] {
        tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()
}

fn write_json(path: &Path, value: &Value) -> Result<(), ImageError> {
    file(path, value.to_string().as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn two_stores_are_equal_and_their_images_differ() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [&a, &b] {
            write_store(root.path(), "arm64", b"not really busybox").unwrap();
        }
        let read = |root: &tempfile::TempDir, file: &str| {
            fs::read_to_string(root.path().join(STORE).join(file)).unwrap()
        };
        for file in ["overlay-images/images.json", "overlay-layers/layers.json"] {
            assert_eq!(read(&a, file), read(&b, file));
        }
        let images: Vec<Value> = serde_json::from_str(&read(&a, "overlay-images/images.json")).unwrap();
        assert_eq!(images.len(), IMAGES.len());
        assert_ne!(images[0]["id"], images[1]["id"]);
        for image in &images {
            let layer = image["layer"].as_str().unwrap();
            let unpacked = a.path().join(STORE).join("overlay").join(layer).join("diff/version");
            assert!(unpacked.exists(), "{}", unpacked.display());
        }
    }
}
