//! The book of boot tickets: which are good, for whom, and until when. Pure: the secret and the clock
//! come from outside.

use crate::device::ports::{TicketGrant, TicketRefusal};
use crate::model::id::DeviceId;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use tokio::time::Instant;

/// A ticket's secret: 256 random bits as 64 hexadecimal characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Makes one of 32 random bytes.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(data_encoding::HEXLOWER.encode(&bytes))
    }

    /// The text that the device is given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The book keeps only hashes. Finding a ticket by the hash of what a stranger sent tells him, by the
/// time it takes, nothing about a secret.
type SecretHash = [u8; 32];

fn hash(secret: &[u8]) -> SecretHash {
    Sha256::digest(secret).into()
}

struct Ticket {
    hash: SecretHash,
    expires: Instant,
    redeemed: Option<Redeemed>,
    grant: TicketGrant,
}

/// The one exchange of a ticket.
struct Redeemed {
    by: IpAddr,
    /// Of the number that whoever exchanged it chose for that.
    nonce: Option<SecretHash>,
}

/// How often an exchange that succeeds has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// This is the first time.
    First,
    /// The device asks once more: it has not got the answer, or not whole.
    Again,
}

/// What became of one exchange.
pub struct Exchange<'a> {
    /// Good or refused.
    pub result: Result<Answer, TicketRefusal>,
    /// The ticket it was about; none when the secret is unknown.
    pub grant: Option<&'a TicketGrant>,
    /// From where the ticket was redeemed, in this exchange or an earlier one.
    pub redeemed: Option<IpAddr>,
}

/// At most one ticket per device; a secret opens at most once. Answers get lost, so who exchanged it may have the same answer again: she
/// shows the number that she chose for the exchange, which stands on no console.
#[derive(Default)]
pub struct Book {
    tickets: HashMap<DeviceId, Ticket>,
}

impl Book {
    /// Enters a ticket. An older one of the same device is void from now on.
    pub fn issue(&mut self, secret: &Secret, grant: TicketGrant, now: Instant) {
        let ticket = Ticket {
            hash: hash(secret.as_str().as_bytes()),
            expires: now + grant.window,
            redeemed: None,
            grant,
        };
        self.tickets.insert(ticket.grant.device.clone(), ticket);
    }

    /// Voids the device's ticket.
    pub fn revoke(&mut self, device: &DeviceId) {
        self.tickets.remove(device);
    }

