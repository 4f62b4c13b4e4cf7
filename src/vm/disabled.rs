//! The same functions in a build without libvirt. A [`Host`] never exists here, so neither does a
//! device.

use super::error::VmError;
use super::{HostOptions, KeepInstructions, Seen, VmSpec};
use crate::console::port::{ByteStream, LineFuture};
use crate::device::ports::{Boot, BootOffer, PortFuture, Power};
use crate::model::device::Arch;
use crate::model::lease::FencingToken;
use crate::model::power::{PowerReading, PowerState};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

/// Answers [`VmError::NotEnabled`].
pub async fn look(_options: &HostOptions, _archs: &BTreeSet<Arch>) -> Result<Seen, VmError> {
    Err(VmError::NotEnabled)
}

/// Never exists in this build.
pub enum Host {}

impl Host {
    /// Answers [`VmError::NotEnabled`].
    #[expect(clippy::unused_async, reason = "the same function as in a build with libvirt")]
    pub async fn connect(_options: HostOptions) -> Result<Self, VmError> {
        Err(VmError::NotEnabled)
    }

    /// This host's address on the guests' network.
    pub fn gateway(&self) -> Ipv4Addr {
        match *self {}
    }

    /// Whether guests of an architecture can run here.
    pub async fn can_run(&self, _arch: Arch) -> Result<(), VmError> {
        match *self {}
    }

    /// A device of this host.
    pub async fn device(&self, _spec: VmSpec) -> Result<Arc<VmDevice>, VmError> {
        match *self {}
    }

    /// Removes what a crashed coordinator left behind.
    pub async fn sweep(&self) -> Result<Vec<String>, VmError> {
        match *self {}
    }

    /// Removes what is left of devices that the lab names no more.
    pub async fn remove_unnamed(&self) -> Result<Vec<String>, VmError> {
        match *self {}
    }

    /// The locks of the owners of our domains.
    pub async fn owner_locks(&self) -> Result<Vec<PathBuf>, VmError> {
        match *self {}
    }

    /// Removes every device of this host that was not kept.
    pub async fn close(&self) -> Result<(), VmError> {
        match *self {}
    }
}

/// Never exists in this build.
pub enum VmDevice {}

impl VmDevice {
    /// Its network card's address.
    pub fn mac(&self) -> &str {
        match *self {}
    }

    /// Its domain's name in libvirt.
    pub fn domain_name(&self) -> &str {
        match *self {}
    }

    /// Leaves the machine to a person.
    pub async fn keep(&self) -> Result<KeepInstructions, VmError> {
        match *self {}
    }

    /// How to attach to its console, and how to remove it.
    pub fn keep_instructions(&self) -> KeepInstructions {
        match *self {}
    }
}

impl Power for VmDevice {
    fn set(&self, _token: FencingToken, _state: PowerState) -> PortFuture<'_, ()> {
        match *self {}
    }

    fn get(&self) -> PortFuture<'_, PowerReading> {
        match *self {}
    }
}

impl Boot for VmDevice {
    fn offer(&self, _token: FencingToken, _offer: BootOffer) -> PortFuture<'_, ()> {
        match *self {}
    }

    fn withdraw(&self, _token: FencingToken) -> PortFuture<'_, ()> {
        match *self {}
    }
}

impl ByteStream for VmDevice {
    fn open(&self) -> LineFuture<'_> {
        match *self {}
    }
}
