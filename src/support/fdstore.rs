//! Open files that outlive this process: systemd's file-descriptor store (`FileDescriptorStoreMax=` in
//! systemd.service(5), `FDSTORE=1` in sd_pid_notify_with_fds(3)).
//!
//! The manager keeps a copy of what it is given under a name, and hands all of them to the service's next process
//! (sd_listen_fds(3)). What it keeps is open meanwhile, however this process ended. It lets go of all when the service is
//! stopped, and of what has been hung up. Without a manager, or with one that keeps nothing, all of this does nothing.

use super::lock::lock;
use super::notify::socket_address;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// How long a manager that is busy is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the last process of this service left in the store, by name, as far as nobody has taken it.
static INHERITED: OnceLock<Mutex<BTreeMap<String, OwnedFd>>> = OnceLock::new();

/// Takes over what was handed to this process. To be called before anything else is opened or started: children must not
/// get it.
pub fn inherit() {
    INHERITED.get_or_init(|| {
        let handed = sd_listen_fds::get().unwrap_or_else(|_| {
            tracing::warn!("what the service manager hands over is not understood");
            Vec::new()
        });
        let mut files = BTreeMap::new();
        for (name, file) in handed {
            let file = file.into_std();
            match fcntl_setfd(&file, FdFlags::CLOEXEC) {
                Ok(()) => drop(files.insert(name.unwrap_or_default(), file)),
                // It never was open: there is nothing to close.
                Err(_) => drop(file.into_raw_fd()),
            }
        }
        Mutex::new(files)
    });
}

/// What was handed over under this name, once.
pub fn take(name: &str) -> Option<OwnedFd> {
    lock(INHERITED.get()?).remove(name)
}

/// Closes what was handed over under names that begin so and that nobody has taken, here and in the store; answers the
/// names.
pub fn drop_rest(prefix: &str) -> Vec<String> {
    let Some(inherited) = INHERITED.get() else { return Vec::new() };
    let mut files = lock(inherited);
    let names: Vec<String> = files.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    for name in &names {
        files.remove(name);
        if let Err(error) = remove(name) {
            tracing::warn!(name, %error, "the service manager was not told to close a file");
        }
    }
    names
}

/// Puts a file into the store; false when there is no manager. That the manager keeps it cannot be known: it does not answer.
/// A name has at most 255 characters of ASCII, no control character and no colon.
pub fn keep(name: &str, file: BorrowedFd<'_>) -> io::Result<bool> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(address) => tell(&address, &format!("FDSTORE=1\nFDNAME={name}"), &[file]).map(|()| true),
        None => Ok(false),
    }
}

/// Takes all files of this name out of the store.
pub fn remove(name: &str) -> io::Result<()> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(address) => tell(&address, &format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]),
        None => Ok(()),
    }
}

fn tell(address: &OsStr, text: &str, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&socket_address(address)?)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("there is room for one file"));
    }
    sendmsg(&socket, &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::fs::File;
    use std::io::{IoSliceMut, Read, Seek, Write};
    use std::os::fd::AsFd;

    #[test]
    fn a_manager_gets_the_file_itself_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut ours = tempfile::tempfile().unwrap();
        tell(path.as_os_str(), "FDSTORE=1\nFDNAME=relay", &[ours.as_fd()]).unwrap();
        tell(path.as_os_str(), "FDSTOREREMOVE=1\nFDNAME=relay", &[]).unwrap();
        let heard = || {
            let (mut buffer, mut files) = ([0; 256], Vec::new());
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut room);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let got = recvmsg(&manager, &mut parts, &mut ancillary, RecvFlags::empty()).unwrap();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    files.extend(rights);
                }
            }
            (String::from_utf8(buffer[..got.bytes].to_vec()).unwrap(), files)
        };
        let (text, mut files) = heard();
        assert_eq!((text.as_str(), files.len()), ("FDSTORE=1\nFDNAME=relay", 1));
        ours.write_all(b"high").unwrap();
        let (mut theirs, mut read) = (File::from(files.remove(0)), String::new());
        theirs.rewind().unwrap();
        theirs.read_to_string(&mut read).unwrap();
        assert_eq!(read, "high");
        let (text, files) = heard();
        assert_eq!((text.as_str(), files.len()), ("FDSTOREREMOVE=1\nFDNAME=relay", 0));
    }

    #[test]
    fn a_manager_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile().unwrap();
        assert!(tell(dir.path().join("none").as_os_str(), "FDSTORE=1", &[file.as_fd()]).is_err());
    }
}
