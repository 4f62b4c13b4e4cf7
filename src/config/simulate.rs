//! `[simulate]` of a lab file and of its devices: boards that are there in software alone.

use super::error::ConfigError;
use super::raw::{RawDuration, Source};
use super::wiring::Wrong;
use crate::model::boot::BootStage;
use crate::model::simulation::{ScriptedFault, SimFault, SimTarget, Simulation};
use serde::Deserialize;
use std::time::Duration;
use toml::Spanned;

/// Memory of a simulated board's kernel when the file does not say, in MiB: what the smallest Pi that netboots has.
const DEFAULT_MEMORY_MIB: u32 = 1024;
/// The most faults of one board.
const MAX_FAULTS: usize = 16;
/// The longest that a fault lasts.
const MAX_FOR: Duration = Duration::from_secs(600);
/// The longest that capacitors hold.
const MAX_HOLDS: Duration = Duration::from_secs(60);
/// The longest name of a boot file, in bytes.
const MAX_NAME: usize = 200;

/// What simulated boards share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Simulated {
    /// How many of them their supply bears starting at once; none for all.
    pub inrush: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSimulated {
    inrush: Option<Spanned<usize>>,
}

impl RawSimulated {
    pub(super) fn check(self, source: &Source) -> Result<Simulated, ConfigError> {
        match self.inrush {
            Some(inrush) if *inrush.get_ref() == 0 => {
                Err(source.value(&inrush.span(), "simulate.inrush", "a supply that bears no board feeds none"))
            }
            inrush => Ok(Simulated { inrush: inrush.map(Spanned::into_inner) }),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSimulate {
    #[serde(default)]
    target: RawTarget,
    #[serde(default)]
    faults: Vec<RawFault>,
    holds: Option<RawDuration>,
    memory_mib: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawTarget {
    #[default]
    Virt,
    Rom,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum RawFault {
    NoLink { boots: Option<u32> },
    StpDelay { r#for: RawDuration, boots: Option<u32> },
    LostPackets { every: u32, boots: Option<u32> },
    RomStall { at: String, boots: Option<u32> },
    CorruptFile { file: String, boots: Option<u32> },
    BrownOut { at: BootStage, boots: Option<u32> },
    UartPulled { at: BootStage, r#for: RawDuration, boots: Option<u32> },
    KernelPanic { boots: Option<u32> },
    DeadUart {},
    Welded {},
    Chatters {},
}

impl RawFault {
    /// With the number of boots that it is for, and the stage at which it begins.
    fn check(self) -> Result<ScriptedFault, String> {
        let (fault, boots) = match self {
            Self::NoLink { boots } => (SimFault::NoLink, boots),
            Self::StpDelay { r#for, boots } => (SimFault::StpDelay(bounded(r#for)?), boots),
            Self::LostPackets { every, boots } => {
                if every < 2 {
                    return Err(format!("every {every} is not 2 or more: no-link loses all"));
                }
                (SimFault::LostPackets(every), boots)
            }
            Self::RomStall { at, boots } => (SimFault::RomStall(file(at)?), boots),
            Self::CorruptFile { file: name, boots } => (SimFault::CorruptFile(file(name)?), boots),
            Self::BrownOut { at, boots } => (SimFault::BrownOut(at), boots),
            Self::UartPulled { at, r#for, boots } => (SimFault::UartPulled(at, bounded(r#for)?), boots),
            Self::KernelPanic { boots } => (SimFault::KernelPanic, boots),
            Self::DeadUart {} => (SimFault::DeadUart, None),
            Self::Welded {} => (SimFault::Welded, None),
            Self::Chatters {} => (SimFault::Chatters, None),
        };
        match boots {
            Some(0) => Err("boots = 0 is none: leave the fault out".to_owned()),
            boots => Ok(ScriptedFault { fault, boots }),
        }
    }
}

fn bounded(RawDuration(time): RawDuration) -> Result<Duration, String> {
    if time > MAX_FOR { Err(format!("{time:?} is more than {MAX_FOR:?}")) } else { Ok(time) }
}

/// A boot file's name below its prefix, as a board would ask for it.
fn file(name: String) -> Result<String, String> {
    let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(name) } else { Err(format!("{name:?} is no boot file's name, such as \"vmlinuz\"")) }
}

/// Checks a device's section; the key below it, and what is wrong with it.
pub(super) fn check(raw: RawSimulate) -> Result<Simulation, Wrong> {
    let target = match raw.target {
        RawTarget::Virt => SimTarget::Virt,
        RawTarget::Rom => SimTarget::Rom,
    };
    if raw.faults.len() > MAX_FAULTS {
        return Err((".faults", format!("there are more than {MAX_FAULTS}")));
    }
    let mut faults = Vec::new();
    for fault in raw.faults {
        let fault = fault.check().map_err(|cause| (".faults", cause))?;
        let stage = match fault.fault {
            SimFault::BrownOut(at) | SimFault::UartPulled(at, _) => Some(at),
            _ => None,
        };
        if let Some(at) = stage.filter(|at| target == SimTarget::Rom && *at > BootStage::Firmware) {
            return Err((".faults", format!("a board that stops after its boot loader never shows {at}")));
        }
        faults.push(fault);
    }
    let holds = raw.holds.map_or(Duration::ZERO, |holds| holds.0);
    if holds > MAX_HOLDS {
        return Err((".holds", format!("{holds:?} is more than {MAX_HOLDS:?}")));
    }
    let memory_mib = raw.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB);
    if !(256..=8192).contains(&memory_mib) {
        return Err((".memory_mib", format!("{memory_mib} is not between 256 and 8192")));
    }
    Ok(Simulation { target, faults, holds, memory_mib })
}
