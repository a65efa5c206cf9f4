//! Connections above a multipath shim: what belongs to a pair of locators (round-trip time, window,
//! packet size) is put away when packets leave it, and is there when they come back.
//!
//! Invariants, while the path layer maps packets: `of` holds every connection of the slab under its
//! two addresses; `left` has entries of living connections only.

use core::mem;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::lower::Lower;
use crate::path::{Advice, PathEvent, PathFlow, PathLayer};
use crate::rng::Key;
use crate::socket::tcp::TcpState;
use crate::time::Instant;
use crate::wire::protocol;

use super::Tcp;
use super::cc::{Algorithm, Controller};
use super::flow_table::FlowKey;
use super::pacing::Pacer;
use super::plpmtud::PathMtu;
use super::recovery::Phase;
use super::rtt::Rtt;
use super::state::{Connection, Cx};

/// Pairs that a connection left and remembers; of more the oldest is forgotten. Two providers at
/// each end make three.
const PAIRS_MAX: usize = 4;

/// ACKs of data that arrived so long ago are sent again when they may be lost with a pair; of what is
/// older the peer has sent several segments again meanwhile.
const ACKS_REPEATED_FOR: Duration = Duration::from_secs(10);

/// Progress is told this often at most, however short the round trip: a millisecond.
const PROGRESS_EVERY_MIN_NS: u64 = 1_000_000;

type Pair = (IpAddr, IpAddr);

/// What a connection knows of a pair of locators.
#[derive(Debug)]
struct PathState {
    rtt: Rtt,
    cc: Algorithm,
    path: PathMtu,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Pairs {
    on: bool,
    /// By local and remote ULID.
    of: HashMap<Pair, BTreeSet<u32>, Key>,
    left: HashMap<u32, SmallVec<[(Pair, PathState); 1]>, Key>,
    /// Pairs of ULIDs, and their flow if it is one, whose packets on the way were lost: SYN-ACKs
    /// among them are to be sent again.
    lost: Vec<(Pair, Option<PathFlow>)>,
}

/// How the path layer calls a connection between its ULIDs.
pub(super) fn flow_of(key: &FlowKey) -> PathFlow {
    PathFlow { protocol: protocol::TCP, ports: (key.local_port, key.peer_port) }
}

impl Pairs {
    pub(super) fn new(key: Key) -> Pairs {
        Pairs {
            on: false,
            of: HashMap::with_hasher(key),
            left: HashMap::with_hasher(key),
            lost: Vec::new(),
        }
    }

    /// A connection is in the slab.
    #[inline]
    pub(super) fn insert(&mut self, key: &FlowKey, index: u32) {
        if self.on {
            self.of.entry((key.local, key.peer)).or_default().insert(index);
        }
    }

    /// It is not any longer.
    #[inline]
    pub(super) fn remove(&mut self, key: &FlowKey, index: u32) {
        if !self.on {
            return;
        }
        self.left.remove(&index);
        let pair = (key.local, key.peer);
        if let Some(all) = self.of.get_mut(&pair) {
            all.remove(&index);
            if all.is_empty() {
                self.of.remove(&pair);
            }
        }
    }

    /// Puts the state of the pair that is left away and gives that of the other, if it is known.
    fn exchange(
        &mut self,
        index: u32,
        (from, to): (Pair, Pair),
        state: PathState,
    ) -> Option<PathState> {
        let left = self.left.entry(index).or_default();
        left.retain(|(pair, _)| *pair != from);
        let known = left.iter().position(|(pair, _)| *pair == to).map(|at| left.remove(at).1);
        if left.len() >= PAIRS_MAX {
            left.remove(0);
        }
        left.push((from, state));
        known
    }
}

/// Whether a switch of these packets is one of this connection's.
fn is_concerned<P: PathLayer>(lower: &Lower<'_, P>, flow: Option<PathFlow>, key: &FlowKey) -> bool {
    match flow {
        Some(flow) => flow == flow_of(key),
        None => !lower.path.is_apart(key.local, key.peer, flow_of(key)),
    }
}

impl Tcp {
    /// The path layer maps packets from now on, or no longer.
    pub(crate) fn track_pairs(&mut self, on: bool) {
        self.pairs.on = on;
        self.pairs.of.clear();
        self.pairs.left.clear();
        for (index, c) in &self.connections {
            self.pairs.insert(&c.key, index as u32);
        }
    }

    /// Whether there are connections between two ULIDs.
    pub(crate) fn connects(&self, local: IpAddr, peer: IpAddr) -> bool {
        self.pairs.of.contains_key(&(local, peer))
    }

    /// Packets between two ULIDs take another pair of locators. The cost grows with the number of
    /// connections between them.
    pub(crate) fn path_switched<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        event: &PathEvent,
    ) {
        let PathEvent::Switched { flow, src, dst, from, to, lost, rtt } = *event else { return };
        if lost && self.half_open.len() > 0 {
            self.pairs.lost.push(((src, dst), flow));
        }
        let Some(all) = self.pairs.of.get(&(src, dst)) else { return };
        let all: Vec<u32> = all.iter().copied().collect();
        for index in all {
            let Some(c) = self.connections.get_mut(index as usize) else { continue };
            let closed = matches!(c.state, TcpState::Closed | TcpState::TimeWait);
            if closed || !is_concerned(lower, flow, &c.key) {
                continue;
            }
            let mut cx =
                Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
            let state = c.path_state(rtt);
            let state = self.pairs.exchange(index, (from, to), state);
            c.switch_path(&mut cx, state, lost);
            self.settle(lower, index);
        }
    }