    /// Exchanges `secret`, sent with `nonce` from `address`, which belongs to the network card `mac` as far as this
    /// host knows. An exchange that is refused for its sender does not use the ticket up: a stranger
    /// who guesses nothing can take nothing away.
    pub fn redeem(
        &mut self,
        secret: &[u8],
        nonce: Option<&[u8]>,
        address: IpAddr,
        mac: Option<&str>,
        now: Instant,
    ) -> Exchange<'_> {
        let wanted = hash(secret);
        let Some(ticket) = self.tickets.values_mut().find(|ticket| ticket.hash == wanted) else {
            return Exchange { result: Err(TicketRefusal::Unknown), grant: None, redeemed: None };
        };
        let nonce = nonce.map(hash);
        let before = ticket.redeemed.as_ref();
        let same = |before: &Redeemed| before.by == address && nonce.is_some() && before.nonce == nonce;
        let result = if before.is_some_and(|before| !same(before)) {
            Err(TicketRefusal::Used)
        } else if !mac.is_some_and(|mac| mac.eq_ignore_ascii_case(&ticket.grant.mac)) {
            Err(TicketRefusal::WrongAddress)
        } else if now >= ticket.expires {
            Err(TicketRefusal::Expired)
        } else if before.is_some() {
            Ok(Answer::Again)
        } else {
            ticket.redeemed = Some(Redeemed { by: address, nonce });
            Ok(Answer::First)
        };
        let redeemed = ticket.redeemed.as_ref().map(|redeemed| redeemed.by);
        Exchange { result, redeemed, grant: Some(&ticket.grant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ports::TicketFate;
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::sync::watch;

    const MAC: &str = "52:54:00:00:00:01";
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn grant(device: &str, mac: &str, window: u64) -> TicketGrant {
        TicketGrant {
            device: DeviceId::new(device).unwrap(),
            mac: mac.to_owned(),
            window: Duration::from_secs(window),
            files: Vec::new(),
            fate: watch::Sender::new(TicketFate::Pending),
        }
    }

    fn secret(n: u8) -> Secret {
        Secret::from_random([n; 32])
    }

    #[test]
    fn a_ticket_is_good_once_for_its_device_within_its_window() {
        let now = Instant::now();
        let upper = MAC.to_uppercase();
        let mut book = Book::default();
        book.issue(&secret(1), grant("lab-a", MAC, 60), now);
        let mut redeem = |n, mac, at| {
            book.redeem(secret(n).as_str().as_bytes(), None, HERE, mac, now + Duration::from_secs(at)).result
        };
        assert_eq!(redeem(2, Some(MAC), 1), Err(TicketRefusal::Unknown));
        assert_eq!(redeem(1, None, 1), Err(TicketRefusal::WrongAddress));
        assert_eq!(redeem(1, Some("52:54:00:00:00:02"), 1), Err(TicketRefusal::WrongAddress));
        assert_eq!(redeem(1, Some(MAC), 60), Err(TicketRefusal::Expired));
        assert_eq!(redeem(1, Some(&upper), 59), Ok(Answer::First));
        assert_eq!(redeem(1, Some(MAC), 59), Err(TicketRefusal::Used));
    }

    #[test]
    fn who_has_lost_the_answer_has_it_again_and_nobody_else() {
        let now = Instant::now();
        let there = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
        let mut book = Book::default();
        book.issue(&secret(1), grant("lab-a", MAC, 60), now);
        let mut redeem = |nonce: Option<&str>, address, mac, at| {
            let at = now + Duration::from_secs(at);
            let nonce = nonce.map(str::as_bytes);
            book.redeem(secret(1).as_str().as_bytes(), nonce, address, Some(mac), at).result
        };
        assert_eq!(redeem(Some("n"), HERE, MAC, 1), Ok(Answer::First));
        assert_eq!(redeem(Some("n"), HERE, MAC, 2), Ok(Answer::Again));
        for (nonce, address) in [(Some("m"), HERE), (None, HERE), (Some("n"), there)] {
            assert_eq!(redeem(nonce, address, MAC, 3), Err(TicketRefusal::Used), "{nonce:?} {address}");
        }
        assert_eq!(redeem(Some("n"), HERE, "52:54:00:00:00:02", 4), Err(TicketRefusal::WrongAddress));
        assert_eq!(redeem(Some("n"), HERE, MAC, 60), Err(TicketRefusal::Expired));
    }

    #[test]
    fn a_new_ticket_or_a_revocation_voids_the_old_one() {
        let now = Instant::now();
        let mut book = Book::default();
        book.issue(&secret(1), grant("lab-a", MAC, 60), now);
        book.issue(&secret(2), grant("lab-a", MAC, 60), now);
        let old = book.redeem(secret(1).as_str().as_bytes(), None, HERE, Some(MAC), now);
        assert_eq!(old.result, Err(TicketRefusal::Unknown));
        book.revoke(&DeviceId::new("lab-a").unwrap());
        let revoked = book.redeem(secret(2).as_str().as_bytes(), None, HERE, Some(MAC), now);
        assert_eq!(revoked.result, Err(TicketRefusal::Unknown));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Issue { device: u8, window: u64 },
        Revoke { device: u8 },
        Redeem { secret: u8, nonce: u8, mac: u8, at: u64 },
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0..3u8, 0..20u64).prop_map(|(device, window)| Act::Issue { device, window }),
            (0..3u8).prop_map(|device| Act::Revoke { device }),
            (0..8u8, 0..3u8, 0..3u8, 0..20u64).prop_map(|(secret, nonce, mac, at)| Act::Redeem {
                secret,
                nonce,
                mac,
                at
            }),
        ]
    }

    proptest! {
        #[test]
        fn no_secret_is_redeemed_twice_or_by_another(acts in prop::collection::vec(act(), 0..60)) {
            let start = Instant::now();
            let mac = |n: u8| format!("52:54:00:00:00:{n:02x}");
            let mut book = Book::default();
            let mut owner = HashMap::new();
            let mut redeemed = HashMap::new();
            let mut issued = 0u8;
            for act in acts {
                match act {
                    Act::Issue { device, window } => {
                        book.issue(&secret(issued), grant(&format!("d{device}"), &mac(device), window), start);
                        owner.insert(issued, device);
                        issued += 1;
                    }
                    Act::Revoke { device } => book.revoke(&DeviceId::new(format!("d{device}")).unwrap()),
                    Act::Redeem { secret: n, nonce, mac: from, at } => {
                        let at = start + Duration::from_secs(at);
                        let text = secret(n);
                        // The first of them is none.
                        let number = [nonce];
                        let chosen = (nonce > 0).then_some(&number[..]);
                        let done = book.redeem(text.as_str().as_bytes(), chosen, HERE, Some(&mac(from)), at);
                        if let Ok(answer) = done.result {
                            prop_assert_eq!(owner.get(&n), Some(&from));
                            match (answer, redeemed.insert(n, nonce)) {
                                (Answer::First, None) => {}
                                (Answer::Again, Some(first)) if first == nonce && nonce > 0 => {}
                                other => prop_assert!(false, "{other:?}"),
                            }
                        }
                    }
                }
            }
        }
    }
}
