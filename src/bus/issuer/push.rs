//! Telling servers of an account as it is now.

use super::{Holder, Issuer, IssuerError, PUSH_TIMEOUT, Revocations, SYSTEM, SYSTEM_TTL};
use crate::bus::connect::{Bus, BusOptions};
use crate::bus::jwt::Standing;
use crate::bus::servers::Servers;
use crate::wire::subject;
use serde::Deserialize;

impl Issuer {
    /// Tells the servers of all revocations of such holders on record; of an account that is `new` they know nothing yet.
    pub(super) async fn push(
        &self,
        servers: &Servers,
        holder: Holder,
        revoked: &Revocations,
        now: u64,
        new: bool,
    ) -> Result<(), IssuerError> {
        let options = BusOptions {
            url: servers.clone(),
            creds: self.system(SYSTEM_TTL)?.creds,
            name: SYSTEM.to_owned(),
            inbox_prefix: subject::inbox(SYSTEM),
        };
        let claims = |call: &str| format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.{call}", self.account(holder));
        let bus = Bus::connect(options, Some(PUSH_TIMEOUT)).await.map_err(IssuerError::Push)?;
        // What the site has said of the account is the site's to change. Of one that is new nothing is told.
        let mut before = None;
        if self.keys.is_site() && !new {
            let known = bus.request(claims("LOOKUP"), "", PUSH_TIMEOUT).await.map_err(IssuerError::Push)?;
            before = Standing::read(&String::from_utf8_lossy(&known));
        }
        let update = claims("UPDATE");
        let claims = self.account_jwt(holder, revoked, now, before.as_ref())?;
        let answer = bus.request(update, claims, PUSH_TIMEOUT).await.map_err(IssuerError::Push)?;
        if let Err(error) = bus.close().await {
            tracing::debug!(%error, "the connection to the system account did not end cleanly");
        }
        let accepted = serde_json::from_slice::<ClaimsAnswer>(&answer);
        if accepted.is_ok_and(|answer| answer.data.is_some_and(|data| data.code == 200)) {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&answer).chars().take(300).collect();
        Err(IssuerError::PushRefused { answer })
    }
}

/// The server's answer to a claims update.
#[derive(Deserialize)]
struct ClaimsAnswer {
    data: Option<ClaimsData>,
}

#[derive(Deserialize)]
struct ClaimsData {
    code: u32,
}
