//! Duplicate address detection (RFC 4862 5.4): one solicitation without source, one second of
//! silence. A nonce tells our own solicitation, looped back, from a rival's (RFC 7527).

use core::net::Ipv6Addr;

use super::super::address::{Alias, AliasId, Origin};
use super::super::{Ip, multicast};
use super::message::{Nonce, Solicitation};
use super::{SOLICITATION_DELAY, send, slaac, solicited_node};
use crate::ctx::Ctx;
use crate::link::Link;
use crate::time::{Duration, Instant};

/// RFC 4862 5.1 DupAddrDetectTransmits.
const TRANSMITS: u8 = 1;

/// An address being tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detection {
    pub(super) addr: Ipv6Addr,
    /// When the next step is due.
    pub(super) at: Instant,
    sent: u8,
    nonce: Nonce,
}

/// Tries an address after at most `delay`, random (an address made on a router's word: every host
/// heard it at the same time).
pub(super) fn start(
    ctx: &mut Ctx<'_>,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv6Addr,
    delay: Duration,
) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    if let Some(own) = entry.address_mut(addr.into()) {
        own.state = super::AddressState::Tentative;
        ctx.addresses_changed(alias);
    }
    let delay = Duration::from_nanos(ctx.rng.below(delay.as_nanos() as u64));
    let random = ctx.rng.next_u64().to_be_bytes();
    let nonce = core::array::from_fn(|i| random[i]);
    entry.ndp.dad.retain(|d| d.addr != addr);
    entry.ndp.dad.push(Detection { addr, at: ctx.now + delay, sent: 0, nonce });
}

/// As [`start`], spread over a second.
pub(super) fn start_spread(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, addr: Ipv6Addr) {
    start(ctx, ip, alias, addr, SOLICITATION_DELAY);
}

/// Whether a solicitation is our own, come back.
pub(super) fn is_own(alias: &Alias, addr: Ipv6Addr, nonce: Option<Nonce>) -> bool {
    alias.ndp.dad.iter().any(|d| d.addr == addr && Some(d.nonce) == nonce)
}

/// Sends solicitations that are due; addresses that nobody claimed are ours.
pub(super) fn timeout(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    let (now, retrans) = (ctx.now, entry.ndp.times.retrans);
    let mut due: Vec<Detection> = Vec::new();
    entry.ndp.dad.retain_mut(|d| {
        if d.at > now {
            return true;
        }
        due.push(*d);
        d.at = now + retrans;
        d.sent += 1;
        d.sent <= TRANSMITS
    });
    for d in due {
        if d.sent < TRANSMITS {
            let message = Solicitation::emit(d.addr, None, Some(d.nonce));
            ctx.mib.neighbour.out_solicits += 1;
            let addrs = (Ipv6Addr::UNSPECIFIED, solicited_node(d.addr));
            send(ctx, link, ip, alias, addrs, &message);
        } else {
            ip.address_ready(ctx, alias, d.addr.into());
            super::announce(ctx, link, ip, alias, d.addr);
            slaac::refresh_state(ctx, ip, alias, d.addr);
            if d.addr.is_unicast_link_local() {
                multicast::report_again(ctx, ip, alias, false);
            }
        }
    }
}

/// Somebody else has a tentative address, or tries it too. One that the stack made is replaced.
pub(super) fn conflict(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv6Addr,
    mac: [u8; 6],
) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    entry.ndp.dad.retain(|d| d.addr != addr);
    let origin = entry.address(addr.into()).map(|a| a.origin);
    ip.address_duplicate(ctx, alias, addr.into(), mac);
    if origin == Some(Origin::Slaac) {
        slaac::replace(ctx, link, ip, alias, addr);
    }
}
