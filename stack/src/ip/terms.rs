//! What addresses came with besides themselves: how conflicts are settled, and lifetimes (of leases;
//! those of SLAAC are its own). Most addresses came with nothing and are not here.

use core::net::IpAddr;

use super::address::{Acd, AcdPace, AddressState, AddressTerms, AliasId, Cidr};
use super::{Ip, ndp};
use crate::ctx::Ctx;
use crate::link::Link;
use crate::stack::ChangeError;
use crate::time::Instant;

/// The terms of one address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) addr: IpAddr,
    pub(crate) acd: Acd,
    pub(crate) pace: AcdPace,
    /// `None`: for ever, or over already.
    preferred_until: Option<Instant>,
    valid_until: Option<Instant>,
}

impl Terms {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.preferred_until, self.valid_until].into_iter().flatten().min()
    }
}

/// `Change::AddressAssign`.
pub(super) fn assign(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    cidr: Cidr,
    given: &AddressTerms,
) -> Result<(), ChangeError> {
    let entry = ip.aliases.get_mut(&alias).ok_or(ChangeError::NoAlias(alias))?;
    let addr = cidr.addr;
    let known = entry.address(addr).map(|a| (a.cidr, a.origin));
    if known.is_some_and(|known| known != (cidr, given.origin)) {
        return Err(ChangeError::AddressExists(addr));
    }
    let before: Vec<Terms> = entry.terms.extract_if(.., |t| t.addr == addr).collect();
    let terms = Terms {
        addr,
        acd: given.acd,
        pace: given.pace,
        preferred_until: given.preferred.map(|d| ctx.now + d),
        valid_until: given.valid.map(|d| ctx.now + d),
    };
    entry.terms.push(terms);
    if known.is_some() {
        refresh(ctx, ip, alias, addr, AddressState::Preferred);
    } else if let Err(e) = ip.add_address(ctx, link, alias, cidr, given.origin) {
        if let Some(entry) = ip.aliases.get_mut(&alias) {
            entry.terms.retain(|t| t.addr != addr);
            entry.terms.extend(before);
        }
        return Err(e);
    }
    ndp::arm(ctx, ip);
    Ok(())
}

/// An address in use becomes preferred or deprecated.
fn refresh(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, addr: IpAddr, state: AddressState) {
    let entry = ip.aliases.get_mut(&alias);
    let own = entry.and_then(|a| a.address_mut(addr)).filter(|a| a.state.usable());
    if let Some(own) = own.filter(|a| a.state != state) {
        own.state = state;
        ctx.addresses_changed(alias);
        ip.changed();
    }
}

/// Deprecates and removes addresses whose time is over.
pub(super) fn timeout(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    let over = |at: Option<Instant>| at.is_some_and(|at| at <= ctx.now);
    let mut due: Vec<(IpAddr, bool)> = Vec::new();
    for terms in &mut entry.terms {
        if over(terms.valid_until) {
            due.push((terms.addr, true));
        } else if over(terms.preferred_until) {
            terms.preferred_until = None;
            due.push((terms.addr, false));
        }
    }
    for (addr, gone) in due {
        if gone {
            link.forget_probe(alias, addr);
            // It is there as long as its terms are.
            let _ = ip.remove_address(ctx, alias, addr);
        } else {
            refresh(ctx, ip, alias, addr, AddressState::Deprecated);
        }
    }
}
