//! IPv4 and IPv6: input, output, routes, addresses, reassembly, ICMP, PMTU, multicast.

use core::net::{IpAddr, Ipv6Addr};

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::ctx::Ctx;
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::link::Link;
use crate::rng::{Key, Secrets};
use crate::socket::Event;
use crate::stack::ChangeError;
use crate::wire::header::IpHeader;

pub mod address;
pub(crate) mod multicast;
pub(crate) mod ndp;
pub mod route;

use address::{Address, AddressState, Alias, AliasId, Cidr, Origin};
use route::Routes;

/// The aliases of a stack, by number.
pub(crate) type Aliases = HashMap<AliasId, Alias, Key>;

/// IP of one stack: addresses, routes, reassembly, PMTU, ICMP, membership.
#[derive(Debug)]
pub(crate) struct Ip {
    pub(crate) aliases: Aliases,
    pub(crate) routes: Routes,
    /// Usable addresses (not tentative, not duplicate), and the aliases each is on.
    local: HashMap<IpAddr, SmallVec<[AliasId; 1]>, Key>,
    /// Addresses that went away; `Stack` tells the transports and empties it.
    pub(crate) removed: Vec<IpAddr>,
    /// Packets are forwarded between aliases: neighbours are told that we are a router.
    pub(crate) forwarding: bool,
    ndp: ndp::Schedule,
    membership: multicast::Schedule,
}

impl Ip {
    /// No aliases, no routes.
    pub(crate) fn new(secrets: &Secrets) -> Ip {
        Ip {
            aliases: HashMap::with_hasher(secrets.flow),
            routes: Routes::new(secrets.flow),
            local: HashMap::with_hasher(secrets.flow),
            removed: Vec::new(),
            forwarding: false,
            ndp: ndp::Schedule::default(),
            membership: multicast::Schedule::default(),
        }
    }

    /// Whether `addr` is a usable address of any alias.
    pub(crate) fn is_local(&self, addr: IpAddr) -> bool {
        self.local.contains_key(&addr)
    }

    /// Whether `addr` is a usable address of this alias.
    pub(crate) fn is_local_on(&self, alias: AliasId, addr: IpAddr) -> bool {
        self.local.get(&addr).is_some_and(|on| on.contains(&alias))
    }

    /// Adds an address with the route to its network. IPv6 starts tentative, IPv4 is ready at once.
    /// Configuration and SLAAC both come here.
    pub(crate) fn add_address(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: &mut Link,
        alias: AliasId,
        cidr: Cidr,
        origin: Origin,
    ) -> Result<(), ChangeError> {
        let entry = self.aliases.get_mut(&alias).ok_or(ChangeError::NoAlias(alias))?;
        let tentative = cidr.addr.is_ipv6();
        let state = if tentative { AddressState::Tentative } else { AddressState::Preferred };
        entry.addresses.push(Address { cidr, state, origin });
        match cidr.addr {
            IpAddr::V6(addr) => ndp::address_added(ctx, link, self, alias, addr),
            IpAddr::V4(_) => {
                self.address_ready(ctx, alias, cidr.addr);
                if let Some(entry) = self.aliases.get(&alias) {
                    link.announce(ctx, entry, cidr.addr);
                }
            }
        }
        Ok(())
    }

    /// A tentative address passed DAD (or an IPv4 address was configured): it may be used.
    pub(crate) fn address_ready(&mut self, ctx: &mut Ctx<'_>, alias: AliasId, addr: IpAddr) {
        let Some(entry) = self.aliases.get_mut(&alias).and_then(|a| a.address_mut(addr)) else {
            return;
        };
        entry.state = AddressState::Preferred;
        let on = self.local.entry(addr).or_default();
        if !on.contains(&alias) {
            on.push(alias);
            ctx.outbox.events.push_back(Event::AddressAdded { alias, addr });
        }
    }

    /// Another host has the address: it stays in the table as duplicate and is not used.
    pub(crate) fn address_duplicate(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
        mac: [u8; 6],
    ) {
        let Some(entry) = self.aliases.get_mut(&alias).and_then(|a| a.address_mut(addr)) else {
            return;
        };
        entry.state = AddressState::Duplicate;
        ctx.mib.neighbour.duplicate_addresses += 1;
        ctx.outbox.events.push_back(Event::AddressDuplicate { alias, addr, mac });
        self.forget_local(alias, addr);
    }

    /// Removes an address and the route to its network.
    pub(crate) fn remove_address(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: &mut Link,
        alias: AliasId,
        addr: IpAddr,
    ) -> Result<(), ChangeError> {
        let entry = self.aliases.get_mut(&alias).ok_or(ChangeError::NoAlias(alias))?;
        let at = entry.addresses.iter().position(|a| a.cidr.addr == addr);
        entry.addresses.remove(at.ok_or(ChangeError::NoAddress(addr))?);
        if let IpAddr::V6(addr) = addr {
            ndp::address_removed(ctx, link, self, alias, addr);
        }
        if self.forget_local(alias, addr) {
            ctx.outbox.events.push_back(Event::AddressRemoved { alias, addr });
        }
        Ok(())
    }

    /// Takes an address out of use; whether it was in use.
    fn forget_local(&mut self, alias: AliasId, addr: IpAddr) -> bool {
        let Some(on) = self.local.get_mut(&addr) else { return false };
        let before = on.len();
        on.retain(|a| *a != alias);
        let was_there = on.len() < before;
        if on.is_empty() {
            self.local.remove(&addr);
            self.removed.push(addr);
        }
        was_there
    }

    /// The alias's usable link-local address, for ND and MLD.
    pub(crate) fn link_local(&self, alias: AliasId) -> Option<Ipv6Addr> {
        let entry = self.aliases.get(&alias)?;
        entry.addresses.iter().find_map(|a| match a.cidr.addr {
            IpAddr::V6(addr) if addr.is_unicast_link_local() && a.state.usable() => Some(addr),
            _ => None,
        })
    }

    /// Sends a packet of the stack itself (ND, IGMP, MLD) on a link: pushes the IP header and hands
    /// it to the link with the destination as next hop. Losses are counted here.
    pub(crate) fn send_on_link(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: &mut Link,
        alias: AliasId,
        header: &IpHeader,
        mut frame: Frame,
    ) {
        let Some(entry) = self.aliases.get(&alias) else {
            return ctx.drop_out(DropReason::AliasUnknown);
        };
        header.push(&mut frame);
        if let Err(reason) = link.output(ctx, entry, header.dst, frame) {
            ctx.drop_out(reason);
        }
    }
}
