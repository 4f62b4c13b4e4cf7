//! A NATS server that is away for an agent, and comes back, while it runs on for the lab.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::net::Ipv4Addr;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// An address at which nothing is served yet: bound, so that nobody else takes it, and not listening, so
/// that whoever connects is refused.
pub(crate) struct Away(tokio::net::TcpSocket);

/// A way to the server, through the address where an agent looks for it.
pub(crate) struct Served {
    _stop: DropGuard,
}

impl Away {
    pub(crate) fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.0.local_addr().unwrap())
    }

    /// Leads to the server at `to` until what is answered is dropped.
    pub(crate) fn serve(self, to: String) -> Served {
        let (listener, stop, tasks) =
            (self.0.listen(8).unwrap(), CancellationToken::new(), TaskTracker::new());
        let (token, inner) = (stop.clone(), tasks.clone());
        tasks.spawn(async move {
            while let Some(Ok((mut here, _))) = token.run_until_cancelled(listener.accept()).await {
                let (to, token) = (to.clone(), token.clone());
                inner.spawn(async move {
                    let Ok(mut there) = tokio::net::TcpStream::connect(to).await else { return };
                    let copy = tokio::io::copy_bidirectional(&mut here, &mut there);
                    let _ = token.run_until_cancelled(copy).await;
                });
            }
        });
        Served { _stop: stop.drop_guard() }
    }
}