    /// Sends the SYN-ACKs again that were lost with the pairs of locators they went by; once for all
    /// events of a turn, since the cost grows with the number of half-open connections.
    #[inline(never)]
    pub(crate) fn answer_again<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) {
        if self.pairs.lost.is_empty() {
            return;
        }
        let mut lost = mem::take(&mut self.pairs.lost);
        lost.sort_unstable_by_key(|(pair, _)| *pair);
        let waits = |key: &FlowKey| {
            let pair = (key.local, key.peer);
            let from = lost.partition_point(|(other, _)| *other < pair);
            let mut same = lost[from..].iter().take_while(|(other, _)| *other == pair);
            same.any(|(_, flow)| is_concerned(lower, *flow, key))
        };
        let slots: Vec<u32> = self
            .half_open
            .iter()
            .filter(|(_, request)| !request.acked && waits(&request.key))
            .map(|(slot, _)| slot)
            .collect();
        for slot in slots {
            if let Some(request) = self.half_open.get_mut(slot) {
                // The round trip is that of the answer that arrives.
                request.sent_at = lower.ctx.now;
            }
            self.repeat_syn_ack(lower, slot);
        }
    }
}

/// Data of a connection was acknowledged.
#[inline]
pub(super) fn advise_progress<P: PathLayer>(lower: &mut Lower<'_, P>, c: &mut Connection) {
    if lower.ctx.now >= c.notes.progress_told_at.after_nanos(PROGRESS_EVERY_MIN_NS) {
        advise_progress_again(lower, c);
    }
}

#[inline(never)]
fn advise_progress_again<P: PathLayer>(lower: &mut Lower<'_, P>, c: &mut Connection) {
    let now = lower.ctx.now;
    let least = Duration::from_nanos(PROGRESS_EVERY_MIN_NS);
    let every = c.rtt.srtt().unwrap_or_default().max(least);
    if now.saturating_since(c.notes.progress_told_at) >= every {
        c.notes.progress_told_at = now;
        lower.path.advise(now, c.key.local, c.key.peer, Advice::Progress);
    }
}

impl Connection {
    /// Takes the state of the path out; what stands there then begins with a measured round trip.
    fn path_state(&mut self, rtt: Option<Duration>) -> PathState {
        let mss = self.mss_full();
        let mut fresh = Rtt::new(self.settings.rto_min);
        if let Some(rtt) = rtt {
            fresh.sample(rtt, 1);
        }
        let cc = Algorithm::new(self.settings.congestion, mss, self.cc_seed());
        let path = PathMtu::new(self.path.mtu);
        PathState {
            rtt: mem::replace(&mut self.rtt, fresh),
            cc: mem::replace(&mut self.cc, cc),
            path: mem::replace(&mut self.path, path),
        }
    }

    /// Takes another path: what was in flight is sent again if it is lost, the first of it at once,
    /// without a sign of congestion, since none is known of this path. What was received is
    /// acknowledged once more: with the pair the last ACK may be lost, and a peer whose data came in
    /// other ways would wait for its timeout.
    fn switch_path(&mut self, cx: &mut Cx<'_>, state: Option<PathState>, lost: bool) {
        if let Some(state) = state {
            (self.rtt, self.cc, self.path) = (state.rtt, state.cc, state.path);
            let mss = self.mss_full();
            self.cc.set_mss(mss);
        }
        cx.stats.path_switches += 1;
        let lost = lost || self.rtx_count > 0 || self.recovery.phase == Phase::Timeout;
        self.rtt.end_backoff();
        (self.rtx_count, self.persist_count) = (0, 0);
        self.notes.progress_told_at = Instant::ZERO;
        self.notes.switched_at = cx.now;
        self.pacer = Pacer::default();
        self.rack = self.rack.on_another_path();
        if !self.is_synchronised() {
            self.syn_pending |= lost;
            self.rtx_at = Some(cx.now + self.rtt.rto());
            return;
        }
        if let Some(sent) = self.sent.existing() {
            sent.recent.probe.forget();
        }
        let r = &mut self.recovery;
        r.episode = None;
        if r.phase != Phase::Open {
            // What is lost still is sent again; a new window has nothing to answer for it.
            (r.phase, r.recover, r.dupacks) = (Phase::Resegment, self.snd_nxt, 0);
        }
        if lost {
            self.recovery.phase = Phase::Open;
            self.resegment(cx.now);
            self.ack_now |= self.has_received_within(cx.now, ACKS_REPEATED_FOR);
        }
        self.rtx_at = (self.flight() > 0).then(|| cx.now + self.rtt.rto());
        self.schedule_probe(cx.now);
        if self.persist_at.is_some() {
            self.persist_at = Some(cx.now);
        }
    }
}
