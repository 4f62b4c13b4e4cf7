//! Images of this machine, for the command line and the embedded lab.

use super::clock::Clock;
use super::{failed, instance};
use crate::cli::error::CliError;
use crate::cli::local::{ImageInfo, ImageOptions, Progress, PrunedImages, RemovedImage};
use crate::config::lab::Lab;
use crate::coordinator::parts::{BootImage, FindImage, NoImage};
use crate::device::ports::BootLayer;
use crate::image::{BuildRequest, Check, Image, ImageError, InUse, Lock, Recipe, Sink, Store};
use crate::model::device::Arch;
use crate::model::id::DeviceId;
use crate::support::chain::Chain;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;
use tokio_util::sync::CancellationToken;

/// Where an installed pilab has the agents.
const INSTALLED_AGENTS: &str = "/usr/lib/pilab/agents";
/// The shortest beginning of an image's id that stands for it in a lab file. No recipe is called like one.
const LEAST_ID: usize = 8;
/// The environment variable that names the Debian archive of builds, where the host has none.
const MIRROR_VARIABLE: &str = "PILAB_MIRROR";
/// Steps of the progress bar.
const STEPS: f64 = 1000.0;

pub(super) fn image_error(doing: &'static str) -> impl Fn(ImageError) -> CliError {
    move |error| match error {
        ImageError::Cancelled => CliError::Cancelled,
        error => {
            let hint = error.hint().map(str::to_owned);
            failed(doing, hint, error)
        }
    }
}

/// The image that a lab's devices of one architecture boot, and a word on which it was. That of a recipe is built when it is
/// not there, with the agent as it is now; one that is named by its id is taken as it is. Either is verified.
pub(super) async fn ready(
    lab: &Lab,
    arch: Arch,
    progress: Progress,
    stop: CancellationToken,
) -> Result<(BootImage, String), CliError> {
    let named = is_id(&lab.image).then(|| built(&lab.image, arch)).transpose();
    let (image, how) = match named.map_err(image_error("use the image"))?.flatten() {
        Some(image) => (as_it_is(image, arch).await?, "as it is"),
        None => {
            let recipe = lab.image.clone();
            let options = ImageOptions { recipe, arch, agent: None, mirror: None, lock: None };
            let (image, built) = make(options, progress, stop).await?;
            (image, if built { "built" } else { "cached" })
        }
    };
    let note = format!("{} {arch} {how}", lab.image);
    let mut image = boot_image(&image)?;
    image.cmdline.extend(lab.kernel_args.iter().cloned());
    Ok((image, note))
}

/// Finds images for requests.
pub(super) fn finder(lab: &Lab) -> FindImage {
    let kernel_args = lab.kernel_args.clone();
    Box::new(move |name, arch| Box::pin(find(name, arch, kernel_args.clone())))
}

/// The image of the store that a name stands for: by its id or the beginning of that, or the newest of a recipe.
pub(super) fn built(name: &str, arch: Arch) -> Result<Option<Image>, ImageError> {
    let store = Store::from_environment();
    if is_id(name) { store.get(name).map(Some) } else { store.find(&recipe(name, None)?, arch) }
}

/// A recipe, with the mirror that was given or that the environment names.
fn recipe(name: &str, mirror: Option<&str>) -> Result<Recipe, ImageError> {
    let recipe = Recipe::named(name)?;
    let named = std::env::var(MIRROR_VARIABLE).ok().filter(|mirror| !mirror.is_empty());
    match mirror.or(named.as_deref()) {
        Some(mirror) => recipe.with_mirror(mirror),
        None => Ok(recipe),
    }
}

