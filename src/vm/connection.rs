//! The connection to libvirt. Its calls block, so each runs on a thread of the blocking pool; devices
//! serialise their own calls, so there are never more threads than devices.

use super::error::{LibvirtError, VmError};
use crate::support::lock::lock;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use virt::connect::Connect;

/// How long a call may take: what libvirt does for us takes seconds on a busy host. A daemon that hangs answers never.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

impl From<virt::error::Error> for LibvirtError {
    fn from(error: virt::error::Error) -> Self {
        Self { message: error.message().to_owned() }
    }
}

/// A connection that is made anew when it is lost (libvirtd was restarted); a cloneable handle.
#[derive(Clone)]
pub(super) struct Connection {
    uri: Arc<str>,
    open: Arc<Mutex<Option<Connect>>>,
}

impl Connection {
    pub(super) fn new(uri: &str) -> Self {
        // Else libvirt's own handler prints each error to standard error.
        virt::error::clear_error_callback();
        Self { uri: uri.into(), open: Arc::default() }
    }

    /// Whether libvirt's QEMU runs on this machine (no host in `qemu:///system`), beside this process.
    pub(super) fn is_local(&self) -> bool {
        self.uri.starts_with("qemu:///")
    }

    /// Runs `call` with an open connection. When the connection turns out to be lost, `call` is tried
    /// once more on a new one, so it must bear being run twice. The thread of one that is not answered in time stays until it is.
    pub(super) async fn call<T, F>(&self, operation: impl Into<String>, call: F) -> Result<T, VmError>
    where
        T: Send + 'static,
        F: Fn(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
    {
        let this = self.clone();
        let operation = operation.into();
        let silent = VmError::Silent { operation: operation.clone(), waited: ANSWER_WITHIN };
        let thread = tokio::task::spawn_blocking(move || this.blocking(operation, call));
        match tokio::time::timeout(ANSWER_WITHIN, thread).await {
            Ok(done) => done.unwrap_or(Err(VmError::Abandoned)),
            Err(_) => Err(silent),
        }
    }

    fn blocking<T>(
        &self,
        operation: String,
        call: impl Fn(&Connect) -> Result<T, virt::error::Error>,
    ) -> Result<T, VmError> {
        let connect = self.connect()?;
        let mut result = call(&connect);
        if result.is_err() && !connect.is_alive().unwrap_or(false) {
            tracing::warn!(uri = %self.uri, "the connection to libvirt was lost, connecting again");
            self.forget();
            result = call(&self.connect()?);
        }
        result.map_err(|error| VmError::Call { operation, source: error.into() })
    }

    /// The open connection, or a new one. What is answered shares it; libvirt counts references.
    fn connect(&self) -> Result<Connect, VmError> {
        let mut open = lock(&self.open);
        if let Some(connect) = open.as_ref().filter(|connect| connect.is_alive().unwrap_or(false)) {
            return Ok(connect.clone());
        }
        let connect = Connect::open(Some(&self.uri))
            .map_err(|error| VmError::Connect { uri: self.uri.to_string(), source: error.into() })?;
        *open = Some(connect.clone());
        Ok(connect)
    }

    /// The next call connects anew.
    pub(super) fn forget(&self) {
        lock(&self.open).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virt::error::{Error, ErrorNumber};

    /// libvirt's in-memory driver.
    const TEST_URI: &str = "test:///default";

    #[tokio::test]
    async fn a_connection_that_was_lost_is_made_anew() {
        let connection = Connection::new(TEST_URI);
        let name = || connection.call("read the host's name", |connect| connect.get_hostname());
        let first = name().await.unwrap();
        connection.forget();
        assert_eq!(name().await.unwrap(), first);
    }

    #[tokio::test]
    async fn an_error_on_a_live_connection_is_not_tried_again() {
        let connection = Connection::new(TEST_URI);
        let lookup = |connect: &Connect| virt::domain::Domain::lookup_by_name(connect, "nobody").map(|_| ());
        let error = connection.call("find the domain nobody", lookup).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot find the domain nobody");
        let kind = connection
            .call("", move |connect| {
                let result: Result<(), Error> = lookup(connect);
                Ok(result.err().map(|error| error.code()))
            })
            .await
            .unwrap();
        assert_eq!(kind, Some(ErrorNumber::NoDomain));
    }

    #[tokio::test]
    async fn no_libvirt_is_an_error_with_a_hint() {
        let connection = Connection::new("qemu+unix:///system?socket=/nonexistent/libvirt-sock");
        let error = connection.call("x", |connect| connect.get_hostname()).await.unwrap_err();
        assert!(matches!(error, VmError::Connect { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("libvirtd"), "{error:?}");
    }
}
