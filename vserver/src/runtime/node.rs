//! A vserver on one worker: its stack, who waits on its sockets, and what the worker keeps of it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;
use weft_stack::ip::address::AliasId;
use weft_stack::socket::SocketId;
use weft_stack::stack::GroupFilter;

use super::shares::{Share, Shares};
use super::{HostStack, Notify};
use crate::app::Owners;
use crate::connect::Races;

/// One vserver on this worker.
pub(crate) struct Node {
    pub(crate) stack: HostStack,
    /// Sockets that a handle exists for.
    pub(crate) sockets: HashMap<SocketId, Arc<Notify>>,
    /// Sockets that services own.
    pub(crate) owners: Owners,
    /// Connections that are being set up over alternatives.
    pub(crate) races: Races,
    /// Addresses in use.
    pub(crate) addresses: Vec<(AliasId, IpAddr)>,
    /// Addresses that are probed, not in use yet.
    pub(super) probed: Vec<(AliasId, IpAddr)>,
    /// What servers said of the MTU of aliases.
    pub(super) mtus: Vec<(AliasId, usize)>,
    /// Groups that shards of other workers want, by worker; on worker 0.
    pub(super) groups_elsewhere: HashMap<(usize, AliasId, IpAddr), GroupFilter>,
    /// Groups it is in, steered here.
    pub(super) groups: Vec<(AliasId, IpAddr)>,
    /// Directed broadcast addresses of its configured networks.
    pub(super) broadcasts: Vec<(AliasId, IpAddr)>,
    /// Which vserver of this slot it is.
    pub(crate) generation: u32,
    /// Number of the last change that was made to its addresses on this worker as on all.
    pub(super) edition: u64,
    /// Links its aliases stand on.
    pub(crate) links: SmallVec<[usize; 2]>,
    pub(super) dirty: bool,
    pub(super) blocked: bool,
    pub(super) starved: bool,
    /// Its timers are due, and it has used up its part of the round.
    pub(super) overdue: bool,
    pub(crate) share: Share,
}

impl Node {
    pub(crate) fn new(stack: HostStack, links: Vec<usize>) -> Node {
        let share = Share::new(stack.limits());
        Node {
            stack,
            sockets: HashMap::new(),
            owners: Owners::default(),
            races: Races::default(),
            addresses: Vec::new(),
            probed: Vec::new(),
            mtus: Vec::new(),
            groups_elsewhere: HashMap::new(),
            groups: Vec::new(),
            broadcasts: Vec::new(),
            generation: 0,
            edition: 0,
            links: links.into(),
            dirty: false,
            blocked: false,
            starved: false,
            overdue: false,
            share,
        }
    }
}

/// What services that are called by the clock tell the core.
pub(crate) struct Calls<'a> {
    pub(super) dirty: &'a mut VecDeque<u32>,
    pub(super) shares: &'a mut Shares,
}

impl Calls<'_> {
    /// Whether a service of the vserver may be called in this round.
    pub(crate) fn may_run(&self, node: &mut Node) -> bool {
        !self.shares.active || self.shares.may_run(&mut node.share)
    }

    /// One was: its time is booked, and the vserver may have something to send.
    pub(crate) fn ran(&mut self, node: &mut Node, index: u32) {
        if self.shares.active {
            let ticks = self.shares.lap();
            self.shares.book(&mut node.share, ticks);
        }
        if !node.dirty {
            node.dirty = true;
            self.dirty.push_back(index);
        }
    }
}
