//! Multicast groups of a socket, and the senders each is for (RFC 3376 3.1, RFC 3810 4.1).

use core::net::IpAddr;

use super::{Socket, Udp};
use crate::ip::address::AliasId;
use crate::ip::multicast::{self, Wanted};
use crate::lower::{InPacket, Lower};
use crate::path::PathLayer;
use crate::socket::SocketId;
use crate::socket::udp::{BindError, SourceFilter};
use crate::stack::ChangeError;

/// Senders of one membership.
const SOURCES_MAX: usize = 64;

/// A group that a socket joined on an alias.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) alias: AliasId,
    pub(super) group: IpAddr,
    sources: SourceFilter,
}

impl Membership {
    /// What the alias has to ask for.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        wanted(&self.sources)
    }
}

/// The alias asks for everything where something is left out: sockets filter (RFC 3376 3.2 merges
/// to no less than that).
fn wanted(sources: &SourceFilter) -> Wanted<'_> {
    match sources {
        SourceFilter::Exclude(_) => Wanted::Any,
        SourceFilter::Include(sources) => Wanted::Only(sources),
    }
}

impl SourceFilter {
    fn takes(&self, src: IpAddr) -> bool {
        match self {
            SourceFilter::Exclude(sources) => !sources.contains(&src),
            SourceFilter::Include(sources) => sources.contains(&src),
        }
    }

    fn list(&self) -> &[IpAddr] {
        match self {
            SourceFilter::Exclude(sources) | SourceFilter::Include(sources) => sources,
        }
    }
}

impl Socket {
    /// Whether it wants a packet to a group.
    pub(super) fn is_member(&self, packet: &InPacket) -> bool {
        self.groups.iter().any(|m| {
            m.alias == packet.alias && m.group == packet.dst && m.sources.takes(packet.src)
        })
    }
}

impl Udp {
    /// Joins a group, or changes whom it is for.
    pub(crate) fn set_sources<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        (alias, group): (AliasId, IpAddr),
        sources: SourceFilter,
    ) -> Result<(), BindError> {
        let limit = lower.ctx.limits.groups;
        let socket = self.get_mut(id).ok_or(BindError::NotAvailable)?;
        let usable = |s: &IpAddr| s.is_ipv4() == group.is_ipv4() && !s.is_multicast();
        if !group.is_multicast() || !sources.list().iter().all(usable) {
            return Err(BindError::NotAvailable);
        }
        if sources.list().len() > SOURCES_MAX {
            return Err(BindError::TooMany);
        }
        let at = socket.groups.iter().position(|m| m.alias == alias && m.group == group);
        if sources == SourceFilter::Include(Vec::new()) {
            let at = at.ok_or(BindError::NotAvailable)?;
            let old = socket.groups.swap_remove(at);
            multicast::set_sources(
                &mut lower.ctx,
                lower.ip,
                alias,
                group,
                Some(old.wanted()),
                None,
            );
            return Ok(());
        }
        let old = at.map(|at| socket.groups[at].clone());
        if old.as_ref().is_some_and(|m| m.sources == sources) {
            return Err(BindError::NotAvailable);
        }
        if old.is_none() {
            if socket.groups.len() >= limit {
                return Err(BindError::TooMany);
            }
            match multicast::may_join(&mut lower.ctx, lower.ip, alias, group) {
                Ok(()) => {}
                Err(ChangeError::Limit(_)) => return Err(BindError::TooMany),
                Err(_) => return Err(BindError::NotAvailable),
            }
        }
        let before = old.as_ref().map(Membership::wanted);
        let after = Some(wanted(&sources));
        multicast::set_sources(&mut lower.ctx, lower.ip, alias, group, before, after);
        let membership = Membership { alias, group, sources };
        match at {
            Some(at) => socket.groups[at] = membership,
            None => socket.groups.push(membership),
        }
        Ok(())
    }

    /// Leaves a group.
    pub(crate) fn leave<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        alias: AliasId,
        group: IpAddr,
    ) {
        let nobody = SourceFilter::Include(Vec::new());
        // One that was never joined is left already.
        let _ = self.set_sources(lower, id, (alias, group), nobody);
    }
}