/// Whether a name is that of an image, and not of a recipe.
fn is_id(name: &str) -> bool {
    name.len() >= LEAST_ID && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The same for a request: fit for the architecture, verified.
async fn find(name: String, arch: Arch, kernel_args: Vec<String>) -> Result<BootImage, NoImage> {
    let found = async {
        let image = built(&name, arch).map_err(image_error("use the image"))?.ok_or_else(|| {
            let hint = format!("pilab image build --recipe {name} --arch {arch}, on that machine");
            failed("use the image", Some(hint), "it is not built on the coordinator's machine")
        })?;
        boot_image(&as_it_is(image, arch).await?)
    };
    let mut image = found.await.map_err(|error: CliError| NoImage {
        error: Chain(&error).to_string(),
        hint: error.hint().map(str::to_owned),
    })?;
    image.cmdline.extend(kernel_args);
    Ok(image)
}

/// An image that nothing is built for.
async fn as_it_is(image: Image, arch: Arch) -> Result<Image, CliError> {
    if image.manifest.arch != arch {
        let cause = format!("it is for {}, and a device of {arch} is to boot it", image.manifest.arch);
        return Err(failed("use the image", None, cause));
    }
    let verified = Store::from_environment().verify(&image, Check::Changed).await;
    verified.map_err(image_error("use the image")).map(|()| image)
}

/// What the machines boot whose architecture is not that of the lab's first.
pub(super) async fn of_other_machines(
    lab: &Lab,
    clock: &mut Clock,
    progress: Progress,
    stop: &CancellationToken,
) -> Result<BTreeMap<DeviceId, Arc<BootImage>>, CliError> {
    let mut of = BTreeMap::new();
    for (arch, machines) in other_machines(lab) {
        clock.begin(&format!("image for {arch}"));
        let (image, note) = ready(lab, arch, progress.clone(), stop.clone()).await?;
        clock.end(note);
        let image = Arc::new(image);
        of.extend(machines.into_iter().map(|machine| (machine, Arc::clone(&image))));
    }
    Ok(of)
}

fn other_machines(lab: &Lab) -> BTreeMap<Arch, Vec<DeviceId>> {
    let mut others: BTreeMap<Arch, Vec<DeviceId>> = BTreeMap::new();
    let first = lab.devices.first().map(|machine| machine.arch);
    for machine in lab.devices.iter().filter(|machine| Some(machine.arch) != first) {
        others.entry(machine.arch).or_default().push(machine.device.id.clone());
    }
    others
}

/// What the boards boot that the lab netboots: `same` as its other devices, where that fits.
pub(super) async fn of_boards(
    lab: &Lab,
    same: Option<&BootImage>,
    clock: &mut Clock,
    progress: Progress,
    stop: &CancellationToken,
) -> Result<BTreeMap<DeviceId, Arc<BootImage>>, CliError> {
    let boards: Vec<DeviceId> = lab.netbooted().map(|wired| wired.device.id.clone()).collect();
    if boards.is_empty() {
        return Ok(BTreeMap::new());
    }
    let image = match same {
        Some(image) => image.clone(),
        None => {
            clock.begin("image of the boards");
            let (image, note) = ready(lab, Arch::Aarch64, progress, stop.clone()).await?;
            clock.end(note);
            image
        }
    };
    let image = Arc::new(image);
    Ok(boards.into_iter().map(|board| (board, Arc::clone(&image))).collect())
}

/// The images that this process has given to devices, each once. Which bytes of one a device reads when, nobody knows:
/// none is removed before the process ends.
static IN_USE: Mutex<BTreeMap<String, InUse>> = Mutex::new(BTreeMap::new());

fn hold(image: &Image) -> Result<(), ImageError> {
    let mut held = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    if !held.contains_key(&image.id) {
        held.insert(image.id.clone(), Store::from_environment().hold(image)?);
    }
    Ok(())
}

/// An image for devices to boot, which stays for as long as this process does.
fn boot_image(image: &Image) -> Result<BootImage, CliError> {
    hold(image).map_err(image_error("use the image"))?;
    let manifest = serde_json::to_string(&image.manifest);
    let layers = image.layers.iter();
    let layers = layers.map(|layer| BootLayer { path: layer.path.clone(), sha256: layer.sha256.clone() });
    Ok(BootImage {
        id: image.id.clone(),
        manifest: manifest.map_err(|e| failed("read the image's manifest", None, e))?,
        kernel: image.kernel.clone(),
        initramfs: image.initramfs.clone(),
        layers: layers.collect(),
        cmdline: image.manifest.cmdline.clone(),
        agent_sha256: image.manifest.agent_sha256.clone(),
    })
}

/// The image of a recipe with the agent as it is now, and whether anything had to be built for it.
async fn make(
    options: ImageOptions,
    progress: Progress,
    stop: CancellationToken,
) -> Result<(Image, bool), CliError> {
    let error = image_error("make the image");
    let store = Store::from_environment();
    let recipe = recipe(&options.recipe, options.mirror.as_deref()).map_err(&error)?;
    let lock = options.lock.map(|file| Lock::load(&file, options.arch)).transpose().map_err(&error)?;
    let agent = match options.agent {
        Some(agent) => agent,
        None => find_agent(options.arch)?,
    };
    let before: Vec<String> = store.ls().map_err(&error)?.into_iter().map(|image| image.id).collect();
    let sink = sink(progress);
    let request = BuildRequest { recipe, arch: options.arch, agent, lock };
    let image = store.build(&request, &sink, &stop).await.map_err(&error)?;
    store.verify(&image, Check::Changed).await.map_err(image_error("use the image"))?;
    let built = !before.contains(&image.id);
    Ok((image, built))
}

fn sink(progress: Progress) -> Sink {
    Sink::new(move |step| {
        progress.begin(format!("image: {}", step.message));
        if let Some(fraction) = step.fraction {
            let done = (fraction.clamp(0.0, 1.0) * STEPS).round();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and STEPS"
            )]
            progress.at(done as u64, STEPS as u64);
        }
    })
}

/// The agent's executable for `arch`: where `lab/agent` puts it, seen from this program or from here,
/// or where a package does.
pub(super) fn find_agent(arch: Arch) -> Result<PathBuf, CliError> {
    let looked = agent_places(arch);
    let found = looked.iter().find(|path| path.is_file());
    found.cloned().ok_or_else(|| no_agent(arch, &looked))
}

