//! The only place that joins ports to adapters.

mod boots;
mod clock;
mod devices;
mod doctor;
mod enroll;
mod gates;
mod ground;
mod image;
mod instance;
mod keep;
mod lab;
mod nats;
mod netboot;
mod policy;
mod reload;
mod setup;
mod simulated;
mod wired;

use crate::cli::doctor::Finding;
use crate::cli::error::CliError;
use crate::cli::local::{
    EnrollOptions, ImageInfo, ImageOptions, LabOptions, Local, LocalFuture, Progress, PrunedImages,
    RemovedImage, RunningLab, SetUp, SetupOptions, ShownKey,
};
use crate::model::relay::{GpioPin, Level, PinState};
use crate::plan::enroll::Enrolled;
use crate::power::gpio::{self, Line};
use std::any::Any;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// What this machine can do for the command line.
pub fn local() -> impl Local {
    ThisMachine
}

struct ThisMachine;

impl Local for ThisMachine {
    fn start_lab<'a>(
        &'a self,
        options: LabOptions,
        progress: Progress,
        stop: CancellationToken,
    ) -> LocalFuture<'a, Result<Box<dyn RunningLab>, CliError>> {
        Box::pin(lab::start(options, progress, stop))
    }

    fn logins(&self) -> Result<Vec<PathBuf>, CliError> {
        let labs =
            instance::lasting().map_err(|e| failed("look for coordinators on this machine", None, e))?;
        Ok(labs.into_iter().map(|dir| dir.join(lab::LOGIN)).filter(|path| path.is_file()).collect())
    }

    fn state_dir(&self) -> Result<PathBuf, CliError> {
        instance::state_root().map_err(|e| failed("find the state directory", None, e))
    }

    fn examine<'a>(&'a self, lab: &'a Path) -> LocalFuture<'a, Vec<Finding>> {
        Box::pin(doctor::examine(lab))
    }

    fn pin_look(&self, pin: &GpioPin) -> Result<PinState, CliError> {
        gpio::look(pin).map_err(|error| failed(format!("look at {pin}"), error.hint(), error))
    }

    fn pin_hold(
        &self,
        pin: &GpioPin,
        level: Option<Level>,
    ) -> Result<(Level, Box<dyn Any + Send + Sync>), CliError> {
        let taken = Line::take(pin).and_then(|line| {
            level.map_or(Ok(()), |level| line.set(level))?;
            Ok((line.level()?, line))
        });
        match taken {
            Ok((level, line)) => Ok((level, Box::new(line))),
            Err(error) => Err(failed(format!("take {pin}"), error.hint(), error)),
        }
    }

    fn enroll<'a>(
        &'a self,
        options: EnrollOptions,
        progress: Progress,
        stop: CancellationToken,
    ) -> LocalFuture<'a, Result<Vec<Enrolled>, CliError>> {
        Box::pin(enroll::enroll(options, progress, stop))
    }

    fn host_key<'a>(&'a self, options: &'a SetupOptions) -> LocalFuture<'a, Result<ShownKey, CliError>> {
        Box::pin(setup::host_key(options))
    }

    fn set_up<'a>(
        &'a self,
        options: &'a SetupOptions,
        key: &'a ShownKey,
        progress: Progress,
    ) -> LocalFuture<'a, Result<Box<dyn SetUp>, CliError>> {
        Box::pin(setup::look(options, key, progress))
    }

    fn image_build<'a>(
        &'a self,
        options: ImageOptions,
        progress: Progress,
        stop: CancellationToken,
    ) -> LocalFuture<'a, Result<ImageInfo, CliError>> {
        Box::pin(image::build(options, progress, stop))
    }

    fn image_ls(&self) -> LocalFuture<'_, Result<Vec<ImageInfo>, CliError>> {
        Box::pin(image::ls())
    }

    fn image_rm<'a>(&'a self, id: &'a str) -> LocalFuture<'a, Result<RemovedImage, CliError>> {
        Box::pin(image::rm(id))
    }

    fn image_prune(&self, keep: usize) -> LocalFuture<'_, Result<PrunedImages, CliError>> {
        Box::pin(image::prune(keep))
    }

    fn image_verify<'a>(
        &'a self,
        id: &'a str,
        progress: Progress,
    ) -> LocalFuture<'a, Result<ImageInfo, CliError>> {
        Box::pin(image::verify(id, progress))
    }
}

/// An error of this machine, in the command line's terms.
fn failed(
    doing: impl Into<String>,
    hint: Option<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> CliError {
    CliError::Local { doing: doing.into(), source: source.into(), hint }
}
