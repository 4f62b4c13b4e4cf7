//! Boards switched on one after the other, and listened to: `plan::enroll` says what follows from what was heard.

use super::devices::Layer;
use super::failed;
use super::instance::Instance;
use super::netboot::serve_dhcp;
use crate::cli::error::CliError;
use crate::cli::local::{EnrollOptions, Progress};
use crate::config::lab::{self, Lab};
use crate::config::wiring::WiredDevice;
use crate::device::MIN_OFF;
use crate::device::ports::Power;
use crate::model::id::DeviceId;
use crate::model::lease::FencingToken;
use crate::model::power::PowerState;
use crate::model::wiring::{ConsoleLine, PowerSwitch};
use crate::netboot::dhcp::{DhcpEvent, DhcpNews};
use crate::plan::enroll::{Ears, Enrolled, Heard, judge};
use crate::support::lock::lock;
use crate::{power, serial};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long it is listened on when something of everything was heard, for what is heard besides.
const FURTHER: Duration = Duration::from_secs(3);
/// No lease has such a token: the lab has no coordinator meanwhile.
const TOKEN: FencingToken = FencingToken { epoch: 0, sequence: 1 };

const MAY_BE_ON: &str =
    "a board may be on: switch it off by hand, or run this again, which begins with all boards off";

/// A board and its switch.
struct Board {
    device: DeviceId,
    power: Arc<dyn Power>,
    min_off: Duration,
}

/// What is heard, from whom on.
#[derive(Default)]
struct Ear {
    heard: Mutex<Heard>,
    news: Notify,
}

/// Looks at the boards of `options`; all of them are off in the end, whatever becomes of it.
pub(super) async fn enroll(
    options: EnrollOptions,
    progress: Progress,
    stop: CancellationToken,
) -> Result<Vec<Enrolled>, CliError> {
    let lab = lab::load(&options.lab, None, None)?;
    let boards = chosen(&lab, &options.devices)?;
    let instance = Instance::open(&lab.name).map_err(|e| failed("prepare a place for the lab", None, e))?;
    let Some(_held) = instance else {
        let hint = Some("end it first: what it captures and switches is what is looked at here".to_owned());
        return Err(failed(
            "enroll boards",
            hint,
            format!("lab {} has a coordinator on this machine", lab.name),
        ));
    };
    let (ear, mut listeners) = (Arc::new(Ear::default()), JoinSet::new());
    let server = Layer::default();
    let _over = server.token.clone().drop_guard();
    let cards = match &lab.netboot {
        Some(settings) => {
            // It knows nobody, so it answers nobody.
            let news = serve_dhcp(settings, Vec::new(), None, &server)?;
            listeners.spawn(hear_cards(news, Arc::clone(&ear)));
            true
        }
        None => false,
    };
    for tty in &options.ttys {
        listeners.spawn(hear_line(tty.clone(), options.baud, Arc::clone(&ear)));
    }
    let ears = Ears { cards, lines: !options.ttys.is_empty() };
    if !ears.cards && !ears.lines {
        let hint = Some("add [netboot] to the lab file, or name serial lines with --tty".to_owned());
        return Err(failed("enroll boards", hint, "there is nothing to listen to"));
    }
    let looked = look(&boards, ears, &ear, &options, &progress, &stop).await;
    match (looked, all_off(&boards).await) {
        // Whoever stopped it has to know of a board that stays on.
        (Ok(_) | Err(CliError::Cancelled), Err(error)) => Err(error.with_hint(MAY_BE_ON)),
        (looked, _) => looked,
    }
}

fn chosen(lab: &Lab, asked: &[String]) -> Result<Vec<Board>, CliError> {
    let named =
        |id: &str| lab.wired.iter().find(|wired| wired.device.id.as_str() == format!("{}-{id}", lab.name));
    let wired: Vec<&WiredDevice> = if asked.is_empty() {
        lab.wired.iter().filter(|wired| !matches!(wired.power, PowerSwitch::None)).collect()
    } else {
        let found = asked.iter().map(|id| named(id).ok_or_else(|| unknown(lab, id)));
        found.collect::<Result<_, CliError>>()?
    };
    if wired.is_empty() {
        let hint = Some("describe the switches first: docs/wiring.md".to_owned());
        return Err(failed("enroll boards", hint, "no device of the lab file has a power switch"));
    }
    let open = |wired: &WiredDevice| {
        let device = wired.device.id.clone();
        let power = power::open(device.clone(), wired.power.clone()).map_err(|error| {
            let hint = error.hint();
            failed(format!("use the power switch of {device}"), hint, error)
        })?;
        Ok(Board { device, power, min_off: wired.min_off.unwrap_or(MIN_OFF) })
    };
    wired.into_iter().map(open).collect()
}

fn unknown(lab: &Lab, id: &str) -> CliError {
    let known: Vec<&str> = lab.wired.iter().map(|wired| wired.device.id.as_str()).collect();
    CliError::Usage {
        what: format!("lab {} has no device {id:?}", lab.name),
        hint: Some(format!("it has {}, by what follows {}-", known.join(", "), lab.name)),
    }
}

