//! Whose SSH key a device lets in: its holder's, in a file of its own beside the coordinator's.

use super::desk::seat;
use super::lending::Lending;
use super::refusal::Refusal;
use super::session::Seat;
use super::tunnel::place;
use crate::model::event::Event;
use crate::model::lease::Lease;
use crate::plan::lease::Caller;
use crate::support::chain::Chain;
use crate::wire::tunnel::{Admit, Admitted};
use std::time::Duration;

/// How long it may take to put a key on a device: sshd on an emulated machine takes seconds for a login.
const ADMIT_WITHIN: Duration = Duration::from_secs(30);
/// Where the device's sshd looks for the holder's key; on a tmpfs, so gone with the power.
const HOLDER_KEYS: &str = "/run/pilab/holder_keys";
/// Who may log in.
const SSH_USER: &str = "root";

impl Lending {
    /// Lets a key log in to a device for its holder.
    pub(super) async fn admit(&self, by: &Caller, asked: Admit) -> Result<Admitted, Refusal> {
        let Admit { device, key } = asked;
        let session = self.session_on(by, &device, false).await?;
        let seat = seat(&session, &device)?;
        let host_key = place(seat)?.host_key;
        let admitted = Event::KeyAdmitted { by: by.user.to_string(), token: seat.token };
        let written = seat.device.journal().event_synced(seat.attempt(), admitted).await;
        written.map_err(|e| Refusal::new(format!("that cannot be kept in the journal: {}", Chain(&e))))?;
        // The script is fixed; the key, and the lease's token that it goes with, are its arguments.
        let script = format!("umask 077 && printf '# %s\\n%s\\n' \"$2\" \"$1\" > {HOLDER_KEYS}");
        put(seat, &script, &[key.as_str(), &seat.token.to_string()]).await?;
        Ok(Admitted { user: SSH_USER.to_owned(), host_key })
    }

    /// Takes the last holder's key off what is up of a lease that has another holder, and leaves hers if she has put one.
    pub(super) async fn dismiss_keys(&self, lease: &Lease) -> Result<(), String> {
        let session = self.session(lease);
        let script = format!("grep -qx \"# $1\" {HOLDER_KEYS} || rm -f {HOLDER_KEYS}");
        for seat in session.seats.iter().filter(|seat| place(seat).is_ok()) {
            put(seat, &script, &[&seat.token.to_string()]).await.map_err(|refusal| refusal.error)?;
        }
        Ok(())
    }
}

async fn put(seat: &Seat, script: &str, arguments: &[&str]) -> Result<(), Refusal> {
    let mut command: Vec<String> = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    command.extend(arguments.iter().map(|&argument| argument.to_owned()));
    let refused = |why: String| Refusal::new(format!("the keys of {} cannot be changed: {why}", seat.id()));
    let ran = seat.device.run(seat.token, command, ADMIT_WITHIN).await;
    let output = ran.map_err(|e| refused(Chain(&e).to_string()))?;
    if output.exit_code == Some(0) {
        return Ok(());
    }
    Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
