//! The port [`ByteStream`]: a line that can be opened, is read and written, and goes away.

use std::future::Future;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// An open line. A read of 0 bytes means it is gone.
pub trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// A line being opened.
pub type LineFuture<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Line>>> + Send + 'a>>;

/// A BREAK being sent.
pub type BreakFuture<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// Where a console's bytes come from.
pub trait ByteStream: Send + Sync + 'static {
    /// Opens the line, waiting until there is one (a VM that is not created yet, an adapter that is
    /// unplugged). Cancel-safe. An error means that waiting is of no use now; the console tries again
    /// after a pause.
    fn open(&self) -> LineFuture<'_>;

    /// Holds the line that was opened last in BREAK for a moment, as the kernel's SysRq wants it. An error of kind
    /// [`io::ErrorKind::Unsupported`] where the line has no such thing.
    fn send_break(&self) -> BreakFuture<'_> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}
