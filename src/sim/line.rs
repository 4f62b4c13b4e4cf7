//! A serial line that can be pulled out: a pseudo terminal behind a stable name.

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::ioctl_fionread;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::sleep;

/// Pause between two looks at what waits to be read.
const LOOK: Duration = Duration::from_millis(10);

/// The device's end of a serial line. Dropping it pulls the adapter out: its name goes, and whoever has the other
/// end open reads no more. What is read here is what was typed there.
#[derive(Debug)]
pub struct PtyLine {
    name: PathBuf,
    typed: Receiver,
    said: Sender,
}

impl PtyLine {
    /// Plugs an adapter in that the host knows by this name, as udev makes it: a link to a device whose own
    /// name may be another each time. Fails when there is such a name already, or no pseudo terminal left.
    pub fn plug(name: &Path) -> io::Result<Self> {
        let device = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&device)?;
        unlockpt(&device)?;
        let terminal = ptsname(&device, Vec::new())?;
        // A UART echoes nothing and changes nothing, also before somebody has opened it.
        let mut settings = tcgetattr(&device)?;
        settings.make_raw();
        tcsetattr(&device, OptionalActions::Now, &settings)?;
        fcntl_setfl(&device, fcntl_getfl(&device)? | OFlags::NONBLOCK)?;
        // Not pipes, but read and written as those are.
        let said = Sender::from_owned_fd_unchecked(device.try_clone()?)?;
        let typed = Receiver::from_owned_fd_unchecked(device)?;
        symlink(OsStr::from_bytes(terminal.as_bytes()), name)?;
        Ok(Self { name: name.to_owned(), typed, said })
    }

    /// Done when whoever has the other end open has read all that was said: nothing waits there at two looks in a row,
    /// since the kernel hands it on in the background.
    pub(super) async fn drained(&self) {
        let Ok(terminal) = open(&self.name, OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        else {
            return;
        };
        let mut empty = 0;
        while empty < 2 {
            match ioctl_fionread(&terminal) {
                Ok(0) => empty += 1,
                Ok(_) => empty = 0,
                Err(_) => return,
            }
            sleep(LOOK).await;
        }
    }
}

impl Drop for PtyLine {
    fn drop(&mut self) {
        // It may be gone with its directory.
        let _ = std::fs::remove_file(&self.name);
    }
}

impl AsyncRead for PtyLine {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.typed).poll_read(cx, buf)
    }
}

impl AsyncWrite for PtyLine {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.said).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.said).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.said).poll_shutdown(cx)
    }
}
