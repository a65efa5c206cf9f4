//! IPv4 address conflict detection on the wire (RFC 5227): probes before use, what counts as a
//! conflict, defence. What follows from it is `crate::ip::acd`'s.

use core::net::{IpAddr, Ipv4Addr};

use super::Link;
use super::arp::{self, Packet};
use super::ethernet::BROADCAST;
use crate::ctx::{Ctx, Fate};
use crate::ip::address::{Acd, AcdPace, Alias, AliasId, Aliases};
use crate::socket::Event;
use crate::time::{Duration, Instant};

/// RFC 5227 1.1. What else stands there comes with [`AcdPace`].
const RATE_LIMIT_INTERVAL: Duration = Duration::from_mins(1);
/// An address is defended (and a conflict reported) this often at most.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// An address being probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) alias: AliasId,
    addr: Ipv4Addr,
    /// When the next step is due.
    pub(super) at: Instant,
    sent: u8,
    pace: AcdPace,
}

/// A conflict that was met with an announcement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defence {
    alias: AliasId,
    addr: IpAddr,
    at: Instant,
}

/// What probing an address, or listening for others that use it, led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    pub(crate) alias: AliasId,
    pub(crate) addr: Ipv4Addr,
    /// Who has it; `None`: nobody answered, it is ours.
    pub(crate) rival: Option<[u8; 6]>,
}

fn random(ctx: &mut Ctx<'_>, below: Duration) -> Duration {
    Duration::from_nanos(ctx.rng.below(below.as_nanos() as u64 + 1))
}

impl Link {
    /// Probes an address from the start; the outcome is in `probed` seconds later.
    pub(crate) fn probe(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: Ipv4Addr,
        pace: AcdPace,
    ) {
        let at = ctx.now + random(ctx, pace.interval);
        self.probe_at(ctx, Probe { alias, addr, at, sent: 0, pace });
    }

    /// Somebody has an address that is configured here: it is tried again in a minute (RFC 5227
    /// 2.1.1, where that is the rate after many conflicts).
    pub(crate) fn probe_again(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: Ipv4Addr,
        pace: AcdPace,
    ) {
        let at = ctx.now + RATE_LIMIT_INTERVAL;
        self.probe_at(ctx, Probe { alias, addr, at, sent: 0, pace });
    }

    fn probe_at(&mut self, ctx: &mut Ctx<'_>, probe: Probe) {
        self.probes.retain(|p| (p.alias, p.addr) != (probe.alias, probe.addr));
        self.probes.push(probe);
        self.arm(ctx);
    }

    /// The address was taken away.
    pub(crate) fn forget_probe(&mut self, alias: AliasId, addr: IpAddr) {
        self.probes.retain(|p| p.alias != alias || IpAddr::V4(p.addr) != addr);
        self.probed.retain(|p| p.alias != alias || IpAddr::V4(p.addr) != addr);
    }

    /// Sends one probe for an address that is in use already: who has it answers.
    pub(crate) fn ask_for_rival(ctx: &mut Ctx<'_>, alias: &Alias, addr: Ipv4Addr) {
        if ctx.shard.is_home() && alias.config.up {
            arp::send_request(ctx, alias, Ipv4Addr::UNSPECIFIED, addr, BROADCAST);
        }
    }

    /// The next due step of any probe.
    pub(super) fn probe_deadline(&self) -> Option<Instant> {
        self.probes.iter().map(|p| p.at).min()
    }

    /// Sends probes that are due; addresses that nobody claimed are ours.
    pub(super) fn probe_timeout(&mut self, ctx: &mut Ctx<'_>, aliases: &Aliases) {
        let (now, mut due) = (ctx.now, Vec::new());
        self.probes.retain_mut(|p| {
            if p.at > now {
                return true;
            }
            due.push(*p);
            p.sent += 1;
            p.at = now + p.pace.interval * 2;
            if p.sent < p.pace.probes {
                p.at = now + p.pace.interval + random(ctx, p.pace.interval);
            }
            p.sent <= p.pace.probes
        });
        for p in due {
            let Some(alias) = aliases.get(&p.alias) else { continue };
            if p.sent == 0 {
                let event = Event::AddressProbed { alias: p.alias, addr: p.addr.into() };
                ctx.outbox.events.push_back(event);
            }
            if p.sent < p.pace.probes {
                arp::send_request(ctx, alias, Ipv4Addr::UNSPECIFIED, p.addr, BROADCAST);
            } else {
                self.probed.push_back(Probed { alias: p.alias, addr: p.addr, rival: None });
            }
        }
    }

    #[inline]
    pub(super) fn is_probing(&self) -> bool {
        !self.probes.is_empty()
    }

    /// RFC 5227 2.1.1: while we probe, whoever speaks from the address has it, and whoever probes
    /// it too conflicts. Returns whether the packet was one of these.
    pub(super) fn probe_met(&mut self, alias: &Alias, packet: &Packet) -> bool {
        let id = alias.config.id;
        let tried = |addr| self.probes.iter().position(|p| (p.alias, p.addr) == (id, addr));
        let rival_probe = packet.sender.is_unspecified() && Some(packet.sender_mac) != alias.mac();
        let met = tried(packet.sender);
        let Some(at) = met.or_else(|| tried(packet.target).filter(|_| rival_probe)) else {
            return false;
        };
        if self.probes[at].sent == 0 {
            // Not asked yet, or waiting for the next try: nothing is at stake.
            return true;
        }
        let addr = self.probes.swap_remove(at).addr;
        self.probed.push_back(Probed { alias: id, addr, rival: Some(packet.sender_mac) });
        true
    }

    /// Whether a conflict over an address in use is to be told of and met: not again within ten
    /// seconds, whatever another host sends.
    pub(crate) fn conflict_is_due(&mut self, now: Instant, alias: AliasId, addr: IpAddr) -> bool {
        self.defended.retain(|d| now.saturating_since(d.at) < DEFEND_INTERVAL);
        let due = !self.defended.iter().any(|d| (d.alias, d.addr) == (alias, addr));
        if due {
            self.defended.push(Defence { alias, addr, at: now });
        }
        due
    }

    /// RFC 5227 2.4: somebody sends from an address in use here.
    pub(super) fn conflict(&mut self, ctx: &mut Ctx<'_>, alias: &Alias, packet: &Packet) -> Fate {
        if !ctx.shard.is_home() {
            return Fate::Consumed;
        }
        let (now, id, addr) = (ctx.now, alias.config.id, packet.sender);
        let acd = alias.acd(addr.into());
        if !self.conflict_is_due(now, id, addr.into()) {
            if acd == Acd::On {
                // 2.4 (b): defended once, and the other insists.
                self.defended.retain(|d| (d.alias, d.addr) != (id, addr.into()));
                let rival = Some(packet.sender_mac);
                self.probed.push_back(Probed { alias: id, addr, rival });
            } else {
                ctx.mib.neighbour.duplicate_addresses += 1;
            }
            return Fate::Consumed;
        }
        ctx.mib.neighbour.duplicate_addresses += 1;
        if acd != Acd::On {
            let (addr, mac) = (IpAddr::V4(addr), packet.sender_mac);
            ctx.outbox.events.push_back(Event::AddressDuplicate { alias: id, addr, mac });
        }
        if acd != Acd::Off {
            arp::announce_once(ctx, alias, addr);
        }
        Fate::Consumed
    }
}
