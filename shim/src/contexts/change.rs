//! What may change while contexts live, and what becomes of them then.

use core::net::IpAddr;

use weft_stack::rng::Key;
use weft_stack::time::Instant;

use super::Contexts;
use crate::config::ShimConfig;
use crate::encap::{Encap, EncapConfig};
use crate::locator::{Locator, Pair};
use crate::reap::ReapConfig;
use crate::trust::Trust;

impl Contexts {
    /// When contexts are set up, how many there may be, what ICMP does: from now on. More contexts
    /// than there may be stay until they end. Timers and rates stay as they were.
    pub fn set_config(&mut self, config: &ShimConfig) {
        let env = &mut self.env.config;
        env.set_up = config.set_up.clone();
        env.bounds.contexts_max = config.bounds.contexts_max;
        env.bounds.contexts_per_prefix_max = config.bounds.contexts_per_prefix_max;
        env.bounds.initiating_max = config.bounds.initiating_max;
        env.deliver_icmp = config.deliver_icmp;
        self.flows.set_config(&config.set_up);
        self.passes.revise();
    }

    /// How failures are found, for contexts that are set up from now on: peers of the others were
    /// told the timeouts they were set up with. The policy is that of all at once.
    pub fn set_reap(&mut self, config: ReapConfig) {
        self.env.reap = config;
        for (_, context) in &mut self.slots {
            if let Some(reap) = &mut context.reap {
                reap.set_policy(config.policy);
            }
        }
    }

    /// Other proofs are taken and given. Locators of peers that were proved by a method which is not
    /// taken any longer are locators no longer; the others stay, by whatever key they were proved.
    /// Peers get ours with the next list ([`Contexts::set_own`]).
    pub fn set_trust(&mut self, now: Instant, trust: Box<dyn Trust>) {
        self.env.trust = trust;
        self.env.now = now;
        let ids: Vec<u32> = self.slots.iter().map(|(id, _)| id as u32).collect();
        for id in ids {
            if self.slots[id as usize].revoke(&mut self.env, now) {
                self.settle(id, now);
            }
        }
    }

    /// Gives the shim a UDP port: for IPv4 locators, for locators with ports, behind NATs; or takes
    /// it. With another port, contexts begin anew with what the lists of their peers say; that before
    /// is taken for another minute, until every peer knows.
    pub fn set_encap(&mut self, now: Instant, config: Option<EncapConfig>) {
        match (&mut self.env.encap, config) {
            (Some(encap), Some(config)) if encap.own_port() == config.port => {
                return encap.set_config(config);
            }
            (None, None) => return,
            _ => {}
        }
        let key = Key::generate(&mut self.env.rng);
        let old = self.env.encap.take();
        self.env.encap = config.map(|config| {
            let new = Encap::new(config, key);
            if let Some(old) = &old { new.replaces(now, old) } else { new }
        });
        for (_, context) in &mut self.slots {
            context.forget_ports();
            context.learn_ports(&mut self.env);
        }
        self.own_changed(now);
    }

    /// The locators of a peer that contexts with it have proved and that it does not call broken;
    /// none that are reached by UDP only.
    pub fn locators_of_peer(&self, peer: IpAddr) -> Vec<IpAddr> {
        let mut found: Vec<&Locator> = Vec::new();
        for ulid in self.own_ulids.keys() {
            let ulids = Pair::new(*ulid, peer);
            let Some(&id) = self.by_ulids.get(&(ulids, 0)) else { continue };
            let usable =
                |l: &&Locator| !l.preference.is_broken() && l.port.is_none() && l.addr != peer;
            found.extend(self.slots[id as usize].peer.locators.iter().filter(usable));
        }
        found.sort_by_key(|l| (l.preference.priority, l.addr));
        found.dedup_by_key(|l| l.addr);
        found.into_iter().map(|l| l.addr).collect()
    }
}
