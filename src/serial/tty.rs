//! Lines that are terminal devices: USB adapters, a host's own UARTs, pseudo terminals.

use super::error::SerialError;
use crate::console::port::{BreakFuture, ByteStream, Line, LineFuture};
use crate::support::lock::lock;
use serialport::{SerialPort, TTYPort};
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use tokio_serial::SerialStream;

/// How long a BREAK lasts: what tcsendbreak(3) does at least, and many times what the kernel's SysRq needs.
const BREAK: Duration = Duration::from_millis(250);

pub(super) struct Tty {
    path: PathBuf,
    baud: u32,
    /// The open line once more, to send a BREAK on while the console reads.
    handle: Mutex<Option<TTYPort>>,
}

impl Tty {
    pub(super) fn new(path: PathBuf, baud: u32) -> Self {
        Self { path, baud, handle: Mutex::default() }
    }

    /// Opens it raw, 8 bits, no parity, no flow control, for this process alone.
    async fn connect(&self) -> Result<SerialStream, SerialError> {
        // A line that is gone is still locked as long as there is a handle.
        *lock(&self.handle) = None;
        let builder = serialport::new(self.path.to_string_lossy(), self.baud);
        // An adapter that misbehaves may hold the call up.
        let opened = tokio::task::spawn_blocking(move || {
            let port = builder.open_native()?;
            let handle = port.try_clone_native()?;
            Ok::<_, serialport::Error>((SerialStream::try_from(port)?, handle))
        });
        let opened = opened.await.map_err(io::Error::from).and_then(|opened| opened.map_err(io::Error::from));
        let (stream, handle) = opened.map_err(|source| {
            let path = self.path.clone();
            // The lock's failure has no kind of its own.
            let locked = source.to_string().contains("exclusive lock");
            if locked || source.kind() == io::ErrorKind::ResourceBusy {
                SerialError::InUse { path }
            } else {
                SerialError::Tty { path, source }
            }
        })?;
        *lock(&self.handle) = Some(handle);
        Ok(stream)
    }

    async fn hold_break(&self) -> io::Result<()> {
        let handle = lock(&self.handle).as_ref().map(TTYPort::try_clone_native).transpose()?;
        let line = Held(handle.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?);
        line.0.set_break()?;
        tokio::time::sleep(BREAK).await;
        line.0.clear_break()?;
        Ok(())
    }
}

/// A line that does not stay in BREAK, whatever happens.
struct Held(TTYPort);

impl Drop for Held {
    fn drop(&mut self) {
        // A line that is gone is in no state at all.
        let _ = self.0.clear_break();
    }
}

impl ByteStream for Tty {
    fn open(&self) -> LineFuture<'_> {
        Box::pin(async move {
            let line: Box<dyn Line> = Box::new(self.connect().await?);
            Ok(line)
        })
    }

    fn send_break(&self) -> BreakFuture<'_> {
        Box::pin(async move {
            let sent = self.hold_break().await;
            sent.map_err(|source| SerialError::Break { path: self.path.clone(), source }.into())
        })
    }
}
