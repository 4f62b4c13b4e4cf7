//! The part of the machine that asks for an address.

use super::super::dhcp::{self, Answer, Kind};
use super::super::{Chip, Network, uart};
use super::{Act, Phase, Rom};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::Instant;

/// How long a 4 or 5 waits for an answer to DISCOVER (`DHCP_REQ_TIMEOUT`), and in all (`DHCP_TIMEOUT`).
const DHCP_REQUEST: Duration = Duration::from_secs(4);
pub(super) const DHCP_IN_ALL: Duration = Duration::from_secs(45);
/// A 3B asks five times, five seconds apart, and is dead then until its power is cut.
const DHCP_THREE: (Duration, u32) = (Duration::from_secs(5), 5);
/// An offer that comes sooner is missed by a 3B's ROM: the server must wait (raspberrypi/firmware 859, 862, 934).
const TOO_SOON: Duration = Duration::from_millis(1000);
/// Within this a second server's answer is waited for (raspberrypi/rpi-eeprom 376).
const MERGE: Duration = Duration::from_millis(500);

/// A dialogue with DHCP servers.
#[derive(Debug)]
pub(super) struct Asking {
    xid: u32,
    /// When the last packet was sent.
    sent: Instant,
    give_up: Instant,
    /// The offer that gives an address, and what told where the files are.
    offer: Option<Answer>,
    boot: Option<Answer>,
    /// When no second answer is waited for any more.
    settled: Option<Instant>,
    requested: bool,
}

impl Rom {
    pub(super) fn ask(&mut self, now: Instant) {
        self.xid = if self.board.chip == Chip::Three { self.xid } else { self.xid.wrapping_add(1) };
        let give_up = match self.board.chip {
            Chip::Three => now + DHCP_THREE.0 * DHCP_THREE.1,
            _ => now + DHCP_IN_ALL,
        };
        let xid = self.xid;
        let (offer, boot, settled) = (None, None, None);
        self.phase =
            Phase::Dhcp(Box::new(Asking { xid, sent: now, give_up, offer, boot, settled, requested: false }));
        self.send_ask(dhcp::discover(&self.board, xid), now);
    }

    /// Sends it, unless the switch swallows it.
    fn send_ask(&mut self, packet: Vec<u8>, now: Instant) {
        if now >= self.hears_from {
            self.acts.push_back(Act::Ask(packet));
        }
    }

    pub(super) fn dhcp_time(&mut self, now: Instant) {
        let Phase::Dhcp(asking) = &mut self.phase else { return };
        if asking.settled.is_some_and(|at| now >= at) && !asking.requested {
            self.settle(now);
            return;
        }
        if now >= asking.give_up {
            self.failed(now);
            return;
        }
        asking.sent = now;
        (asking.offer, asking.boot, asking.settled, asking.requested) = (None, None, None, false);
        let packet = dhcp::discover(&self.board, asking.xid);
        self.send_ask(packet, now);
    }

    /// A packet has come to the DHCP client's port.
    pub fn on_dhcp(&mut self, bytes: &[u8], now: Instant) {
        let Phase::Dhcp(asking) = &self.phase else { return };
        let Some(answer) = dhcp::read(&self.board, asking.xid, bytes) else { return };
        if self.loses(now) {
            return;
        }
        let Phase::Dhcp(asking) = &mut self.phase else { return };
        match answer.kind {
            Kind::Offer if !asking.requested => {
                if self.board.chip == Chip::Three && now < asking.sent + TOO_SOON {
                    return;
                }
                let server = answer.server;
                if answer.is_for_us {
                    asking.boot = Some(answer.clone());
                }
                if answer.address.is_some() && (asking.offer.is_none() || answer.is_for_us) {
                    asking.offer = Some(answer);
                }
                let whole = asking.boot.as_ref().is_some_and(|boot| boot.address.is_some());
                asking.settled = Some(if whole { now } else { now + MERGE });
                self.say(uart::heard(&self.board, server, "OFFER (2) expect OFFER"));
                if whole {
                    self.settle(now);
                }
            }
            Kind::Ack if asking.requested => {
                let (Some(offer), Some(boot)) = (asking.offer.take(), asking.boot.take()) else { return };
                self.say(uart::heard(&self.board, answer.server, "ACK (5) expect ACK"));
                self.lease(&Answer { address: answer.address.or(offer.address), ..offer }, &boot, now);
            }
            Kind::Nak => {
                self.say(uart::heard(&self.board, answer.server, "NACK (6) expect ACK"));
                self.failed(now);
            }
            _ => {}
        }
    }

    /// What has been offered by now is all there is.
    fn settle(&mut self, now: Instant) {
        let Phase::Dhcp(asking) = &mut self.phase else { return };
        let (Some(offer), Some(boot)) = (asking.offer.clone(), asking.boot.clone()) else {
            // Nobody knows where the files are, or nobody gives an address: heard, and not believed.
            asking.settled = None;
            return;
        };
        if self.board.chip == Chip::Three {
            self.lease(&offer, &boot, now);
            return;
        }
        asking.requested = true;
        asking.sent = now;
        let (xid, address) = (asking.xid, offer.address.unwrap_or(Ipv4Addr::UNSPECIFIED));
        self.send_ask(dhcp::request(&self.board, xid, offer.server, address), now);
    }

    fn lease(&mut self, offer: &Answer, boot: &Answer, now: Instant) {
        let (Some(address), Some(tftp)) = (offer.address, boot.tftp) else { return };
        let mask = offer.mask.unwrap_or(Ipv4Addr::new(255, 255, 255, 0));
        let network = Network { address, mask, router: offer.router, tftp };
        self.say(uart::address(&self.board, &network));
        self.acts.push_back(Act::Address(network));
        self.fetch_all(network, self.board.prefix(), now);
    }
}

impl Asking {
    pub(super) fn deadline(&self, chip: Chip) -> Instant {
        let again = if chip == Chip::Three { DHCP_THREE.0 } else { DHCP_REQUEST };
        let at = (self.sent + again).min(self.give_up);
        match self.settled {
            Some(settled) if !self.requested => at.min(settled),
            _ => at,
        }
    }
}
