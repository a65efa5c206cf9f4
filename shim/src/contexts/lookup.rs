//! Whose packets are on the wire: for captures, which change nothing.

use super::Contexts;
use crate::locator::Pair;
use crate::wire::Tag;

impl Contexts {
    /// ULIDs of the context that receives by this tag of ours.
    pub fn ulids_in(&self, tag: Tag) -> Option<Pair> {
        self.by_tag.get(&tag).map(|id| self.slots[*id as usize].ulids)
    }

    /// ULIDs of the context that sends by these locators with this tag of the peer's. Several peers
    /// may have chosen the same tag.
    pub fn ulids_out(&self, pair: Pair, tag: Tag) -> Option<Pair> {
        let ids = self.by_peer_tag.get(&tag)?;
        let all = || ids.iter().map(|id| &self.slots[*id as usize]);
        let has = |remote| all().find(move |c| c.ulids.remote == remote || c.peer.contains(remote));
        let found = all().find(|c| c.pair == pair).or_else(|| has(pair.remote));
        found.map(|c| c.ulids)
    }
}