/// The agent's executable for this machine: the newest of those that were made for images and the one that
/// was built together with this program.
pub(super) fn host_agent(arch: Arch) -> Result<PathBuf, CliError> {
    let sibling = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("pilab-agent")));
    let looked: Vec<PathBuf> = sibling.into_iter().chain(agent_places(arch)).collect();
    let made = |path: &&PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let newest = looked.iter().filter(|path| path.is_file()).max_by_key(made);
    let newest = newest.ok_or_else(|| no_agent(arch, &looked))?;
    std::path::absolute(newest).map_err(|e| failed("find the agent", None, e))
}

fn agent_places(arch: Arch) -> Vec<PathBuf> {
    let built = PathBuf::from(format!("agents/{arch}/pilab-agent"));
    let target = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.to_owned()));
    target
        .into_iter()
        .chain([PathBuf::from("target")])
        .map(|target| target.join(&built))
        .chain([PathBuf::from(INSTALLED_AGENTS).join(format!("{arch}/pilab-agent"))])
        .collect()
}

fn no_agent(arch: Arch, looked: &[PathBuf]) -> CliError {
    let looked = looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let hint = format!("build it with `lab/agent {arch}`, or name it with --agent");
    failed(format!("find the agent for {arch}"), Some(hint), format!("it is not in any of {looked}"))
}

pub(super) async fn build(
    options: ImageOptions,
    progress: Progress,
    stop: CancellationToken,
) -> Result<ImageInfo, CliError> {
    let (image, _) = make(options, progress, stop).await?;
    Ok(info(&Store::from_environment(), &image))
}

pub(super) async fn ls() -> Result<Vec<ImageInfo>, CliError> {
    let store = Store::from_environment();
    let images = store.ls().map_err(image_error("list the images"))?;
    Ok(images.iter().map(|image| info(&store, image)).collect())
}

pub(super) async fn rm(id: &str) -> Result<RemovedImage, CliError> {
    let store = Store::from_environment();
    let error = image_error("remove the image");
    let id = store.resolve(id).map_err(&error)?;
    // One that cannot be read goes all the same.
    let known = store.get(&id).ok().map(|image| info(&store, &image));
    store.rm(&id).map_err(&error)?;
    prune_saves().await?;
    Ok(RemovedImage { id, known })
}

pub(super) async fn prune(keep: usize) -> Result<PrunedImages, CliError> {
    let store = Store::from_environment();
    // Asked before: when an image was made is not known once it is gone.
    let infos = ls().await?;
    let pruned = store.prune(keep).map_err(image_error("remove old images"))?;
    let of = |images: &[Image]| -> Vec<ImageInfo> {
        infos.iter().filter(|info| images.iter().any(|image| image.id == info.id)).cloned().collect()
    };
    let (removed, in_use) = (of(&pruned.removed), of(&pruned.in_use));
    Ok(PrunedImages { removed, in_use, freed: pruned.freed + prune_saves().await? })
}

/// Removes saved memory of images that are gone; answers how many bytes that freed.
async fn prune_saves() -> Result<u64, CliError> {
    let error = |e: std::io::Error| failed("remove the saved memory of images that are gone", None, e);
    let root = instance::saves_root().map_err(error)?;
    let pruned = tokio::task::spawn_blocking(move || crate::vm::save::prune(&root)).await;
    let (_, freed) = pruned.map_err(std::io::Error::from).and_then(|done| done).map_err(error)?;
    Ok(freed)
}

pub(super) async fn verify(id: &str, progress: Progress) -> Result<ImageInfo, CliError> {
    let store = Store::from_environment();
    let error = image_error("verify the image");
    let image = store.get(id).map_err(&error)?;
    progress.begin(format!("hashing image {}", image.id.get(..12).unwrap_or_default()));
    store.verify(&image, Check::All).await.map_err(&error)?;
    Ok(info(&store, &image))
}

fn info(store: &Store, image: &Image) -> ImageInfo {
    let path = store.root().join("images").join(format!("{}.json", image.id));
    let made = std::fs::metadata(&path).and_then(|meta| meta.modified()).ok();
    let made = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    ImageInfo {
        id: image.id.clone(),
        recipe: image.manifest.suite.clone(),
        arch: image.manifest.arch,
        size: image.manifest.parts().iter().map(|(_, part)| part.size).sum(),
        made_ms: u64::try_from(made.as_millis()).unwrap_or(u64::MAX),
        path,
        lock: store.part(&image.manifest.lock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_another_architecture_than_the_first_have_an_image_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        let pool = |name: &str, arch: &str| {
            format!("[[pools]]\nname = {name:?}\nbackend = \"vm\"\narch = {arch:?}\ncount = 2\n")
        };
        let pools = [pool("a", "aarch64"), pool("b", "x86_64"), pool("c", "aarch64")];
        fs::write(&path, format!("name = \"lab\"\n{}", pools.concat())).unwrap();
        let load = |arch| crate::config::lab::load(&path, arch, None).unwrap();
        let others = ["lab-b-1", "lab-b-2"].map(|id| DeviceId::new(id).unwrap());
        assert_eq!(other_machines(&load(None)), BTreeMap::from([(Arch::X86_64, others.to_vec())]));
        assert_eq!(other_machines(&load(Some(Arch::X86_64))), BTreeMap::new(), "--arch is for all");
    }
}
