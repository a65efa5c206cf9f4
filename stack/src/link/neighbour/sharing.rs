//! What the neighbour table has from other stacks ([`SharedNeighbours`]).

use super::{AliasId, Ctx, IpAddr, NeighbourOrigin, NeighbourState, Neighbours, SharedNeighbours};
use crate::link::shared::Known;
use std::sync::Arc;

impl Neighbours {
    /// Shares a table as number `me`, or none; what came from the one before is forgotten.
    pub(in crate::link) fn set_shared(
        &mut self,
        ctx: &mut Ctx<'_>,
        shared: Option<(Arc<SharedNeighbours>, u32)>,
    ) {
        let taken = self.entries.iter().filter(|(_, e)| e.origin == NeighbourOrigin::Shared);
        let taken: Vec<u32> = taken.map(|(at, _)| at as u32).collect();
        for at in taken {
            self.remove(ctx, at);
        }
        self.shared = shared;
    }

    fn known(&self, ctx: &Ctx<'_>, alias: AliasId, addr: IpAddr) -> Option<Known> {
        self.shared.as_ref()?.0.known((alias, addr), ctx.now)
    }

    /// An entry for a neighbour that this stack does not have and another does.
    pub(super) fn create_shared(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
    ) -> Option<u32> {
        let known = self.known(ctx, alias, addr)?;
        let at = self.create(ctx, alias, addr, NeighbourState::Stale)?;
        self.take(ctx, at, known);
        Some(at)
    }

    /// Whether another stack knows the neighbour of an entry better; then it is taken over.
    pub(super) fn adopt(&mut self, ctx: &mut Ctx<'_>, at: u32) -> bool {
        let e = &self.entries[at as usize];
        let Some(known) = self.known(ctx, e.alias, e.addr) else { return false };
        self.take(ctx, at, known);
        true
    }

    fn take(&mut self, ctx: &mut Ctx<'_>, at: u32, known: Known) {
        ctx.mib.neighbour.shared_taken += 1;
        let e = &mut self.entries[at as usize];
        e.mac = known.mac;
        e.router |= known.router;
        e.origin = NeighbourOrigin::Shared;
        e.reachable_until = known.until.unwrap_or(ctx.now);
        let configured = known.until.is_none();
        let state = if configured { NeighbourState::Permanent } else { NeighbourState::Reachable };
        self.enter(ctx, at, state, None);
        self.flush(at);
    }

    /// Another stack got the answer that this one may wait for.
    pub(in crate::link) fn told(&mut self, ctx: &mut Ctx<'_>, alias: AliasId, addr: IpAddr) {
        let Some(at) = self.find(ctx, alias, addr) else { return };
        if self.entries[at as usize].state != NeighbourState::Permanent {
            self.adopt(ctx, at);
        }
    }

    /// What others believe of a neighbour is wrong, or no longer sure.
    pub(super) fn doubt(&mut self, at: u32) {
        if let Some((shared, _)) = &self.shared {
            let e = &mut self.entries[at as usize];
            e.origin = NeighbourOrigin::Own;
            shared.doubted((e.alias, e.addr));
        }
    }

    /// Its questions were not answered.
    pub(super) fn give_up(&mut self, at: u32) {
        if let Some((shared, me)) = &self.shared {
            let e = &self.entries[at as usize];
            shared.gave_up((e.alias, e.addr), *me);
        }
    }
}
