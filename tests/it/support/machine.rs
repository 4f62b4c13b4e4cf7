//! This machine as the command line knows it, with a scripted lab and nothing else.

use super::scripted::{Script, ScriptedLab};
use pilab::cli::doctor::Finding;
use pilab::cli::error::CliError;
use pilab::cli::local::{
    EnrollOptions, ImageInfo, ImageOptions, LabOptions, Local, LocalFuture, Progress, PrunedImages,
    RemovedImage, RunningLab, SetUp, SetupOptions, ShownKey,
};
use pilab::model::relay::{GpioPin, Level, PinState};
use pilab::plan::enroll::Enrolled;
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_util::sync::CancellationToken;

/// This machine, for the command line: it can start the scripted lab and nothing else.
pub struct ScriptedMachine {
    script: Script,
    /// How many labs were ended.
    pub ended: Arc<AtomicUsize>,
}

impl ScriptedMachine {
    pub fn new(script: Script) -> Self {
        Self { script, ended: Arc::default() }
    }

    pub async fn lab(&self) -> ScriptedLab {
        ScriptedLab::start(self.script.clone(), self.ended.clone()).await
    }

    pub fn labs_ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

fn not_here<T>() -> LocalFuture<'static, Result<T, CliError>> {
    Box::pin(async { Err(CliError::local("do that", "this is a test")) })
}

impl Local for ScriptedMachine {
    fn start_lab<'a>(
        &'a self,
        _: LabOptions,
        progress: Progress,
        _: CancellationToken,
    ) -> LocalFuture<'a, Result<Box<dyn RunningLab>, CliError>> {
        Box::pin(async move {
            progress.begin("starting the scripted lab");
            let lab: Box<dyn RunningLab> = Box::new(self.lab().await);
            Ok(lab)
        })
    }

    fn logins(&self) -> Result<Vec<PathBuf>, CliError> {
        Ok(Vec::new())
    }

    fn state_dir(&self) -> Result<PathBuf, CliError> {
        Err(CliError::local("find the state directory", "this is a test"))
    }

    fn examine<'a>(&'a self, _: &'a Path) -> LocalFuture<'a, Vec<Finding>> {
        Box::pin(async { vec![Finding::good("script", "it is one")] })
    }

    fn pin_look(&self, _: &GpioPin) -> Result<PinState, CliError> {
        Err(CliError::local("do that", "this is a test"))
    }

    fn pin_hold(
        &self,
        _: &GpioPin,
        _: Option<Level>,
    ) -> Result<(Level, Box<dyn Any + Send + Sync>), CliError> {
        Err(CliError::local("do that", "this is a test"))
    }

    fn enroll<'a>(
        &'a self,
        _: EnrollOptions,
        _: Progress,
        _: CancellationToken,
    ) -> LocalFuture<'a, Result<Vec<Enrolled>, CliError>> {
        not_here()
    }

    fn host_key<'a>(&'a self, _: &'a SetupOptions) -> LocalFuture<'a, Result<ShownKey, CliError>> {
        not_here()
    }

    fn set_up<'a>(
        &'a self,
        _: &'a SetupOptions,
        _: &'a ShownKey,
        _: Progress,
    ) -> LocalFuture<'a, Result<Box<dyn SetUp>, CliError>> {
        not_here()
    }

    fn image_build<'a>(
        &'a self,
        _: ImageOptions,
        _: Progress,
        _: CancellationToken,
    ) -> LocalFuture<'a, Result<ImageInfo, CliError>> {
        not_here()
    }

    fn image_ls(&self) -> LocalFuture<'_, Result<Vec<ImageInfo>, CliError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn image_rm<'a>(&'a self, _: &'a str) -> LocalFuture<'a, Result<RemovedImage, CliError>> {
        not_here()
    }

    fn image_prune(&self, _: usize) -> LocalFuture<'_, Result<PrunedImages, CliError>> {
        not_here()
    }

    fn image_verify<'a>(&'a self, _: &'a str, _: Progress) -> LocalFuture<'a, Result<ImageInfo, CliError>> {
        not_here()
    }
}
