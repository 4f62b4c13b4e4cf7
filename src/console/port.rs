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

/// Where a console's bytes come from.
pub trait ByteStream: Send + Sync + 'static {
    /// Opens the line, waiting until there is one (a VM that is not created yet, an adapter that is
    /// unplugged). Cancel-safe. An error means that waiting is of no use now; the console tries again
    /// after a pause.
    fn open(&self) -> LineFuture<'_>;
}
