//! Peers that are not asked for a while: they did not answer, or do not know the protocol
//! (RFC 5533 7.8).

use std::collections::VecDeque;

use core::net::IpAddr;

use hashbrown::HashMap;
use weft_stack::rng::Key;
use weft_stack::time::{Duration, Instant, earlier};

use crate::config::ShimConfig;
use crate::context::env::Env;
use crate::context::table::State;

/// Hold-downs by ULID of the peer.
#[derive(Debug)]
pub(super) struct Holds {
    peers: HashMap<IpAddr, (State, Instant), Key>,
    /// In the order in which they end.
    failed: VecDeque<(Instant, IpAddr)>,
    unsupported: VecDeque<(Instant, IpAddr)>,
    failed_for: Duration,
    unsupported_for: Duration,
}

impl Holds {
    pub(super) fn new(config: &ShimConfig, key: Key) -> Holds {
        Holds {
            peers: HashMap::with_hasher(key),
            failed: VecDeque::new(),
            unsupported: VecDeque::new(),
            failed_for: config.timers.no_r1_hold,
            unsupported_for: config.timers.icmp_hold,
        }
    }

    /// E-FAILED, NO-SUPPORT or IDLE.
    pub(super) fn state(&self, now: Instant, peer: IpAddr) -> State {
        match self.peers.get(&peer) {
            Some(&(state, until)) if now < until => state,
            _ => State::Idle,
        }
    }

    pub(super) fn hold(&mut self, env: &mut Env, now: Instant, peer: IpAddr, state: State) {
        let failed = state == State::EFailed;
        let until = now + if failed { self.failed_for } else { self.unsupported_for };
        let queue = if failed { &mut self.failed } else { &mut self.unsupported };
        queue.push_back((until, peer));
        self.peers.insert(peer, (state, until));
        // The one that ends first goes; of two queues this is the longer.
        while self.failed.len() + self.unsupported.len() > env.config.bounds.holds_max {
            let longer = self.failed.len() >= self.unsupported.len();
            let queue = if longer { &mut self.failed } else { &mut self.unsupported };
            let Some(entry) = queue.pop_front() else { break };
            self.forget(entry);
            env.stats.holds_forgotten += 1;
        }
    }

    fn forget(&mut self, (until, peer): (Instant, IpAddr)) {
        // A later hold-down of the same peer stays.
        if self.peers.get(&peer).is_some_and(|(_, u)| *u == until) {
            self.peers.remove(&peer);
        }
    }

    /// The peer spoke.
    pub(super) fn release(&mut self, peer: IpAddr) {
        self.peers.remove(&peer);
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let due = |q: &mut VecDeque<(Instant, IpAddr)>| {
            let due = q.front().is_some_and(|(until, _)| *until <= now);
            if due { q.pop_front() } else { None }
        };
        while let Some(entry) = due(&mut self.failed).or_else(|| due(&mut self.unsupported)) {
            self.forget(entry);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let first = |q: &VecDeque<(Instant, IpAddr)>| q.front().map(|(at, _)| *at);
        earlier(first(&self.failed), first(&self.unsupported))
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }
}