/// It is stopped while it waits, never while it switches: a relay that is told to open must not be told by a request from
/// before to close.
async fn look(
    boards: &[Board],
    ears: Ears,
    ear: &Ear,
    options: &EnrollOptions,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Vec<Enrolled>, CliError> {
    progress.begin("all boards off");
    all_off(boards).await?;
    let quiet = boards.iter().map(|board| board.min_off).max().unwrap_or(MIN_OFF);
    pause(quiet, stop).await?;
    // What is said now is nobody's: what was under way when the power went has come by now.
    ear.take();
    pause(FURTHER, stop).await?;
    let noise: BTreeSet<String> = ear.take().lines;
    let mut all = Vec::new();
    for (number, board) in (0..).zip(boards) {
        progress.begin(format!("{} alone", board.device));
        progress.at(number, boards.len() as u64);
        ear.take();
        switch(board, PowerState::On).await?;
        let until = Instant::now() + options.within;
        let enough = async {
            while !ear.has(ears, &noise) {
                ear.news.notified().await;
            }
            sleep(FURTHER).await;
        };
        // In vain is an answer too.
        let listened = timeout(until - Instant::now(), enough);
        let _ = stop.run_until_cancelled(listened).await.ok_or(CliError::Cancelled)?;
        let heard = ear.take();
        switch(board, PowerState::Off).await?;
        pause(board.min_off, stop).await?;
        all.push((board.device.clone(), heard));
    }
    Ok(judge(ears, &noise, &all))
}

async fn pause(length: Duration, stop: &CancellationToken) -> Result<(), CliError> {
    stop.run_until_cancelled(sleep(length)).await.ok_or(CliError::Cancelled)
}

/// Also those after one that cannot be switched; the first failure is told.
async fn all_off(boards: &[Board]) -> Result<(), CliError> {
    let mut first = Ok(());
    for board in boards {
        first = first.and(switch(board, PowerState::Off).await);
    }
    first
}

async fn switch(board: &Board, state: PowerState) -> Result<(), CliError> {
    board
        .power
        .set(TOKEN, state)
        .await
        .map_err(|error| failed(format!("switch {} {state}", board.device), None, error))
}

impl Ear {
    fn take(&self) -> Heard {
        std::mem::take(&mut *lock(&self.heard))
    }

    fn note(&self, note: impl FnOnce(&mut Heard)) {
        note(&mut lock(&self.heard));
        self.news.notify_one();
    }

    /// Whether something of everything was heard.
    fn has(&self, ears: Ears, noise: &BTreeSet<String>) -> bool {
        let heard = lock(&self.heard);
        (!ears.cards || !heard.cards.is_empty())
            && (!ears.lines || heard.lines.difference(noise).next().is_some())
    }
}

async fn hear_cards(mut news: mpsc::Receiver<DhcpEvent>, ear: Arc<Ear>) {
    while let Some(event) = news.recv().await {
        // Nobody is known here, so everybody is a stranger.
        if let DhcpNews::Stranger { mac, serial, .. } = event.what {
            ear.note(|heard| {
                heard.cards.insert(mac.to_string(), serial);
            });
        }
    }
}

/// Until the end of all; a line that is gone is opened again.
async fn hear_line(path: PathBuf, baud: u32, ear: Arc<Ear>) {
    let port = serial::line(ConsoleLine::Tty { path: path.clone(), baud });
    let (name, mut buffer) = (path.display().to_string(), [0; 1024]);
    loop {
        match port.open().await {
            Ok(mut line) => {
                while let Ok(read @ 1..) = line.read(&mut buffer).await {
                    // A line that floats, or whose board loses its power, gives a few bytes of nothing.
                    let spoke = buffer.iter().take(read).filter(|byte| byte.is_ascii_graphic()).count();
                    if spoke > 0 {
                        ear.note(|heard| {
                            heard.lines.insert(name.clone());
                        });
                    }
                }
            }
            Err(error) => tracing::warn!(line = name, %error, "cannot be listened to"),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ports::PortFuture;
    use crate::model::power::PowerReading;

    /// A relay that takes a second, and what it was told.
    #[derive(Default)]
    struct Slow(Mutex<Vec<String>>);

    impl Power for Slow {
        fn set(&self, _: FencingToken, state: PowerState) -> PortFuture<'_, ()> {
            Box::pin(async move {
                lock(&self.0).push(format!("{state}"));
                sleep(Duration::from_secs(1)).await;
                lock(&self.0).push(format!("{state}, done"));
                Ok(())
            })
        }

        fn get(&self) -> PortFuture<'_, PowerReading> {
            Box::pin(async { Ok(PowerReading::Unknown) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_it_waits_for_the_relay_that_switches() {
        let slow = Arc::new(Slow::default());
        let device = DeviceId::new("lab-pi").unwrap();
        let boards = [Board { device, power: slow.clone(), min_off: Duration::ZERO }];
        let (ears, ear, stop) =
            (Ears { cards: false, lines: true }, Ear::default(), CancellationToken::new());
        let options = EnrollOptions {
            lab: PathBuf::new(),
            devices: Vec::new(),
            ttys: Vec::new(),
            baud: 115_200,
            within: Duration::from_secs(60),
        };
        let progress = Progress::new(|_| ());
        let stopping = async {
            while lock(&slow.0).last().is_none_or(|last| last != "on") {
                sleep(Duration::from_millis(10)).await;
            }
            stop.cancel();
        };
        let (looked, ()) = tokio::join!(look(&boards, ears, &ear, &options, &progress, &stop), stopping);
        assert!(matches!(looked, Err(CliError::Cancelled)));
        assert_eq!(*lock(&slow.0), ["off", "off, done", "on", "on, done"]);
    }
}
