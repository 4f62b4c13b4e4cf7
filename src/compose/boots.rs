//! What the devices of a lab boot: one image for most, others for machines of another architecture, boards and cards.

use super::clock::Clock;
use super::ground::{self, Ground};
use super::image;
use crate::cli::error::CliError;
use crate::cli::local::Progress;
use crate::config::lab::Lab;
use crate::coordinator::parts::BootImage;
use crate::model::device::Arch;
use crate::model::id::DeviceId;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the devices of a lab boot.
pub(super) struct BootImages {
    /// Those that share one.
    pub(super) common: BootImage,
    /// Machines of another architecture, boards and cards.
    pub(super) of: BTreeMap<DeviceId, Arc<BootImage>>,
}

impl BootImages {
    /// Finds and verifies them, or builds what is not there.
    pub(super) async fn ready(
        lab: &Lab,
        ground: &Ground,
        clock: &mut Clock,
        progress: Progress,
        stop: &CancellationToken,
    ) -> Result<Self, CliError> {
        clock.end("");
        clock.begin(ground.boots_title());
        let (common, note) = ground.boots(lab, progress.clone(), stop.clone()).await?;
        clock.end(note);
        let fits = matches!(ground, Ground::Vm(_)) && lab.devices.iter().all(|vm| vm.arch == Arch::Aarch64);
        let mut of = image::of_boards(lab, fits.then_some(&common), clock, progress.clone(), stop).await?;
        of.extend(ground::of_cards(lab).await?);
        if matches!(ground, Ground::Vm(_)) {
            of.extend(image::of_other_machines(lab, clock, progress, stop).await?);
        }
        Ok(Self { common, of })
    }

    /// Those of the virtual machines.
    pub(super) fn of_machines(&self, lab: &Lab) -> Vec<&BootImage> {
        let others = lab.devices.iter().filter_map(|machine| self.of.get(&machine.device.id));
        std::iter::once(&self.common).chain(others.map(Arc::as_ref)).collect()
    }
}
