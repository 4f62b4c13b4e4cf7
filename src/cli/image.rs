//! `pilab image`: boot images of this machine.

use super::args::{ImageCommand, JsonArgs};
use super::error::CliError;
use super::exit::Exit;
use super::local::{ImageInfo, ImageOptions, Local, PrunedImages, RemovedImage};
use super::progress::Screen;
use super::run::Interrupts;
use super::table::{Align, columns};
use super::ui::Ui;
use crate::support::clock;

/// How much of an id tables show: enough to name it by.
const SHORT_ID: usize = 12;

/// Does one of the commands on images.
pub async fn image(local: &dyn Local, command: ImageCommand, ui: Ui) -> Result<Exit, CliError> {
    let screen = Screen::new(ui);
    match command {
        ImageCommand::Build(args) => {
            let interrupts = Interrupts::listen();
            let options = ImageOptions {
                recipe: args.recipe,
                arch: args.arch,
                agent: args.agent,
                mirror: args.mirror,
                lock: args.lock,
            };
            let image = tokio::select! {
                image = local.image_build(options, screen.local(), interrupts.stop.clone()) => image?,
                () = interrupts.leave() => return Err(CliError::Cancelled),
            };
            print(&[image], args.json, ui)?;
        }
        ImageCommand::Ls(json) => print(&local.image_ls().await?, json, ui)?,
        ImageCommand::Rm(args) => {
            let RemovedImage { id, known } = local.image_rm(&args.id).await?;
            ui.note("removed:");
            match known {
                Some(image) => print(&[image], args.json, ui)?,
                None if args.json.json => ui.json(&serde_json::json!({ "id": id }))?,
                None => ui.data(&format!("{id}, which could not be read\n"))?,
            }
        }
        ImageCommand::Prune(args) => {
            let PrunedImages { removed, in_use, freed } = local.image_prune(args.keep).await?;
            ui.note(&format!("removed {} images, freed {} MiB", removed.len(), freed >> 20));
            for image in in_use {
                let id = image.id.get(..SHORT_ID).unwrap_or(&image.id);
                ui.note(&format!("image {id} is in use and stays"));
            }
            if args.json.json || !removed.is_empty() {
                print(&removed, args.json, ui)?;
            }
        }
        ImageCommand::Verify(args) => {
            let image = local.image_verify(&args.id, screen.local()).await?;
            ui.note("every file is as its manifest says:");
            print(&[image], args.json, ui)?;
        }
    }
    Ok(Exit::Ok)
}

fn print(images: &[ImageInfo], json: JsonArgs, ui: Ui) -> Result<(), CliError> {
    if json.json {
        return images.iter().try_for_each(|image| ui.json(image));
    }
    if images.is_empty() {
        ui.note("no images yet");
        ui.hint("pilab image build makes one");
        return Ok(());
    }
    ui.data(&table(images, clock::wall_ms()))
}

fn table(images: &[ImageInfo], now_ms: u64) -> String {
    let mut rows = vec![["id", "recipe", "arch", "MiB", "age"].map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(|image| {
        vec![
            image.id.chars().take(SHORT_ID).collect(),
            image.recipe.clone(),
            image.arch.to_string(),
            image.size.div_ceil(1 << 20).to_string(),
            age(now_ms.saturating_sub(image.made_ms)),
        ]
    }));
    columns(&rows, &[Align::Left, Align::Left, Align::Left, Align::Right, Align::Right], 0)
}

/// Whole units, the largest that is not zero.
fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::Arch;

    #[test]
    fn images_are_listed_by_what_names_them() {
        let image = ImageInfo {
            id: "3f9c".repeat(16),
            recipe: "trixie".into(),
            arch: Arch::Aarch64,
            size: 180 << 20,
            made_ms: 1_000_000,
            path: "/x".into(),
            lock: "/y".into(),
        };
        insta::assert_snapshot!(table(&[image], 1_000_000 + 7_200_000), @r#"
        id            recipe  arch     MiB  age
        3f9c3f9c3f9c  trixie  aarch64  180  2 h
        "#);
    }
}
