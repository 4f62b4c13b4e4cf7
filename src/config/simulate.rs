//! `[simulate]` of a lab file and of its devices: boards that are there in software alone.

use super::error::ConfigError;
use super::raw::{RawDuration, Source};
use super::wiring::Wrong;
use crate::model::boot::BootStage;
use crate::model::device::Model;
use crate::model::simulation::{ScriptedFault, SimFault, SimTarget, Simulation, UefiBoot};
use serde::Deserialize;
use std::path::PathBuf;
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
            Some(inrush) if *inrush.get_ref() == 0 => Err(source.value(
                &inrush.span(),
                "simulate.inrush",
                "a supply that bears no board feeds none",
            )),
            inrush => Ok(Simulated { inrush: inrush.map(Spanned::into_inner) }),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSimulate {
    #[serde(default)]
    target: RawTarget,
    stub: Option<PathBuf>,
    #[serde(default)]
    faults: Vec<RawFault>,
    holds: Option<RawDuration>,
    memory_mib: Option<u32>,
    uefi: Option<RawUefi>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawUefi {
    Pxe,
    Http,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawTarget {
    #[default]
    Virt,
    #[serde(rename = "raspi3b")]
    Raspi3b,
    Rom,
    Stub,
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
pub(super) fn check(raw: RawSimulate, model: Model, has_serial: bool) -> Result<Simulation, Wrong> {
    match model {
        Model::Pi3B if !has_serial => {
            return Err((
                "",
                "a pi3b asks for its files by its serial number: `serial` is missing".to_owned(),
            ));
        }
        Model::Pi3B | Model::Pi4B | Model::Cm4 | Model::Pi5 if raw.uefi.is_some() => {
            return Err((".uefi", format!("a {model} has none")));
        }
        Model::Pi3B | Model::Pi4B | Model::Cm4 | Model::Pi5 | Model::UefiArm64 => {}
        other => {
            let can = "pi3b, pi4b, cm4, pi5 and uefi-arm64 can";
            return Err(("", format!("a {other} cannot be simulated: {can}")));
        }
    }
    let has_uefi = model == Model::UefiArm64;
    let target = match (raw.target, raw.stub) {
        (RawTarget::Virt, None) => SimTarget::Virt,
        (RawTarget::Raspi3b, None) if model == Model::Pi3B => SimTarget::Raspi3b,
        (RawTarget::Raspi3b, None) => {
            return Err((".target", format!("raspi3b has the chip of a pi3b, and this is a {model}")));
        }
        (RawTarget::Rom, None) => SimTarget::Rom,
        (RawTarget::Stub, Some(program)) if program.is_absolute() => SimTarget::Stub(program),
        (RawTarget::Stub, Some(program)) => {
            return Err((".stub", format!("{} is no absolute path", program.display())));
        }
        (RawTarget::Stub, None) => {
            return Err((".target", "a stub is a program of this host: `stub` is missing".to_owned()));
        }
        (RawTarget::Virt | RawTarget::Raspi3b | RawTarget::Rom, Some(_)) => {
            return Err((".stub", "it is for target = \"stub\" alone".to_owned()));
        }
    };
    if has_uefi && target != SimTarget::Virt {
        return Err((".target", "UEFI runs on QEMU: there is no boot ROM to stop after".to_owned()));
    }
    let uefi = match raw.uefi {
        Some(RawUefi::Http) => UefiBoot::Http,
        Some(RawUefi::Pxe) | None => UefiBoot::Pxe,
    };
    if raw.faults.len() > MAX_FAULTS {
        return Err((".faults", format!("there are more than {MAX_FAULTS}")));
    }
    let mut faults = Vec::new();
    for fault in raw.faults {
        let fault = fault.check().map_err(|cause| (".faults", cause))?;
        if has_uefi && fault.fault.is_of_a_boot_rom() {
            let cause = "only brown-out, uart-pulled, dead-uart, welded and chatters are of a machine whose UEFI is not ours";
            return Err((".faults", cause.to_owned()));
        }
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
    if target == SimTarget::Raspi3b && raw.memory_mib.is_some() {
        return Err((".memory_mib", "a raspi3b has what a Pi 3 has, 1024".to_owned()));
    }
    let memory_mib = raw.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB);
    if !(256..=8192).contains(&memory_mib) {
        return Err((".memory_mib", format!("{memory_mib} is not between 256 and 8192")));
    }
    Ok(Simulation { target, faults, holds, memory_mib, uefi })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::lab::{Lab, load};
    use crate::model::device::{Backend, Capability};
    use std::path::Path;

    fn load_text(text: &str) -> Result<Lab, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        std::fs::write(&path, text).unwrap();
        load(&path, None, None).map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), ""))
    }

    const BOARD: &str = "name = \"l\"\n[netboot]\naddress = \"10.77.0.1\"\n[[devices]]\nid = \"a\"\nmodel = \"pi4b\"\n\
        boot = \"netboot\"\nmac = \"dc:a6:32:00:00:01\"\naddress = \"10.77.0.11\"\n";

    #[test]
    fn a_simulated_board_has_power_and_a_console_of_the_rack() {
        let lab = load_text(&format!(
            "{BOARD}[devices.simulate]\ntarget = \"rom\"\nholds = \"300ms\"\nfaults = [\n\
             {{ kind = \"stp-delay\", for = \"30s\" }},\n{{ kind = \"brown-out\", at = \"firmware\", boots = 1 }},\n\
             {{ kind = \"welded\" }},\n]\n[simulate]\ninrush = 4\n"
        ))
        .unwrap();
        assert_eq!(lab.simulated.inrush, Some(4));
        let wired = &lab.wired[0];
        assert_eq!((lab.backend(None), wired.device.backend), (Some(Backend::Sim), Backend::Sim));
        assert_eq!(lab.backend(Some(Backend::Pi)), None, "what passes on it has not passed on a Pi");
        for capability in [Capability::Power, Capability::Console, Capability::Boot, Capability::Reboot] {
            assert!(wired.device.capabilities.contains(&capability), "{capability}");
        }
        let simulation = wired.simulation.as_ref().unwrap();
        assert_eq!(
            (simulation.target.clone(), simulation.holds),
            (SimTarget::Rom, Duration::from_millis(300))
        );
        let faults = |boot| simulation.faults(boot).cloned().collect::<Vec<_>>();
        let always = [SimFault::StpDelay(Duration::from_secs(30)), SimFault::Welded];
        assert_eq!(faults(2), always);
        assert_eq!(faults(1)[1], SimFault::BrownOut(BootStage::Firmware));
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_key() {
        let fault =
            |fault: &str| format!("{BOARD}[devices.simulate]\ntarget = \"rom\"\nfaults = [{{ {fault} }}]\n");
        let at = "/lab.toml:10: devices[0].simulate";
        let simulate = |text: &str| format!("{BOARD}[devices.simulate]\n{text}\n");
        let table = [
            (
                simulate("target = \"raspi4b\""),
                "/lab.toml:11:10: devices[0].simulate.target: unknown variant `raspi4b`".to_owned(),
            ),
            (
                simulate("target = \"raspi3b\""),
                format!("{at}.target: raspi3b has the chip of a pi3b, and this"),
            ),
            (simulate("target = \"stub\""), format!("{at}.target: a stub is a program of this host")),
            (simulate("target = \"stub\"\nstub = \"a\""), format!("{at}.stub: a is no absolute path")),
            (simulate("stub = \"/a\""), format!("{at}.stub: it is for target = \"stub\" alone")),
            (simulate("memory_mib = 1"), format!("{at}.memory_mib: 1 is not between 256 and 8192")),
            (simulate("holds = \"2m\""), format!("{at}.holds: 120s is more than 60s")),
            (fault("kind = \"gremlins\""), "/lab.toml:12:".to_owned()),
            (fault("kind = \"welded\", boots = 1"), "/lab.toml:12:".to_owned()),
            (fault("kind = \"stp-delay\", for = \"1h\""), format!("{at}.faults: 3600s is more than 600s")),
            (fault("kind = \"lost-packets\", every = 1"), format!("{at}.faults: every 1 is not 2 or more")),
            (
                fault("kind = \"rom-stall\", at = \"a b\""),
                format!("{at}.faults: \"a b\" is no boot file's name"),
            ),
            (fault("kind = \"no-link\", boots = 0"), format!("{at}.faults: boots = 0 is none")),
            (
                fault("kind = \"brown-out\", at = \"kernel\""),
                format!("{at}.faults: a board that stops after"),
            ),
            (simulate("uefi = \"pxe\""), format!("{at}.uefi: a pi4b has none")),
            (
                fault("kind = \"welded\"").replace("pi4b", "uefi-arm64"),
                format!("{at}.target: UEFI runs on QEMU"),
            ),
            (
                simulate("faults = [{ kind = \"no-link\" }]").replace("pi4b", "uefi-arm64"),
                format!("{at}.faults: only brown-out"),
            ),
            (
                BOARD.replace("pi4b", "uefi-arm64"),
                "/lab.toml:4: devices[0].model: a uefi-arm64 is known in a virtual rack alone".to_owned(),
            ),
            (simulate("").replace("pi4b", "pi500"), format!("{at}: a pi500 cannot be simulated")),
            (simulate("").replace("pi4b", "pi3b"), format!("{at}: a pi3b asks for its files by its serial")),
            (
                simulate("").replace("boot = \"netboot\"", "boot = \"self\""),
                "/lab.toml:10: devices[0].boot: what is simulated boots from the lab".to_owned(),
            ),
            (
                simulate("").replace("mac =", "console = { unix = \"/x\" }\nmac ="),
                "/lab.toml:11: devices[0].console: what is simulated has that".to_owned(),
            ),
            (
                format!("{BOARD}[devices.simulate]\n[simulate]\ninrush = 0\n"),
                "/lab.toml:12: simulate.inrush: a supply that".to_owned(),
            ),
        ];
        for (text, expected) in table {
            let error = load_text(&text).unwrap_err();
            assert!(error.starts_with(&expected), "{error:?}, not {expected:?} of\n{text}");
        }
    }

    #[test]
    fn the_shipped_rack_can_be_loaded() {
        let lab = load(Path::new("lab/virtual-rack.toml"), None, None).unwrap();
        let models: Vec<Model> = lab.wired.iter().map(|wired| wired.device.model).collect();
        assert!(
            models.contains(&Model::Pi3B) && models.contains(&Model::Pi4B) && models.contains(&Model::Pi5)
        );
        assert!(lab.wired.iter().all(|wired| wired.simulation.is_some()));
    }
}
