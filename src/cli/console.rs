//! `pilab console`: reads a device's console from any offset, follows it, and writes what is typed.
//!
//! What was there comes by request, what comes by subscription; absolute offsets join the two. A chunk that begins
//! after the expected offset tells that something was missed, and it is asked for.

mod keys;
mod output;
mod pace;
mod terminal;

pub(super) use self::pace::speed;

use self::keys::{Keys, Press};
use self::output::Output;
use self::pace::Pace;
use self::terminal::RawTerminal;
use super::args::{ConsoleArgs, ConsoleStart};
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::login::connect;
use super::power::switch;
use super::run::Interrupts;
use super::ui::Ui;
use crate::bus::connect::Subscription;
use crate::model::id::DeviceId;
use crate::wire::console::{
    CONSOLE_BREAK, CONSOLE_READ, CONSOLE_WRITE, ChunkKind, ConsoleBreak, ConsoleChunk, ConsoleFrom,
    ConsolePage, ConsoleRead, ConsoleWrite,
};
use crate::wire::lending::{Power, PowerAct};
use std::io::IsTerminal;
use tokio::time::sleep;

/// Reads and writes a console.
pub async fn console(local: &dyn Local, args: ConsoleArgs, ui: Ui) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let live = client.subscribe_console(&args.device).await?;
    let from = match args.from {
        ConsoleStart::Start => ConsoleFrom::Start,
        ConsoleStart::Boot => ConsoleFrom::Boot,
        ConsoleStart::Now => ConsoleFrom::End,
    };
    let harmless = std::io::stdout().is_terminal() && !args.raw;
    let mut reader = Reader {
        client: &client,
        device: &args.device,
        output: Output::new(harmless, args.timestamps),
        ui,
        pace: args.replay.map(Pace::new),
        next: 0,
    };
    if args.dump || args.replay.is_some() {
        let interrupts = Interrupts::listen();
        return tokio::select! {
            done = reader.catch_up(from) => done.map(|()| Exit::Ok),
            () = interrupts.stop.cancelled() => Err(CliError::Cancelled),
        };
    }
    let interactive = !args.follow && std::io::stdin().is_terminal();
    let interrupts = Interrupts::listen();
    tokio::select! {
        done = reader.follow(from, live, interactive) => done,
        () = interrupts.stop.cancelled() => Ok(Exit::Ok),
    }
}

struct Reader<'a> {
    client: &'a Client,
    device: &'a DeviceId,
    output: Output,
    ui: Ui,
    /// How fast what is there is shown; none for at once.
    pace: Option<Pace>,
    /// The absolute offset of the next byte.
    next: u64,
}

impl Reader<'_> {
    /// Shows what is there from `from` on.
    async fn catch_up(&mut self, from: ConsoleFrom) -> Result<(), CliError> {
        let mut from = from;
        loop {
            let body = ConsoleRead { device: self.device.clone(), from };
            let page: ConsolePage = self.client.ask(CONSOLE_READ, &body).await?;
            for chunk in &page.chunks {
                if let Some(pace) = &mut self.pace {
                    sleep(pace.pause(chunk.attempt, chunk.at)).await;
                }
                self.output.show(chunk)?;
            }
            self.next = page.next;
            if page.end {
                return Ok(());
            }
            from = ConsoleFrom::Offset(page.next);
        }
    }

    async fn follow(
        &mut self,
        from: ConsoleFrom,
        mut live: Subscription,
        interactive: bool,
    ) -> Result<Exit, CliError> {
        self.catch_up(from).await?;
        let (_terminal, mut keys) = if interactive {
            self.ui
                .note(&format!("console of {}; ~. leaves, ~p power-cycles, ~b sends a BREAK\r", self.device));
            (Some(RawTerminal::enter()?), Keys::listen())
        } else {
            (None, Keys::none())
        };
        loop {
            tokio::select! {
                message = live.next() => match message {
                    Some(message) => self.live(&message.payload).await?,
                    None => return Err(CliError::local("follow the console", "the connection has ended")),
                },
                press = keys.next() => match press {
                    Press::Leave => {
                        self.ui.note("\r");
                        return Ok(Exit::Ok);
                    }
                    Press::Cycle => self.cycle().await,
                    Press::Break => self.send_break().await,
                    Press::Bytes(bytes) => self.write(bytes).await,
                },
            }
        }
    }

    /// Shows a chunk that has come, after what was missed before it.
    async fn live(&mut self, payload: &[u8]) -> Result<(), CliError> {
        let Ok(mut chunk) = serde_json::from_slice::<ConsoleChunk>(payload) else { return Ok(()) };
        if chunk.offset > self.next {
            return self.catch_up(ConsoleFrom::Offset(self.next)).await;
        }
        if let ChunkKind::Bytes(bytes) = &mut chunk.what {
            let seen = usize::try_from(self.next - chunk.offset).unwrap_or(usize::MAX);
            if seen >= bytes.len() {
                return Ok(());
            }
            bytes.drain(..seen);
            self.next += bytes.len() as u64;
        }
        self.output.show(&chunk)
    }

    async fn write(&self, bytes: Vec<u8>) {
        let body = ConsoleWrite { device: self.device.clone(), bytes };
        if let Err(error) = self.client.ask::<()>(CONSOLE_WRITE, &body).await {
            self.ui.note(&format!("\r\nnot written: {error}\r"));
        }
    }

    async fn send_break(&self) {
        let body = ConsoleBreak { device: self.device.clone() };
        match self.client.ask::<()>(CONSOLE_BREAK, &body).await {
            Ok(()) => self.ui.note("\r\nBREAK; the next key is a SysRq command (h lists them)\r"),
            Err(error) => self.ui.note(&format!("\r\nno BREAK was sent: {error}\r")),
        }
    }

    async fn cycle(&self) {
        let body = Power { device: self.device.clone(), act: PowerAct::Cycle, force: None };
        match switch(self.client, &body).await {
            Ok(done) => self.ui.note(&format!("\r\nboot attempt {}\r", done.attempt)),
            Err(error) => self.ui.note(&format!("\r\nnot switched: {error}\r")),
        }
    }
}
